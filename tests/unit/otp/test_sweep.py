"""Sweeping the outbox: what nobody announced goes out oldest first, and only an acknowledged entry is forgotten."""

from __future__ import annotations

import pytest

from services.otp.actions.sweep import BATCH, IDLE, AnnounceEntries, SweepOutbox
from services.otp.ports import StoreUnavailable
from tests.fakes.otp import Breaks, EventList, InMemoryChallengeStore, LeavesIt
from tests.unit.otp.desk import Desk

IDLE_S = IDLE.total_seconds()


async def _left_over(count: int) -> Desk:
    """Letters that nobody announced, a second apart."""
    desk = Desk(announce=LeavesIt())
    for number in range(count):
        await desk.ask(f"key-{number}", subject=f"citizen-{number}")
        desk.later(1)
    return desk


async def test_it_publishes_the_oldest_first_and_says_how_many_wait() -> None:
    desk = await _left_over(8)
    waiting = desk.store.outbox()

    left = await desk.sweep()  # the youngest is one second old, the oldest eight

    assert desk.events.published == waiting[:4]
    assert left == 4
    assert desk.store.outbox() == waiting[4:]


async def test_what_a_request_has_in_hand_is_left_alone_until_it_is_old() -> None:
    desk = await _left_over(1)

    assert await desk.later(IDLE_S - 1.001).sweep() == 1
    assert desk.events.published == []
    assert await desk.later(0.001).sweep() == 0


async def test_a_sweep_takes_a_batch_at_most() -> None:
    desk = await _left_over(BATCH + 3)

    assert await desk.later(IDLE_S).sweep() == 3
    assert len(desk.events.published) == BATCH
    assert await desk.sweep() == 0


async def test_without_a_broker_everything_stays_and_goes_out_when_it_is_back() -> None:
    desk = await _left_over(3)
    waiting = desk.store.outbox()
    desk.events.is_away = True

    assert await desk.later(IDLE_S).sweep() == 3

    assert desk.store.outbox() == waiting
    desk.events.is_away = False
    assert await desk.sweep() == 0
    assert desk.events.published == waiting


@pytest.mark.parametrize("when", [Breaks.BEFORE, Breaks.AFTER])
async def test_an_entry_that_could_not_be_forgotten_is_published_again_rather_than_lost(when: Breaks) -> None:
    desk = await _left_over(2)
    first, second = desk.store.outbox()
    desk.store.breaks_next("published", when)

    await desk.later(IDLE_S).sweep()
    await desk.sweep()

    again = [first, second] if when is Breaks.BEFORE else []  # they are forgotten together
    assert desk.events.published == [first, second, *again]
    assert desk.store.outbox() == []


async def test_two_replicas_that_sweep_at_once_lose_nothing() -> None:
    desk = await _left_over(5)
    waiting = set(desk.store.outbox())
    other = SweepOutbox(desk.store, AnnounceEntries(desk.store, desk.events))
    desk.later(IDLE_S)

    await desk.sweep()
    await other()

    assert set(desk.events.published) == waiting
    assert desk.store.outbox() == []


@pytest.mark.parametrize("method", ["unpublished", "outbox_size"])
async def test_a_store_that_is_away_is_away_for_the_sweep_too(method: str) -> None:
    store = InMemoryChallengeStore()
    store.breaks_next(method)

    with pytest.raises(StoreUnavailable):
        await SweepOutbox(store, AnnounceEntries(store, EventList()))()
