"""Stories of issuing a code: what is answered, what is stored, what is announced, what repeats do."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from services.chassis.errors import Kind
from services.chassis.keyring import Key, Keyring
from services.otp.actions.issue import Issued, QuotaExceeded, UnknownPurpose
from services.otp.ports import IdempotencyKeyReused, Part
from services.otp.rules.challenge import KEPT_AFTER_END, State
from services.otp.rules.policy import AdviceKind, Policy
from services.otp.rules.verdict import Accepted
from tests.fakes.otp import CLAIM_LIFE, PURPOSE, ring
from tests.unit.otp.desk import REQUEST, Desk

COOLDOWN_S = PURPOSE.cooldowns[0].total_seconds()
END_S = PURPOSE.challenge_life.total_seconds()


def _advised(issued: Issued) -> AdviceKind | None:
    return issued.challenge.advice.kind if issued.challenge.advice else None


async def test_a_request_stores_a_challenge_and_announces_its_letter() -> None:
    desk = Desk()

    issued = await desk.ask()

    stored = desk.stored(issued)
    assert (issued.outcome, issued.joined) == ("queued", False)
    assert desk.events.published == [f"{stored.id}.1"]
    assert desk.store.outbox() == []
    assert (stored.locale, stored.purpose, stored.newest.code_kid) == ("en", PURPOSE.name, "c1")
    assert desk.mint.part(stored) == Part(REQUEST.email, REQUEST.context, decoy=False)
    assert (issued.challenge.state, _advised(issued)) == (State.OPEN, AdviceKind.WAIT)
    assert issued.challenge.attempts_left == PURPOSE.attempts_per_handle


async def test_the_handle_opens_the_challenge_and_its_secret_is_stored_nowhere() -> None:
    desk = Desk()

    issued = await desk.ask()

    challenge_id, _, secret = issued.handle.partition(".")
    assert challenge_id == issued.challenge.id
    assert len(secret) == 64
    assert secret not in repr(desk.stored(issued))
    assert bytes.fromhex(secret) not in {handle.secret_sha256 for handle in desk.stored(issued).handles}
    assert await desk.get("portal", issued.handle) == issued.challenge


async def test_nothing_stored_in_clear_names_the_citizen_or_the_code() -> None:
    desk = Desk()

    issued = await desk.ask()

    record = repr(desk.stored(issued))
    for secret in (REQUEST.email, REQUEST.subject, REQUEST.context, desk.code_of(issued), REQUEST.idempotency_key):
        assert secret not in record


async def test_without_a_language_the_policys_is_taken() -> None:
    desk = Desk()

    issued = await desk.ask(locale="")

    assert desk.stored(issued).locale == PURPOSE.default_locale


async def test_a_decoy_looks_the_same_to_the_caller_and_is_sealed_as_a_decoy() -> None:
    desk, twin = Desk(), Desk()

    decoy, real = await desk.ask(decoy=True), await twin.ask()

    assert desk.mint.part(desk.stored(decoy)).decoy
    assert len(decoy.handle) == len(real.handle)
    assert replace(decoy.challenge, id="", letters=()) == replace(real.challenge, id="", letters=())


async def test_a_repeat_with_the_same_key_gets_the_same_handle_and_sends_nothing() -> None:
    desk = Desk()
    first = await desk.ask()

    again = await desk.later(3).ask()

    assert again.handle == first.handle
    assert (again.outcome, again.joined) == ("repeated", False)
    assert len(desk.events.published) == 1
    assert len(desk.stored(first).handles) == 1


async def test_a_repeat_on_another_replica_gets_the_same_handle() -> None:
    desk = Desk()
    first = await desk.ask()

    again = await Desk(store=desk.store).ask()

    assert again.handle == first.handle


async def test_a_repeat_after_the_handle_key_was_rolled_gets_the_same_handle() -> None:
    desk = Desk()
    first = await desk.ask()
    old, new = ring("h1", 2).named("h1"), Key("h2", bytes(32), not_before=desk.clock())
    rolled = Desk(store=desk.store, handle_keys=Keyring([old, new]))

    again = await rolled.ask()
    fresh = await rolled.ask("key-2")

    assert again.handle == first.handle
    assert fresh.joined
    assert await rolled.get("portal", fresh.handle) is not None


async def test_a_repeat_shows_the_challenge_as_it_is_by_then() -> None:
    desk = Desk()
    first = await desk.ask()
    await desk.later(2).hand_over(first)

    typed = await desk.later(1).ask()
    searched = await desk.later(60).ask()
    ended = await desk.later(END_S).ask()

    assert [_advised(seen) for seen in (typed, searched)] == [AdviceKind.TYPE_IT, AdviceKind.CHECK_SPAM]
    assert [seen.challenge.state for seen in (typed, searched, ended)] == [State.OPEN, State.OPEN, State.ENDED]


@pytest.mark.parametrize(
    "changes",
    [
        {"subject": "citizen-8"},
        {"email": "minh@example.vn"},
        {"locale": "vi"},
        {"context": "another"},
        {"decoy": True},
    ],
    ids=lambda changes: next(iter(changes)),
)
async def test_the_same_key_with_another_body_is_refused_and_changes_nothing(changes: dict[str, object]) -> None:
    desk = Desk()
    first = await desk.ask()

    with pytest.raises(IdempotencyKeyReused) as refusal:
        await desk.ask("key-1", **changes)

    assert (refusal.value.kind, refusal.value.reason) == (Kind.CONFLICT, "IDEMPOTENCY_KEY_REUSED")
    assert desk.store.challenges() == [desk.stored(first)]
    assert len(desk.events.published) == 1


async def test_the_same_key_of_another_caller_is_another_key() -> None:
    desk = Desk()
    first = await desk.ask()

    other = await desk.ask(caller="clinic", subject="citizen-8")

    assert other.outcome == "queued"
    assert other.challenge.id != first.challenge.id


async def test_the_same_wish_with_a_new_key_joins_with_a_handle_of_its_own() -> None:
    desk = Desk()
    first = await desk.ask("key-1")

    second = await desk.later(5).ask("key-2")

    assert (second.outcome, second.joined) == ("joined", True)
    assert second.challenge.id == first.challenge.id
    assert second.handle != first.handle
    assert len(desk.events.published) == 1
    assert await desk.type_in(second.handle, desk.code_of(first)) == Accepted(desk.clock(), REQUEST.context)


async def test_a_repeat_of_a_join_says_joined_again_with_the_same_handle() -> None:
    desk = Desk()
    await desk.ask("key-1")
    joined = await desk.ask("key-2")

    again = await desk.later(3).ask("key-2")

    assert (again.handle, again.joined, again.outcome) == (joined.handle, True, "repeated")


async def test_who_asks_again_after_the_cooldown_gets_a_second_letter_of_the_same_challenge() -> None:
    desk = Desk()
    first = await desk.ask("key-1")
    await desk.hand_over(first)

    second = await desk.later(COOLDOWN_S).ask("key-2")

    assert (second.outcome, second.joined, second.challenge.id) == ("queued", False, first.challenge.id)
    assert desk.events.published == [f"{first.challenge.id}.1", f"{first.challenge.id}.2"]
    assert desk.code_of(second, 1) != desk.code_of(second, 2)
    again = await desk.ask("key-2")
    assert (again.handle, again.joined) == (second.handle, False)


async def test_who_asks_again_too_soon_is_told_when_in_both_languages() -> None:
    desk = Desk()
    await desk.hand_over(await desk.ask("key-1"))

    with pytest.raises(QuotaExceeded) as refusal:
        await desk.later(10).ask("key-2")

    assert (refusal.value.kind, refusal.value.reason) == (Kind.EXHAUSTED, "QUOTA_EXCEEDED")
    assert refusal.value.retry_after == PURPOSE.cooldowns[0] - timedelta(seconds=10)
    assert "41 giây" in refusal.value.words.vi
    assert "41 seconds" in refusal.value.words.en


async def test_a_key_that_was_refused_too_soon_works_when_the_time_has_come() -> None:
    desk = Desk()
    first = await desk.ask("key-1")
    await desk.hand_over(first)
    with pytest.raises(QuotaExceeded):
        await desk.ask("key-2")

    second = await desk.later(COOLDOWN_S).ask("key-2")

    assert (second.outcome, second.challenge.id) == ("queued", first.challenge.id)


async def test_two_subjects_do_not_wait_for_each_other() -> None:
    desk = Desk()
    await desk.hand_over(await desk.ask("key-1", subject="citizen-7"))

    other = await desk.ask("key-2", subject="citizen-8")

    assert other.outcome == "queued"


async def test_a_purpose_that_is_not_in_the_policy_is_refused_and_claims_nothing() -> None:
    desk = Desk(policy=Policy({}))

    with pytest.raises(UnknownPurpose) as refusal:
        await desk.ask()

    assert (refusal.value.kind, refusal.value.reason) == (Kind.INVALID, "UNKNOWN_PURPOSE")
    assert refusal.value.metadata == {"purpose": PURPOSE.name}
    assert desk.store.calls == []


async def test_many_clicks_at_once_make_one_letter() -> None:
    desk = Desk()

    answers = await asyncio.gather(*(desk.ask(f"key-{n}") for n in range(50)), return_exceptions=True)

    issued = [answer for answer in answers if not isinstance(answer, BaseException)]
    refused = [answer for answer in answers if isinstance(answer, BaseException)]
    assert sorted(answer.outcome for answer in issued) == ["joined"] * 3 + ["queued"]
    assert len({answer.handle for answer in issued}) == 4
    assert {type(answer) for answer in refused} == {QuotaExceeded}
    assert len(desk.events.published) == 1


async def test_one_request_sent_many_times_at_once_is_one_request() -> None:
    desk = Desk()

    answers = await asyncio.gather(*(desk.ask("key-1") for _ in range(50)))

    assert len({answer.handle for answer in answers}) == 1
    assert sorted(answer.outcome for answer in answers) == ["queued"] + ["repeated"] * 49
    assert len(desk.events.published) == 1


async def test_a_key_whose_challenge_is_long_gone_does_not_bring_its_codes_back_to_life() -> None:
    desk = Desk()
    first = await desk.ask()
    await desk.hand_over(first)
    code = desk.code_of(first)
    assert isinstance(await desk.type_in(first.handle, code), Accepted)
    desk.later(END_S + KEPT_AFTER_END.total_seconds() + 1)

    with pytest.raises(IdempotencyKeyReused, match="ended long ago"):
        await desk.ask()

    assert not isinstance(await desk.type_in(first.handle, code), Accepted)
    assert len(desk.events.published) == 1


async def test_after_24_hours_a_key_is_new_again() -> None:
    desk = Desk()
    first = await desk.ask()

    again = await desk.later(CLAIM_LIFE.total_seconds()).ask()

    assert again.outcome == "queued"
    assert again.challenge.id != first.challenge.id
