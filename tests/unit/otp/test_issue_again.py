"""Stories of asking again: a join keeps its place and the letter wanted, wishes alternate, handles are given back."""

from __future__ import annotations

import pytest

from services.otp.actions.issue import QuotaExceeded
from services.otp.ports import IdempotencyKeyReused, StoreUnavailable
from services.otp.rules.challenge import State
from services.otp.rules.policy import MAX_HANDLES, WANTED_STEP
from tests.fakes.otp import PURPOSE, Breaks
from tests.unit.otp.desk import Desk
from tests.unit.otp.made_up import D_S, after

COOLDOWN_S = PURPOSE.cooldowns[0].total_seconds()
STEP_S = WANTED_STEP.total_seconds()
OTHER = {"email": "minh@example.vn"}


async def test_a_join_keeps_the_letter_wanted_and_tells_the_mailer_in_steps_of_30_seconds_only() -> None:
    desk = Desk()
    first = await desk.ask("key-1")

    shown = [
        (await desk.later(seconds).ask(key)).challenge.letters[0].wanted_until
        for key, seconds in (("key-2", STEP_S - 0.001), ("key-3", 0.001), ("key-4", STEP_S - 0.001))
    ]

    assert shown == [after(D_S), after(D_S + STEP_S), after(D_S + STEP_S)]
    assert desk.events.published == [f"{first.challenge.id}.1", f"{first.challenge.id}.1 wanted"]
    assert desk.stored(first).newest.wanted_until == after(D_S + STEP_S)


async def test_a_repeat_of_a_join_keeps_nothing_wanted_for_longer() -> None:
    desk = Desk()
    first = await desk.ask("key-1")
    await desk.ask("key-2")

    await desk.later(300).ask("key-2")
    await desk.ask("key-1")

    assert desk.events.published == [f"{first.challenge.id}.1"]


async def test_a_join_that_was_committed_and_not_told_is_told_by_the_sweep() -> None:
    desk = Desk()
    first = await desk.ask("key-1")
    desk.events.is_away = True
    await desk.later(100).ask("key-2")
    desk.events.is_away = False

    await desk.later(6).sweep()

    assert desk.events.published == [f"{first.challenge.id}.1", f"{first.challenge.id}.1 wanted"]


async def test_the_first_answer_says_how_many_letters_are_in_front_and_when_it_should_leave() -> None:
    desk = Desk()
    desk.queue.committed, desk.queue.per_second = {0: 0}, 0.5
    for citizen in range(3):
        await desk.ask(f"key-{citizen}", subject=f"citizen-{citizen}")

    issued = await desk.ask("mine")

    (letter,) = issued.challenge.letters
    assert (letter.place, letter.expected_at) == (3, after(6))


async def test_a_join_and_a_repeat_are_told_the_place_of_the_letter_that_waits() -> None:
    desk = Desk()
    desk.queue.committed, desk.queue.per_second = {0: 0}, 1
    for citizen in range(4):
        await desk.ask(f"key-{citizen}", subject=f"citizen-{citizen}")
    await desk.ask("mine")
    desk.queue.committed = {0: 3}

    joined = await desk.later(60).ask("my other page")
    repeated = await desk.ask("my other page")

    assert [
        (seen.challenge.letters[0].place, seen.challenge.letters[0].expected_at) for seen in (joined, repeated)
    ] == [(1, after(61))] * 2


async def test_without_kafka_there_is_no_place_and_no_time_instead_of_a_wrong_one() -> None:
    desk = Desk()
    desk.queue.committed, desk.queue.per_second = {0: 0}, 1
    desk.events.is_away = True

    issued = await desk.ask()

    (letter,) = issued.challenge.letters
    assert (letter.place, letter.expected_at) == (None, None)


async def test_a_second_letter_that_is_not_published_yet_is_not_told_the_place_of_the_first() -> None:
    desk = Desk()
    desk.queue.committed, desk.queue.per_second = {0: 0}, 1
    await desk.hand_over(await desk.ask("key-1"))
    desk.events.is_away = True

    second = await desk.later(COOLDOWN_S).ask("key-2")

    assert second.outcome == "queued"
    assert (second.challenge.letters[0].place, second.challenge.letters[0].expected_at) == (None, None)


async def test_a_second_letter_is_told_its_own_place() -> None:
    desk = Desk()
    desk.queue.committed, desk.queue.per_second = {0: 1}, 1
    await desk.hand_over(await desk.ask("key-1"))
    desk.later(COOLDOWN_S)
    await desk.ask("key-2", subject="citizen-8")

    second = await desk.ask("key-3")

    assert (second.outcome, second.challenge.letters[0].place) == ("queued", 1)


