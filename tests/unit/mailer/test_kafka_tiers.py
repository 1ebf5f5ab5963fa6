"""A record of a tier waits until it is due, and not longer than its tier."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from services.chassis.record_fate import Record
from services.mailer.inbound.kafka_tiers import TierInbox, tier_group
from services.mailer.rules.letter import Lane
from services.mailer.rules.schedule import Tier
from tests.conditions import eventually
from tests.fakes.clock import NOON, FakeClock

TIER = Tier(Lane.OTP, timedelta(seconds=10))
TURNS = 3


class World:
    """A tier whose sleep turns the clock."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.slept: list[float] = []
        self.delivered: list[Record] = []
        self.waited_while_asleep: list[int] = []
        self.inbox = TierInbox(TIER, self._deliver, turns=asyncio.Semaphore(TURNS), clock=self.clock, sleep=self._sleep)

    async def _deliver(self, record: Record) -> None:
        self.delivered.append(record)

    async def _sleep(self, seconds: float) -> None:
        self.waited_while_asleep.append(self.inbox.waiting())
        self.slept.append(seconds)


def record(**headers: str) -> Record:
    named = {name.replace("_", "-"): text.encode() for name, text in headers.items()}
    return Record("mail.retry.otp.10s.v1", 0, 0, b"", b"", named, NOON, 1)


@pytest.mark.parametrize(
    ("not_before", "slept"),
    [
        ("2026-11-25T12:00:07.250000Z", [7.25]),
        ("2026-11-25T12:00:10Z", [10]),
        ("2026-11-25T12:00:00Z", []),
        ("2026-11-25T11:00:00Z", []),
        ("2026-11-25T19:00:04+07:00", [4]),
    ],
)
async def test_a_record_is_delivered_when_it_is_due(not_before: str, slept: list[float]) -> None:
    world, waits = World(), record(not_before=not_before)

    await world.inbox(waits)

    assert world.slept == slept
    assert world.delivered == [waits]


async def test_a_clock_that_is_ahead_does_not_hold_a_tier() -> None:
    world = World()

    await world.inbox(record(not_before="2036-11-25T12:00:00Z"))

    assert world.slept == [10]


@pytest.mark.parametrize("headers", [{}, {"not_before": "soon"}, {"not_before": "2026-11-25T12:00:07"}], ids=str)
async def test_a_record_that_does_not_say_when_is_delivered_now(headers: dict[str, str]) -> None:
    world = World()

    await world.inbox(record(**headers))

    assert world.slept == []
    assert len(world.delivered) == 1


async def test_a_record_that_waits_is_told_apart_from_one_that_is_delivered() -> None:
    world = World()

    await world.inbox(record(not_before="2026-11-25T12:00:07Z"))

    assert world.waited_while_asleep == [1]
    assert world.inbox.waiting() == 0


async def test_a_record_that_is_given_up_waits_no_more() -> None:
    async def deliver(_record: Record) -> None:
        raise AssertionError("it was given up")

    inbox = TierInbox(TIER, deliver, turns=asyncio.Semaphore(TURNS), clock=FakeClock())
    waiting = asyncio.create_task(inbox(record(not_before="2026-11-25T12:00:07Z")))
    await eventually(inbox.waiting)

    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert inbox.waiting() == 0


async def test_records_that_are_due_at_once_take_turns_and_one_that_waits_has_none() -> None:
    begun, gate = 0, asyncio.Event()

    async def deliver(_record: Record) -> None:
        nonlocal begun
        begun += 1
        await gate.wait()

    inbox = TierInbox(TIER, deliver, turns=asyncio.Semaphore(TURNS), clock=FakeClock())
    waiting = [asyncio.create_task(inbox(record(not_before="2026-11-25T12:00:07Z"))) for _ in range(5)]
    await eventually(lambda: inbox.waiting() == 5)
    due = [asyncio.create_task(inbox(record())) for _ in range(10)]
    await eventually(lambda: begun == TURNS)
    for _ in range(10):
        await asyncio.sleep(0)
    assert begun == TURNS

    gate.set()
    await asyncio.gather(*due)
    assert begun == 10
    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


def test_each_tier_of_each_lane_has_a_group_of_its_own() -> None:
    tiers = [Tier(lane, timedelta(seconds=seconds)) for lane in Lane for seconds in (1, 60)]

    assert len({tier_group(tier) for tier in tiers}) == 4
