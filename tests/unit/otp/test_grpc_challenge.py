"""The API after the request: resend, repeat, cancel, watch, unlock; and all that a message tells of a challenge."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC
from typing import Any

import pytest
from kip.otp.v1 import otp_service_pb2 as pb
from structlog.testing import capture_logs

from services.chassis.errors import Kind
from services.chassis.grpc_callers import NotAllowed, calling_as
from services.chassis.grpc_fields import InvalidField
from services.otp.actions.issue import UnknownPurpose
from services.otp.inbound.grpc_api import UNLOCK
from services.otp.ports import IdempotencyKeyReused
from services.otp.rules.generation import Fate
from services.otp.rules.policy import REISSUES, SUBJECT_ROW, Policy
from tests.fakes.otp import PURPOSE
from tests.unit.otp.desk import NO_HANDLE, REQUEST
from tests.unit.otp.made_up import D_S, after
from tests.unit.otp.office import NO_CONTEXT, Office, fields_told, instant

COOLDOWN_S = PURPOSE.cooldowns[0].total_seconds()
END_S = PURPOSE.challenge_life.total_seconds()
LONG_CLIENT = pb.Client(ip="x" * 65, device_id="x" * 129)


@pytest.fixture(autouse=True)
def _portal_calls() -> Iterator[None]:
    """Stand in for the gate, which names the caller of each call."""
    with calling_as("portal"):
        yield


async def test_each_outcome_of_a_click_is_told_with_the_challenge_and_counted() -> None:
    office = Office()
    asked = await office.request()
    handle, challenge_id = asked.handle, asked.challenge.challenge_id

    waits = await office.resend(handle, "a")
    await office.desk.hand_over(challenge_id)
    too_soon = await office.resend(handle, "b")
    office.desk.later(COOLDOWN_S)
    queued = await office.resend(handle, "c")
    office.desk.later(END_S)
    over = await office.resend(handle, "d")

    answers = [waits, too_soon, queued, over]
    assert [answer.outcome for answer in answers] == [
        pb.RESEND_OUTCOME_STILL_QUEUED,
        pb.RESEND_OUTCOME_NOT_YET,
        pb.RESEND_OUTCOME_QUEUED,
        pb.RESEND_OUTCOME_NOT_OPEN,
    ]
    assert {answer.challenge.challenge_id for answer in answers} == {challenge_id}
    assert [len(answer.challenge.letters) for answer in answers] == [1, 1, 2, 2]
    assert queued.challenge.letters[0].cause == pb.LETTER_CAUSE_RESENT
    assert instant(too_soon.challenge.resend_allowed_at) == after(COOLDOWN_S)
    outcomes = ("still_queued", "not_yet", "queued", "not_open")
    assert [office.count("otp_resends_total", outcome=outcome) for outcome in outcomes] == [1, 1, 1, 1]


async def test_a_click_on_an_unknown_handle_shows_no_challenge() -> None:
    answer = await Office().resend(NO_HANDLE)

    assert answer == pb.ResendCodeResponse(outcome=pb.RESEND_OUTCOME_NOT_OPEN)


async def test_a_repeated_click_queues_no_other_letter() -> None:
    office = Office()
    asked = await office.request()
    await office.desk.hand_over(asked.challenge.challenge_id)
    office.desk.later(COOLDOWN_S)

    first, again = [await office.resend(asked.handle, "same") for _ in range(2)]

    assert again == first
    assert len(office.desk.events.published) == 2


async def test_a_repeated_entry_gets_the_same_answer_and_the_key_takes_no_other_code() -> None:
    office = Office()
    asked = await office.request()
    challenge_id = asked.challenge.challenge_id
    code = office.desk.code_of(challenge_id)

    first, again = [await office.verify(asked.handle, code, "entry-1") for _ in range(2)]
    with pytest.raises(IdempotencyKeyReused):
        await office.verify(asked.handle, office.desk.wrong_code(challenge_id), "entry-1")

    assert first.WhichOneof("outcome") == "accepted"
    assert again == first
    assert (await office.verify(asked.handle, code)).WhichOneof("outcome") == "used"


REFUSED: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "resend, nothing given": ("resend", {"handle": "", "key": ""}, ["handle", "idempotency_key"]),
    "resend, all too long": (
        "resend",
        {"handle": "x" * 129, "key": "x" * 129, "client": LONG_CLIENT},
        ["handle", "idempotency_key", "client.ip", "client.device_id"],
    ),
    "verify, all too long": (
        "verify",
        {"handle": "x" * 129, "code": "1" * 65, "key": "x" * 129, "client": LONG_CLIENT},
        ["handle", "code", "idempotency_key", "client.ip", "client.device_id"],
    ),
    "verify, control characters": (
        "verify",
        {"handle": NO_HANDLE, "code": "123456", "key": "a\x00"},
        ["idempotency_key"],
    ),
    "get": ("get", {"handle": "x" * 129}, ["handle"]),
    "cancel": ("cancel", {"handle": ""}, ["handle"]),
    "unlock, nothing given": ("unlock", {"purpose": "", "subject": "", "reason": ""}, ["purpose", "subject", "reason"]),
    "unlock, all too long": (
        "unlock",
        {"purpose": "x" * 33, "subject": "x" * 129, "reason": "x" * 201},
        ["purpose", "subject", "reason"],
    ),
    "unlock, a second line in the audit": ("unlock", {"reason": "phoned\nsubject_unlocked"}, ["reason"]),
}


@pytest.mark.parametrize(("rpc", "given", "fields"), REFUSED.values(), ids=REFUSED.keys())
async def test_bad_fields_are_all_named_in_both_languages_and_nothing_is_asked_of_the_store(
    rpc: str, given: dict[str, Any], fields: list[str]
) -> None:
    office = Office()

    with calling_as("helpdesk", [UNLOCK]), pytest.raises(InvalidField) as refusal:
        await getattr(office, rpc)(**given)

    assert fields_told(refusal.value) == fields
    assert office.desk.store.calls == []


async def test_a_handle_given_back_opens_nothing_and_is_counted_once() -> None:
    office = Office()
    asked = await office.request()

    answers = [await office.cancel(handle) for handle in (asked.handle, asked.handle, NO_HANDLE)]

    assert answers == [pb.CancelChallengeResponse()] * 3
    assert office.count("otp_cancels_total") == 1
    assert not (await office.get(asked.handle)).HasField("challenge")
    assert office.desk.events.published[1:] == [f"{asked.challenge.challenge_id}.1 withdrawn"]


async def _watched(office: Office, handle: str, after_version: int = 0) -> list[pb.Challenge]:
    request = pb.WatchChallengeRequest(handle=handle, after_version=after_version)
    return [message.challenge async for message in office.api.WatchChallenge(request, NO_CONTEXT)]


async def test_a_stream_tells_what_is_newer_and_ends_with_the_challenge() -> None:
    office = Office()
    asked = await office.request()
    await office.verify(asked.handle, office.desk.code_of(asked.challenge.challenge_id))

    missed = await _watched(office, asked.handle, asked.challenge.version)

    assert [challenge.state for challenge in missed] == [pb.CHALLENGE_STATE_VERIFIED]
    assert missed == [(await office.get(asked.handle)).challenge]
    assert await _watched(office, asked.handle, missed[0].version) == []


async def test_a_stream_that_is_left_hears_no_more() -> None:
    office = Office()
    asked = await office.request()
    stream = office.api.WatchChallenge(pb.WatchChallengeRequest(handle=asked.handle), NO_CONTEXT)
    shown = await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined] # it is a generator, as the server closes it

    assert shown.challenge == asked.challenge
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_a_stream_of_an_unknown_handle_ends_at_once_and_one_without_is_refused() -> None:
    office = Office()

    assert await _watched(office, NO_HANDLE) == []
    with pytest.raises(InvalidField):
        await _watched(office, "")


async def _locked(office: Office) -> pb.RequestCodeResponse:
    """A subject that failed ten times in a row."""
    asked = await office.request()
    known = office.desk.stored(asked.challenge.challenge_id)
    shard = office.desk.store.shard_of(known.id)
    assert shard is not None
    for _ in range(SUBJECT_ROW):
        subject = (await office.desk.store.load(shard, subject_key=known.subject_key)).subject
        assert subject is not None
        await office.desk.store.commit(shard, subject=subject.with_failure(office.desk.clock()))
    return asked


async def test_without_the_scope_nobody_unlocks_and_nothing_is_looked_at() -> None:
    office = Office()
    await _locked(office)
    office.desk.store.calls.clear()

    with pytest.raises(NotAllowed) as refusal:
        await office.unlock(reason="")

    assert (refusal.value.kind, refusal.value.reason) == (Kind.FORBIDDEN, "NOT_ALLOWED")
    assert refusal.value.metadata == {"scope": "unlock"}
    assert office.desk.store.calls == []


async def test_with_the_scope_a_lock_is_ended_once() -> None:
    office = Office()
    asked = await _locked(office)
    assert (await office.verify(asked.handle, "000000")).WhichOneof("outcome") == "locked"

    with calling_as("helpdesk", [UNLOCK]):
        answers = [(await office.unlock()).was_locked for _ in range(2)]

    assert answers == [True, False]
    assert (await office.verify(asked.handle, "000000")).WhichOneof("outcome") == "wrong"


async def test_an_unlock_is_audited_with_caller_and_reason_and_names_no_citizen() -> None:
    office = Office()
    await _locked(office)

    with capture_logs() as logs, calling_as("helpdesk", [UNLOCK]):
        await office.unlock(reason="phoned, ticket 12")

    (line,) = [log for log in logs if log["event"] == "subject_unlocked"]
    assert (line["event"], line["caller"], line["purpose"]) == ("subject_unlocked", "helpdesk", PURPOSE.name)
    assert (line["was_locked"], line["reason"]) == (True, "phoned, ticket 12")
    (known,) = office.desk.store.challenges()
    assert line["subject"] == known.subject_key
    assert REQUEST.subject not in json.dumps(line)


async def test_a_purpose_that_is_not_in_the_policy_has_no_locks() -> None:
    with calling_as("helpdesk", [UNLOCK]), pytest.raises(UnknownPurpose):
        await Office().unlock(purpose="another")


async def test_place_and_expected_time_are_told_also_when_nothing_is_in_front() -> None:
    office = Office()
    office.desk.queue.committed = {0: 0}

    (letter,) = (await office.request()).challenge.letters

    assert letter.HasField("place")
    assert letter.place == 0
    assert instant(letter.expected_at) == after(0)


async def _stalled(office: Office) -> pb.Challenge:
    asked = await office.request()
    for number in range(1, REISSUES + 2):
        await office.desk.hear(asked.challenge.challenge_id, Fate.DROPPED, number)
    return (await office.get(asked.handle)).challenge


async def test_a_stall_is_told_with_the_other_ways_and_the_hotline_as_it_is_now() -> None:
    assert PURPOSE.hotline is not None
    at_noon = replace(PURPOSE, hotline=replace(PURPOSE.hotline, zone=UTC))
    closed, opened = Office(), Office(Policy({PURPOSE.name: at_noon}))

    told = [await _stalled(office) for office in (closed, opened)]

    assert [seen.stalled for seen in told] == [pb.STALL_REASON_BUDGET] * 2
    assert [seen.advice.kind for seen in told] == [pb.ADVICE_KIND_OTHER_CHANNEL, pb.ADVICE_KIND_CALL]
    assert [seen.advice.hotline.open_now for seen in told] == [False, True]
    for seen in told:
        assert list(seen.advice.alternatives) == ["hotline", "counter"]
        assert (seen.advice.hotline.phone, set(seen.advice.hotline.hours)) == ("1900 0000", {"vi", "en"})
        assert not seen.advice.HasField("until")
        assert [letter.cause for letter in seen.letters] == [
            *[pb.LETTER_CAUSE_REISSUED] * REISSUES,
            pb.LETTER_CAUSE_REQUESTED,
        ]


async def test_a_join_is_told_until_when_the_letter_is_wanted_now() -> None:
    office = Office()
    await office.request()

    office.desk.later(100)
    joined = await office.request(idempotency_key="key-2")

    assert instant(joined.challenge.letters[0].wanted_until) == after(100 + D_S)
    assert joined.challenge.advice.until == joined.challenge.letters[0].wanted_until