async def test_who_wants_something_else_meanwhile_still_joins_the_first_letter_afterwards() -> None:
    desk = Desk()
    first = await desk.ask("key-1")
    other = await desk.later(COOLDOWN_S).ask("key-2", **OTHER)

    again = await desk.later(5).ask("key-3")

    assert (other.outcome, again.outcome) == ("queued", "joined")
    assert (again.challenge.id, again.joined) == (first.challenge.id, True)
    assert other.challenge.id != first.challenge.id
    assert desk.events.published == [
        f"{first.challenge.id}.1",
        f"{other.challenge.id}.1",
        f"{first.challenge.id}.1 wanted",
    ]


@pytest.mark.parametrize("when", list(Breaks), ids=str)
async def test_a_join_that_died_before_its_claim_was_settled_is_found_though_another_wish_came_between(
    when: Breaks,
) -> None:
    desk = Desk()
    first = await desk.ask("key-1")
    desk.store.breaks_next("settle_claim", when)
    with pytest.raises(StoreUnavailable):
        await desk.ask("key-2")
    other = await desk.later(COOLDOWN_S).ask("key-3", **OTHER)
    assert other.outcome == "queued"

    again = await desk.ask("key-2")

    assert (again.challenge.id, again.joined, again.outcome) == (first.challenge.id, True, "repeated")
    assert len(desk.stored(first).handles) == 2
    assert (await desk.get("portal", again.handle)) == again.challenge


async def test_a_handle_given_back_is_not_brought_back_by_a_repeat_of_its_key() -> None:
    desk = Desk()
    first, second = await desk.ask("key-1"), await desk.ask("key-2")
    assert await desk.cancel("portal", first.handle)

    with pytest.raises(IdempotencyKeyReused, match="ended long ago"):
        await desk.ask("key-1")

    assert await desk.get("portal", first.handle) is None
    assert await desk.get("portal", second.handle) is not None
    assert len(desk.events.published) == 1


async def test_when_the_last_handle_is_given_back_a_repeat_tells_that_it_is_over_and_sends_nothing() -> None:
    desk = Desk()
    issued = await desk.ask("key-1")
    await desk.cancel("portal", issued.handle)

    with pytest.raises(IdempotencyKeyReused, match="ended long ago"):
        await desk.later(COOLDOWN_S).ask("key-1")
    new = await desk.ask("key-2")

    assert (new.outcome, new.challenge.id == issued.challenge.id) == ("queued", False)
    assert desk.events.published == [
        f"{issued.challenge.id}.1",
        f"{issued.challenge.id}.1 withdrawn",
        f"{new.challenge.id}.1",
    ]


async def test_a_handle_given_back_makes_room_for_another_page() -> None:
    desk = Desk()
    pages = [await desk.ask(f"key-{number}") for number in range(MAX_HANDLES)]
    with pytest.raises(QuotaExceeded):
        await desk.ask("one too many")

    await desk.cancel("portal", pages[1].handle)

    assert (await desk.ask("one more")).outcome == "joined"


@pytest.mark.parametrize("is_settled", [True, False], ids=["settled at once", "settled by a repeat"])
async def test_a_repeat_of_a_join_finds_its_own_challenge_though_the_same_wish_has_a_newer_one(
    is_settled: bool,  # noqa: FBT001 - a case
) -> None:
    desk = Desk()
    first = await desk.ask("key-1")
    if not is_settled:
        desk.store.breaks_next("settle_claim")
        with pytest.raises(StoreUnavailable):
            await desk.ask("key-2")
    joined = await desk.ask("key-2")
    await desk.type_in(joined.handle, desk.code_of(first))
    newer = await desk.later(COOLDOWN_S).ask("key-3")

    again = await desk.ask("key-2")

    assert newer.challenge.id != first.challenge.id
    assert (again.handle, again.outcome, again.challenge.state) == (joined.handle, "repeated", State.VERIFIED)


async def test_another_caller_does_not_join_the_same_wish_and_has_a_challenge_of_its_own() -> None:
    desk = Desk()
    first = await desk.ask()
    with pytest.raises(QuotaExceeded):
        await desk.ask(caller="clinic")

    other = await desk.later(COOLDOWN_S).ask(caller="clinic")

    assert (other.outcome, other.joined) == ("queued", False)
    assert other.challenge.id != first.challenge.id
