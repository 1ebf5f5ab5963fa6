"""Index keys roll without forgetting: what was named under an older key is found while that key is accepted."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from services.chassis.keyring import Key, Keyring, UnknownKey
from services.otp.actions.issue import QuotaExceeded
from services.otp.ports import IdempotencyKeyReused, StoreUnavailable
from services.otp.rules.policy import SUBJECT_ROW
from services.otp.rules.verdict import Locked
from tests.fakes.clock import NOON
from tests.fakes.otp import PURPOSE, InMemoryChallengeStore
from tests.unit.otp.desk import Desk
from tests.unit.otp.made_up import after

COOLDOWN_S = PURPOSE.cooldowns[0].total_seconds()
ROLL_S = 10
"""When the second key starts; a third one a minute later."""


def _key(number: int, not_before: datetime, until: datetime | None = None) -> Key:
    return Key(f"i{number}", bytes([number]) * 32, not_before, until)


def _ring(until: datetime | None = None) -> Keyring:
    """Return three keys, not in the order of their time; the first may end."""
    first = _key(1, NOON - timedelta(days=1), until)
    return Keyring([_key(3, after(ROLL_S + 60)), first, _key(2, after(ROLL_S))])


def _desk(store: InMemoryChallengeStore | None = None, until: datetime | None = None) -> Desk:
    return Desk(store=store, index_keys=_ring(until))


def test_a_ring_accepts_its_minting_key_first_and_then_all_others_newest_first() -> None:
    ring = _ring()

    accepted = [[key.kid for key in ring.accepting(after(second))] for second in (0, ROLL_S, ROLL_S + 60)]

    # One that has not started here may have started where a clock is ahead.
    assert accepted == [["i1", "i3", "i2"], ["i2", "i3", "i1"], ["i3", "i2", "i1"]]


def test_a_key_that_has_ended_is_accepted_no_more() -> None:
    ring = _ring(until=after(30))

    accepted = [[key.kid for key in ring.accepting(after(second))] for second in (29.999, 30)]

    assert accepted == [["i2", "i3", "i1"], ["i2", "i3"]]


def test_a_ring_that_mints_nothing_accepts_nothing() -> None:
    with pytest.raises(UnknownKey):
        Keyring([_key(1, after(1))]).accepting(NOON)


@pytest.mark.parametrize("rolls", [1, 2])
async def test_a_repeat_after_a_roll_gets_the_same_handle_and_sends_nothing(rolls: int) -> None:
    desk = _desk()
    first = await desk.ask()

    again = await desk.later(ROLL_S + 60 * (rolls - 1)).ask()

    assert (again.handle, again.outcome) == (first.handle, "repeated")
    assert len(desk.store.challenges()) == len(desk.events.published) == 1


async def test_the_same_key_with_another_body_is_refused_after_a_roll_too() -> None:
    desk = _desk()
    await desk.ask()

    with pytest.raises(IdempotencyKeyReused):
        await desk.later(ROLL_S).ask("key-1", context="another")

    assert len(desk.store.challenges()) == 1


async def test_the_same_wish_joins_across_a_roll_and_its_repeat_is_known() -> None:
    desk = _desk()
    first = await desk.ask("key-1")

    joined = await desk.later(ROLL_S).ask("key-2")
    again = await desk.later(60).ask("key-2")

    assert (joined.outcome, joined.challenge.id) == ("joined", first.challenge.id)
    assert (again.handle, again.outcome, again.joined) == (joined.handle, "repeated", True)
    assert len(desk.store.challenges()) == 1


async def test_a_join_that_was_claimed_before_the_roll_and_never_settled_is_resumed_after_it() -> None:
    desk = _desk()
    first = await desk.ask("key-1")
    desk.store.breaks_next("settle_claim")
    with pytest.raises(StoreUnavailable):
        await desk.ask("key-2")

    again = await desk.later(ROLL_S).ask("key-2")
    await desk.type_in(again.handle, desk.code_of(first))
    newer = await desk.later(60).ask("key-3")
    once_more = await desk.ask("key-2")

    assert (again.challenge.id, again.joined, again.outcome) == (first.challenge.id, True, "repeated")
    assert newer.challenge.id != first.challenge.id
    assert once_more.handle == again.handle
    assert len(desk.stored(first).handles) == 2


async def test_the_pause_holds_across_a_roll_and_then_the_same_challenge_goes_on() -> None:
    desk = _desk()
    first = await desk.ask("key-1")
    await desk.later(6).hand_over(first)

    with pytest.raises(QuotaExceeded):
        await desk.later(ROLL_S).ask("key-2")
    second = await desk.later(COOLDOWN_S).ask("key-3")

    assert (second.outcome, second.challenge.id) == ("queued", first.challenge.id)


async def test_a_row_of_failures_is_not_forgotten_by_a_roll_and_is_ended_under_the_older_key() -> None:
    desk = _desk()
    issued = await desk.ask("key-1")
    await desk.hand_over(issued)
    shard = desk.store.shard_of(issued.challenge.id)
    assert shard is not None
    subject = (await desk.store.load(shard, subject_key=desk.stored(issued).subject_key)).subject
    assert subject is not None
    for _ in range(SUBJECT_ROW):
        subject = subject.with_failure(after(COOLDOWN_S))
        await desk.store.commit(shard, subject=subject)

    other = await desk.later(COOLDOWN_S).ask("key-2", email="minh@example.vn")

    assert other.challenge.id != issued.challenge.id
    assert isinstance(await desk.type_in(other.handle, "000000"), Locked)
    assert (await desk.unlock(PURPOSE.name, "citizen-7", desk.clock())).was_locked
    assert not isinstance(await desk.type_in(other.handle, "000000"), Locked)


async def test_a_subject_that_is_found_stays_where_it_is_and_a_new_one_is_named_by_the_new_key() -> None:
    desk = _desk()
    known = await desk.ask("key-1")

    later = await desk.later(COOLDOWN_S).ask("key-2", email="minh@example.vn")
    new = await desk.ask("key-3", subject="citizen-8")
    same_as_new = await Desk(store=desk.store, index_keys=Keyring([_key(2, NOON)])).ask("key-4", subject="citizen-8")

    assert desk.stored(later).subject_key == desk.stored(known).subject_key
    assert (same_as_new.outcome, same_as_new.challenge.id) == ("joined", new.challenge.id)


async def test_when_the_older_key_has_ended_what_it_named_is_new() -> None:
    desk = _desk(until=after(30))
    first = await desk.ask("key-1")

    again = await desk.later(30).ask("key-1")

    assert again.outcome == "queued"
    assert again.challenge.id != first.challenge.id


async def test_each_other_key_of_a_ring_costs_a_repeat_one_look_and_no_more() -> None:
    desk = _desk()
    await desk.ask("key-1")
    desk.later(ROLL_S).store.calls.clear()

    await desk.ask("key-1")

    assert desk.store.calls == ["find_claim", "find_claim", *["load"] * 3, "confirm"]
