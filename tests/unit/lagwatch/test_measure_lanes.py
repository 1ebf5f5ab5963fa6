"""The stories of a lane, measurement after measurement, on a broker in memory."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from services.chassis.lag import Queue
from services.chassis.lane import wait_in
from services.lagwatch.actions.measure import MeasureQueues
from services.lagwatch.ports import Lane, Reason
from tests.fakes.clock import FakeClock
from tests.fakes.lagwatch import BoardOfLists, InMemoryQueues, Letter

START = datetime(2026, 11, 25, 8, 0, tzinfo=UTC)
STEP = timedelta(seconds=5)
LETTERS, TIER, EVENTS = Queue("mailer-otp", "letters"), Queue("mailer-retry-otp-1m", "tier"), Queue("otp", "events")
LANE = Lane("otp", LETTERS, (TIER,), EVENTS)


class World:
    """A lane of two partitions and a tier, and the verb that measures it."""

    def __init__(self) -> None:
        self.clock = FakeClock(START)
        self.broker = InMemoryQueues([LANE])
        self.broker.create("letters", partitions=2)
        self.broker.create("tier")
        self.broker.create("events")
        for queue, partition in ((LETTERS, 0), (LETTERS, 1), (TIER, 0), (EVENTS, 0)):
            self.broker.commit(queue.group, queue.topic, partition, 0)
        self.board = BoardOfLists()
        self.measure = MeasureQueues([LETTERS, TIER, EVENTS], [LANE], self.broker, self.board, self.clock)

    def ask(self, partition: int, count: int, *, ago: timedelta = timedelta(0)) -> None:
        self.broker.append("letters", partition, *[self.clock() - ago] * count)

    async def drain(self, per_step: int, steps: int) -> None:
        """Let the mailer hand over so many letters of the first partition in each step."""
        for step in range(1, steps + 1):
            self.clock.pass_by(STEP)
            self.broker.hand_over("events", per_step)
            self.broker.commit("otp", "events", 0, per_step * step)
            self.broker.commit("mailer-otp", "letters", 0, per_step * step)
            await self.measure()

    @property
    def wait(self) -> timedelta | None:
        wait = wait_in(self.board.lanes["otp"], self.clock())
        return wait.whole if wait is not None else None


@pytest.fixture
def world() -> World:
    return World()


async def test_a_backlog_waits_as_long_as_hand_overs_take_to_drain_it(world: World) -> None:
    world.ask(0, 400, ago=timedelta(seconds=20))
    await world.measure()

    await world.drain(10, steps=6)

    assert world.board.lanes["otp"].per_second == 2
    assert world.wait == timedelta(seconds=340 / 2)
    assert (world.board.lanes["otp"].handed_over, world.board.lanes["otp"].arrived) == (60, 0)


async def test_letters_that_are_dropped_do_not_make_the_wait_look_short(world: World) -> None:
    world.ask(0, 4000, ago=timedelta(seconds=20))
    await world.measure()
    await world.drain(10, steps=6)

    world.clock.pass_by(STEP)
    world.broker.hand_over("events", 10)
    world.broker.commit("mailer-otp", "letters", 0, 2000)
    await world.measure()

    assert world.wait == timedelta(seconds=2000 / 2)


async def test_letters_in_a_tier_wait_in_the_lane_since_they_were_asked_for(world: World) -> None:
    asked_at = START - timedelta(seconds=300)
    world.broker.defer("tier", 0, START, Letter(asked_at, START + timedelta(seconds=60)))

    await world.measure()

    lane = world.board.lanes["otp"].before
    assert lane is not None
    assert (lane.backlog, lane.waits_since) == (1, asked_at)
    assert world.wait == timedelta(seconds=300)


async def test_hand_overs_that_cannot_be_read_leave_the_lane_as_it_was_and_are_counted_later(world: World) -> None:
    world.ask(0, 400, ago=timedelta(seconds=20))
    await world.measure()
    await world.drain(10, steps=2)
    world.broker.blind_deliveries = True

    world.clock.pass_by(STEP)
    world.broker.hand_over("events", 7)
    failures = await world.measure()

    assert failures == {Reason.HAND_OVERS_UNKNOWN}
    assert world.board.lanes["otp"].handed_over == 20
    world.broker.blind_deliveries = False
    await world.measure()
    assert world.board.lanes["otp"].handed_over == 27


@pytest.mark.parametrize("topic", ["letters", "tier"])
async def test_a_lane_of_which_a_part_is_missing_is_not_measured_and_its_wait_ends(world: World, topic: str) -> None:
    world.ask(0, 3, ago=timedelta(seconds=20))
    await world.measure()
    assert world.wait == timedelta(seconds=20)
    world.broker.leaderless.add((topic, 0))

    for _ in range(4):
        world.clock.pass_by(STEP)
        await world.measure()

    assert world.wait is None


async def test_while_nothing_is_known_the_lane_is_not_told(world: World) -> None:
    world.broker.broken = Reason.BROKER_AWAY

    assert await world.measure() == {Reason.BROKER_AWAY}
    assert world.board.lanes == {}


async def test_partitions_that_are_added_and_a_topic_made_anew_are_arrivals_not_losses(world: World) -> None:
    world.ask(0, 4)
    await world.measure()
    world.broker.grow("letters", partitions=3)
    world.ask(2, 5)
    await world.measure()
    assert world.board.lanes["otp"].arrived == 5

    world.broker.delete("letters")
    world.broker.create("letters", partitions=1)
    world.ask(0, 2)
    await world.measure()

    assert world.board.lanes["otp"].arrived == 7
    assert world.board.lanes["otp"].before is not None
    assert world.board.lanes["otp"].before.backlog == 2


async def test_what_was_handed_over_while_a_part_of_the_lane_was_missing_is_counted_with_it(world: World) -> None:
    world.ask(0, 400, ago=timedelta(seconds=20))
    await world.measure()
    world.broker.leaderless.add(("tier", 0))
    for _ in range(2):
        world.broker.hand_over("events", 7)
        await world.measure()
    assert world.board.lanes["otp"].handed_over == 0

    world.broker.leaderless.clear()
    await world.measure()

    assert world.board.lanes["otp"].handed_over == 14
