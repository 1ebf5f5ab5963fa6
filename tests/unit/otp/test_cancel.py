"""Stories of giving a handle back: it opens nothing more, others go on, the last one withdraws the letter."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from services.otp.actions.issue import Issued
from services.otp.actions.resend import ResendOutcome
from services.otp.ports import COMMIT_TRIES, StoreUnavailable
from services.otp.rules.challenge import State
from services.otp.rules.policy import Policy
from services.otp.rules.verdict import Accepted, Unknown
from tests.fakes.otp import PURPOSE, Breaks, LeavesIt
from tests.unit.otp.desk import NO_HANDLE, Desk
from tests.unit.otp.overtaken import Overtaken


async def _two_pages() -> tuple[Desk, Issued, Issued]:
    """One challenge with two handles; its letter waits."""
    desk = Desk()
    first, second = await desk.ask("key-1"), await desk.ask("key-2")
    assert second.joined
    return desk, first, second


def _withdrawn(desk: Desk) -> int:
    return sum(name.endswith("withdrawn") for name in desk.events.published)


async def test_with_the_last_handle_the_challenge_is_over_and_its_waiting_letter_withdrawn() -> None:
    desk, first, second = await _two_pages()

    assert await desk.cancel("portal", first.handle)
    assert (desk.stored(first).state(PURPOSE, desk.clock()), _withdrawn(desk)) == (State.OPEN, 0)
    assert await desk.cancel("portal", second.handle)

    assert desk.stored(first).state(PURPOSE, desk.clock()) is State.CANCELLED
    assert desk.events.published == [f"{first.challenge.id}.1", f"{first.challenge.id}.1 withdrawn"]


async def test_a_handle_that_was_given_back_opens_nothing() -> None:
    desk, first, _ = await _two_pages()
    code = desk.code_of(first)

    await desk.cancel("portal", first.handle)

    assert await desk.type_in(first.handle, code) == Unknown()
    assert await desk.get("portal", first.handle) is None
    assert (await desk.click(first.handle)).outcome is ResendOutcome.NOT_OPEN


async def test_the_other_handle_goes_on() -> None:
    desk, first, second = await _two_pages()

    await desk.cancel("portal", first.handle)

    assert await desk.get("portal", second.handle) is not None
    assert (await desk.click(second.handle)).outcome is ResendOutcome.STILL_QUEUED
    assert isinstance(await desk.type_in(second.handle, desk.code_of(second)), Accepted)


async def test_giving_a_handle_back_spares_no_attempt() -> None:
    desk, first, second = await _two_pages()
    for guess in range(3):
        await desk.type_in(first.handle, desk.wrong_code(first, guess))

    await desk.cancel("portal", first.handle)

    assert (desk.stored(second).attempts, desk.stored(second).handles[0].attempts) == (3, 3)


async def test_giving_it_back_again_changes_nothing() -> None:
    desk, first, second = await _two_pages()
    await desk.cancel("portal", first.handle)
    await desk.cancel("portal", second.handle)
    before = desk.stored(first)

    again = [await desk.cancel("portal", page.handle) for page in (first, second)]

    assert again == [False, False]
    assert desk.stored(first) == before
    assert _withdrawn(desk) == 1


async def test_after_a_cancelled_challenge_another_is_asked_for() -> None:
    desk, first, second = await _two_pages()
    for page in (first, second):
        await desk.cancel("portal", page.handle)

    later = await desk.later(PURPOSE.cooldowns[0].total_seconds()).ask("key-3")

    assert later.challenge.id != first.challenge.id
    assert not later.joined


@pytest.mark.parametrize("over", ["arrived", "verified"])
async def test_a_letter_that_does_not_wait_is_not_withdrawn(over: str) -> None:
    desk = Desk()
    issued = await desk.ask()
    await desk.hand_over(issued)
    if over == "verified":
        await desk.type_in(issued.handle, desk.code_of(issued))

    assert await desk.cancel("portal", issued.handle)

    assert desk.events.published == [f"{issued.challenge.id}.1"]


async def test_a_letter_that_was_withdrawn_by_a_success_is_not_withdrawn_again() -> None:
    desk = Desk()
    issued = await desk.ask()
    await desk.type_in(issued.handle, desk.code_of(issued))
    assert _withdrawn(desk) == 1

    await desk.cancel("portal", issued.handle)

    assert _withdrawn(desk) == 1
    assert desk.stored(issued).state(PURPOSE, desk.clock()) is State.VERIFIED


@pytest.mark.parametrize("who", ["unknown", "foreign", "mistyped", "nothing", "another purpose"])
async def test_a_stranger_gives_nothing_back(who: str) -> None:
    desk, issued, _ = await _two_pages()
    handle, caller = {
        "unknown": (NO_HANDLE, "portal"),
        "foreign": (issued.handle, "clinic"),
        "mistyped": (issued.handle[:-1] + ("0" if issued.handle[-1] != "0" else "1"), "portal"),
        "nothing": ("", "portal"),
    }.get(who, (issued.handle, "portal"))
    before = desk.stored(issued)
    here = Desk(store=desk.store, policy=Policy({})) if who == "another purpose" else desk

    assert not await here.cancel(caller, handle)

    assert desk.stored(issued) == before


async def test_two_pages_that_close_at_once_withdraw_the_letter_once() -> None:
    desk, first, second = await _two_pages()

    closed = await asyncio.gather(*(desk.cancel("portal", page.handle) for page in (first, second, first, second)))

    assert sorted(closed) == [False, False, True, True]
    assert _withdrawn(desk) == 1
    assert desk.stored(first).is_cancelled


@pytest.mark.parametrize("when", list(Breaks))
async def test_a_cancel_whose_answer_was_lost_is_repeated_and_its_withdrawal_not_forgotten(when: Breaks) -> None:
    desk = Desk(announce=LeavesIt())
    issued = await desk.ask()
    desk.store.breaks_next("commit", when)
    with pytest.raises(StoreUnavailable):
        await desk.cancel("portal", issued.handle)

    again = await desk.cancel("portal", issued.handle)

    assert again == (when is Breaks.BEFORE)
    assert desk.stored(issued).is_cancelled
    assert desk.store.outbox() == [f"{issued.challenge.id}.1", f"{issued.challenge.id}.1 withdrawn"]


async def test_a_handle_changes_alone() -> None:
    desk, first, second = await _two_pages()
    before = desk.stored(first)

    await desk.cancel("portal", second.handle)

    one, other = before.handles
    assert desk.stored(first) == replace(
        before, version=before.version + 1, handles=(one, replace(other, cancelled=True))
    )


@pytest.mark.parametrize(("lost_races", "succeeds"), [(COMMIT_TRIES - 1, True), (COMMIT_TRIES, False)])
async def test_who_loses_every_race_is_told_to_come_back(lost_races: int, *, succeeds: bool) -> None:
    store = Overtaken()
    desk = Desk(store=store)
    issued = await desk.ask()
    store.lost = lost_races

    if succeeds:
        assert await desk.cancel("portal", issued.handle)
    else:
        with pytest.raises(StoreUnavailable):
            await desk.cancel("portal", issued.handle)
