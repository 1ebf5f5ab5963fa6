"""A letter that could not leave: where it waits, what its owner is told, and what happens when a part fails."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from services.mailer.actions.defer import DeferLetter
from services.mailer.ports import Carried, TryAgain
from services.mailer.rules.letter import Order
from services.mailer.rules.outcome import Deferred
from services.mailer.rules.schedule import Schedule
from services.mailer.rules.wish import Wish
from tests.fakes.clock import NOON, FakeClock
from tests.fakes.mailer import InMemoryLedger, RecordingEvents, RetriesInMemory
from tests.unit.mailer.one_lane import CODE, NOTICE, SECOND

CARRIED = Carried("orders.v1", 3, 7, b"key", b"value", {"ce_id": b"x"})
WHY = TryAgain("the relay said 451 4.7.1", status="4.7.1")


class World:
    """A verb over twins."""

    def __init__(self, order: Order) -> None:
        self.clock = FakeClock()
        self.ledger = InMemoryLedger(self.clock)
        self.events = RecordingEvents()
        self.retries = RetriesInMemory()
        schedule = Schedule(order.lane, [1 * SECOND, 60 * SECOND])
        self.defer = DeferLetter(self.retries, self.ledger, self.events, clock=self.clock, schedule=schedule)


async def test_a_letter_waits_in_its_tier_and_its_owner_is_told_when_it_is_tried_again() -> None:
    world = World(CODE)

    retry = await world.defer(CODE, CARRIED, 4, WHY)

    assert (retry.attempt, retry.not_before) == (5, NOON + 60 * SECOND)
    assert world.retries.kept == [(CARRIED, retry)]
    assert world.events.deferred == [(CODE.id, Deferred(NOON, NOON + 60 * SECOND, 5, "4.7.1"))]
    assert world.events.announced == []


async def test_a_letter_that_no_tier_takes_is_not_announced() -> None:
    world = World(CODE)
    world.retries.failures_left = 1

    with pytest.raises(TryAgain, match="no broker"):
        await world.defer(CODE, CARRIED, 0, WHY)

    assert world.events.deferred == []


async def test_an_announcement_that_fails_is_made_again_and_the_letter_is_not_put_into_a_tier_twice() -> None:
    world = World(CODE)
    world.events.failures_left = 2

    await world.defer(CODE, CARRIED, 0, WHY)

    assert len(world.retries.kept) == 1
    assert len(world.events.deferred) == 1


@pytest.mark.parametrize(("away", "delay_s"), [(False, 60), (True, 1)])
async def test_a_wish_puts_off_the_deadline_that_the_next_try_must_meet(*, away: bool, delay_s: int) -> None:
    world = World(CODE)
    world.clock.now = CODE.deadline - 5 * SECOND
    world.ledger.tell(CODE.id, Wish(CODE.deadline + timedelta(minutes=5)), CODE.useless_at)
    world.ledger.away = away

    retry = await world.defer(CODE, CARRIED, 4, WHY)

    assert retry.not_before == world.clock.now + delay_s * SECOND


async def test_a_notice_is_not_asked_about_because_nobody_takes_it_back() -> None:
    world = World(NOTICE)

    retry = await world.defer(NOTICE, CARRIED, 4, WHY)

    assert world.ledger.times_asked == 0
    assert retry.tier.lane is NOTICE.lane


async def test_past_its_deadline_a_letter_is_looked_at_soon_to_be_dropped() -> None:
    world = World(CODE)
    world.clock.now = CODE.deadline + SECOND

    retry = await world.defer(replace(CODE), CARRIED, 4, WHY)

    assert retry.not_before == world.clock.now + SECOND
