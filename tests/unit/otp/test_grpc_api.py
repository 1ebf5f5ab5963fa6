"""The API over the verbs, called in-process: message ↔ domain, and what is counted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

import pytest
from kip.otp.v1 import otp_service_pb2 as pb

from services.chassis.grpc_callers import NotAllowed, calling_as
from services.chassis.grpc_fields import InvalidField
from services.otp.actions.issue import QuotaExceeded, UnknownPurpose
from services.otp.actions.resend import ResendOutcome
from services.otp.inbound.grpc_api import ADVICE, CAUSES, FATES, RESENDS, STALLS, STATES
from services.otp.metrics import RESEND_OUTCOMES, VERDICTS
from services.otp.rules.challenge import Stall, State
from services.otp.rules.generation import Cause, Fate
from services.otp.rules.policy import AdviceKind
from services.otp.rules.quota import Dimension, Limit, Limits
from services.otp.rules.refusal import LimitReached
from services.otp.rules.verdict import Accepted, Expired, Locked, Unknown, Used, Verdict, Wrong
from tests.fakes.clock import NOON
from tests.fakes.otp import POLICY, PURPOSE
from tests.unit.otp.desk import NO_HANDLE, REQUEST
from tests.unit.otp.made_up import after
from tests.unit.otp.office import Office, fields_told, instant

LONG = "x" * 10_000
LONGEST_IP = "0000:0000:0000:0000:0000:ffff:255.255.255.255"  # RFC 4291 §2.2, form 3


@pytest.fixture(autouse=True)
def _portal_calls() -> Iterator[None]:
    """Stand in for the gate, which names the caller of each call."""
    with calling_as("portal"):
        yield


async def test_a_request_answers_with_a_handle_and_the_challenge() -> None:
    office = Office()

    answer = await office.request()

    seen = answer.challenge
    assert answer.handle.startswith(f"{seen.challenge_id}.")
    assert not answer.joined
    assert (seen.purpose, seen.state, seen.version) == (PURPOSE.name, pb.CHALLENGE_STATE_OPEN, 256)
    assert (seen.code_length, seen.attempts_left) == (6, PURPOSE.attempts_per_handle)
    assert instant(seen.ends_at) == NOON + PURPOSE.challenge_life
    assert not seen.HasField("verified_at")
    (letter,) = seen.letters
    assert (letter.fate, letter.cause, len(letter.reference)) == (
        pb.LETTER_FATE_QUEUED,
        pb.LETTER_CAUSE_REQUESTED,
        5,
    )
    assert instant(letter.queued_at) == NOON
    assert not letter.HasField("handed_over_at")
    assert not letter.HasField("delivered_at")
    assert not letter.HasField("place")
    assert not letter.HasField("expected_at")
    assert instant(letter.wanted_until) == NOON + PURPOSE.deadline
    assert seen.stalled == pb.STALL_REASON_UNSPECIFIED
    assert not seen.advice.HasField("hotline")
    assert (seen.advice.kind, instant(seen.advice.until)) == (pb.ADVICE_KIND_WAIT, NOON + PURPOSE.deadline)
    assert dict(seen.advice.text) == {"vi": "wait (tiếng Việt)", "en": "wait (English)"}


async def test_what_was_asked_is_what_is_stored() -> None:
    office = Office()

    await office.request(decoy=True)

    (known,) = office.desk.store.challenges()
    part = office.desk.mint.part(known)
    assert (part.email, part.context, part.decoy) == (REQUEST.email, REQUEST.context, True)
    assert (known.locale, known.handles[0].caller) == ("en", "portal")


async def test_requests_are_counted_by_what_became_of_them() -> None:
    office = Office()
    queued = await office.request(idempotency_key="a")
    joined = await office.request(idempotency_key="b")
    await office.request(idempotency_key="a")
    await office.desk.hand_over(queued.challenge.challenge_id)
    with pytest.raises(QuotaExceeded):
        await office.request(idempotency_key="c")
    with pytest.raises(UnknownPurpose):
        await office.request(idempotency_key="d", purpose="another")

    counts = {
        outcome: office.count("otp_requests_total", purpose=PURPOSE.name, outcome=outcome)
        for outcome in ("queued", "joined", "repeated", "too_soon")
    }

    assert joined.joined
    assert counts == {"queued": 1, "joined": 1, "repeated": 1, "too_soon": 1}


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"idempotency_key": ""}, ["idempotency_key"]),
        ({"idempotency_key": "x" * 129}, ["idempotency_key"]),
        ({"purpose": "x" * 33}, ["purpose"]),
        ({"subject": ""}, ["subject"]),
        ({"subject": "x" * 129}, ["subject"]),
        ({"email": "lan"}, ["email"]),
        ({"locale": "fr"}, ["locale"]),
        ({"context": "x" * 201}, ["context"]),
        ({"context": "a\nb"}, ["context"]),
        ({"client": pb.Client(ip=f"{LONGEST_IP}0")}, ["client.ip"]),
        ({"client": pb.Client(ip="10.0.0.256")}, ["client.ip"]),
        ({"client": pb.Client(device_id="x" * 129)}, ["client.device_id"]),
        (
            {"idempotency_key": "", "purpose": "", "subject": "", "email": "", "locale": LONG, "context": LONG},
            ["idempotency_key", "purpose", "subject", "email", "locale", "context"],
        ),
    ],
    ids=lambda value: ascii(value)[:40],
)
async def test_bad_fields_are_all_named_in_both_languages_and_nothing_is_stored(
    changes: dict[str, Any], fields: list[str]
) -> None:
    office = Office()

    with pytest.raises(InvalidField) as refusal:
        await office.request(**changes)

    assert fields_told(refusal.value) == fields
    assert office.desk.store.calls == []


@pytest.mark.parametrize("locale", ["", "vi", "en"])
async def test_what_lies_on_a_limit_is_taken(locale: str) -> None:
    answer = await Office().request(
        idempotency_key="x" * 128, subject="y" * 128, context="ạ" * 200, locale=locale, client=pb.Client(ip=LONGEST_IP)
    )

    assert answer.handle


async def test_a_caller_asks_for_codes_of_its_own_purposes_only() -> None:
    office = Office()

    with calling_as("portal", purposes=["login"]), pytest.raises(NotAllowed) as refusal:
        await office.request()

    assert refusal.value.metadata == {"purpose": PURPOSE.name}
    assert office.desk.store.calls == []
    with calling_as("portal", purposes=[PURPOSE.name]):
        assert (await office.request()).handle


async def test_a_limit_that_is_reached_is_counted_by_what_it_counts_for_requests_and_clicks() -> None:
    limits = Limits({Dimension.ADDRESS: Limit(1, timedelta(days=1))})
    office = Office(replace(POLICY, limits=limits))
    first = await office.request(idempotency_key="a")
    await office.desk.hand_over(first.challenge.challenge_id)
    office.desk.later(PURPOSE.cooldowns[0].total_seconds())

    with pytest.raises(LimitReached):
        await office.request(idempotency_key="b", subject="another")
    with pytest.raises(LimitReached):
        await office.resend(first.handle)

    assert office.count("otp_limits_reached_total", limit="address") == 2
    assert office.count("otp_limits_reached_total", limit="client") == 0
    assert office.count("otp_requests_total", purpose=PURPOSE.name, outcome="limit_reached") == 1
    assert office.count("otp_requests_total", purpose=PURPOSE.name, outcome="too_soon") == 0


async def _verdicts(office: Office) -> list[pb.VerifyCodeResponse]:
    """Every outcome there is, one after the other."""
    answer = await office.request()
    challenge_id = answer.challenge.challenge_id
    right, wrong = office.desk.code_of(challenge_id), office.desk.wrong_code(challenge_id)
    old = await office.request(idempotency_key="key-2", subject="citizen-8")
    await office.desk.hand_over(old.challenge.challenge_id)
    old_code = office.desk.code_of(old.challenge.challenge_id)
    typed = [(answer.handle, wrong), (answer.handle, right), (answer.handle, right), (NO_HANDLE, right)]
    verdicts = [await office.verify(handle, code) for handle, code in typed]
    office.desk.later(PURPOSE.life.total_seconds() + 1)
    verdicts.append(await office.verify(old.handle, old_code))
    for _ in range(2):
        await office.verify(answer.handle, wrong)
    return [*verdicts, await office.verify(answer.handle, right)]


async def test_each_verdict_is_its_own_outcome() -> None:
    office = Office()

    wrong, accepted, used, unknown, expired, locked = await _verdicts(office)

    assert wrong == pb.VerifyCodeResponse(wrong=pb.Wrong(attempts_left=2))
    assert accepted.WhichOneof("outcome") == "accepted"
    assert (instant(accepted.accepted.verified_at), accepted.accepted.context) == (NOON, REQUEST.context)
    assert used == pb.VerifyCodeResponse(used=pb.Used())
    ask_anew = pb.Advice(kind=pb.ADVICE_KIND_ASK_AGAIN, text=PURPOSE.advice[AdviceKind.ASK_AGAIN])
    assert unknown == pb.VerifyCodeResponse(unknown=pb.Unknown(advice=ask_anew))
    assert (expired.WhichOneof("outcome"), expired.expired.reissued) == ("expired", True)
    assert expired.expired.reference in {known.newest.reference for known in office.desk.store.challenges()}
    assert locked.WhichOneof("outcome") == "locked"
    assert instant(locked.locked.retry_at) == office.desk.clock()


async def test_verdicts_are_counted() -> None:
    office = Office()

    await _verdicts(office)

    counts = {verdict: office.count("otp_verifications_total", result=verdict) for verdict in VERDICTS}
    assert counts == {"accepted": 1, "wrong": 3, "expired": 1, "locked": 1, "used": 1, "unknown": 1}


def test_every_outcome_of_a_click_has_a_name_on_the_metric() -> None:
    assert [outcome.value for outcome in ResendOutcome] == list(RESEND_OUTCOMES)


def test_every_verdict_has_a_name_on_the_metric() -> None:
    verdicts: list[Verdict] = [Accepted(NOON), Wrong(1), Expired(), Locked(NOON), Used(), Unknown()]

    assert {type(verdict).__name__.lower() for verdict in verdicts} == set(VERDICTS)


@pytest.mark.parametrize(
    ("handle", "code", "fields"),
    [
        ("", "", ["handle", "code"]),
        ("x" * 129, "123456", ["handle"]),
        (NO_HANDLE, "12345a", ["code"]),
        (NO_HANDLE, "1" * 65, ["code"]),
        (NO_HANDLE, LONG, ["code"]),
    ],
    ids=lambda value: ascii(value)[:40],
)
async def test_what_cannot_be_a_code_is_refused_before_it_costs_an_attempt(
    handle: str, code: str, fields: list[str]
) -> None:
    office = Office()

    with pytest.raises(InvalidField) as refusal:
        await office.verify(handle, code)

    assert fields_told(refusal.value) == fields
    assert office.desk.store.calls == []
    assert all(office.count("otp_verifications_total", result=verdict) == 0 for verdict in VERDICTS)


async def test_looking_shows_where_the_letter_is() -> None:
    office = Office()
    answer = await office.request()
    challenge_id = answer.challenge.challenge_id
    await office.desk.later(6).hand_over(challenge_id)
    await office.verify(answer.handle, office.desk.code_of(challenge_id))

    seen = (await office.get(answer.handle)).challenge

    assert seen.state == pb.CHALLENGE_STATE_VERIFIED
    assert instant(seen.verified_at) == after(6)
    assert seen.letters[0].fate == pb.LETTER_FATE_HANDED_OVER
    assert instant(seen.letters[0].handed_over_at) == after(6)
    assert instant(seen.letters[0].good_until) == after(6) + PURPOSE.life
    assert instant(seen.resend_allowed_at) == after(6) + PURPOSE.cooldowns[0]
    assert not seen.HasField("advice")


async def test_looking_with_an_unknown_handle_shows_no_challenge() -> None:
    assert not (await Office().get(NO_HANDLE)).HasField("challenge")


async def test_looking_without_a_handle_is_refused() -> None:
    with pytest.raises(InvalidField):
        await Office().get("")


@pytest.mark.parametrize(
    ("table", "ours"),
    [
        (STATES, State),
        (FATES, Fate),
        (CAUSES, Cause),
        (ADVICE, AdviceKind),
        (STALLS, Stall),
        (RESENDS, ResendOutcome),
    ],
    ids=lambda value: str(value)[:20],
)
def test_every_word_of_ours_has_its_own_word_on_the_wire(table: dict[Any, int], ours: type) -> None:
    assert list(table) == list(cast("Any", ours))
    assert len(set(table.values())) == len(table)
    assert 0 not in table.values()
