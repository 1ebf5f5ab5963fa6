"""Paused, held, tried, released: the pauses of an inbox, without a broker."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
import structlog
from prometheus_client import CollectorRegistry, Gauge

from services.chassis.dead_letter import DeadKind
from services.chassis.offset_tracker import Slot
from services.chassis.partition_pauses import PartitionPauses
from services.chassis.poison_limiter import Limits

BAD = DeadKind.UNDECODABLE
LIMITS = Limits(last=4, share=0.5, half_open_every=timedelta(seconds=30))


class Desk:
    """The pauses, with a clock that only a test turns."""

    def __init__(self) -> None:
        self.now = 0.0
        self.registry = CollectorRegistry()
        self.changed = asyncio.Event()
        self.pauses = PartitionPauses(
            LIMITS,
            paused=Gauge("paused", "x", registry=self.registry),
            changed=self.changed,
            log=structlog.get_logger(),
            now=lambda: self.now,
        )

    @property
    def shown(self) -> float | None:
        """What the gauge says."""
        return self.registry.get_sample_value("paused")

    def pause(self, partition: int = 0) -> None:
        """Let four bad records settle."""
        for offset in range(4):
            assert self.pauses.may_settle(Slot(partition, offset, 1), BAD)

    def hold(self, *offsets: int, partition: int = 0) -> list[Slot]:
        """Hold records as they come."""
        slots = [Slot(partition, offset, 1) for offset in offsets]
        for slot in slots:
            self.pauses.hold(slot)
        return slots

    async def due(self) -> list[int]:
        """Let everything begin whose turn has come; return the offsets in that order."""
        begun: list[int] = []
        while True:
            try:
                slot = await asyncio.wait_for(self.pauses.turn(lambda _slot: True), 0.01)
            except TimeoutError:
                return begun
            assert self.pauses.begin(slot)
            begun.append(slot.offset)


async def test_a_partition_that_runs_holds_nothing() -> None:
    desk = Desk()

    assert not desk.pauses.holds(0)
    assert desk.shown == 0


async def test_a_paused_partition_holds_what_comes_and_the_others_do_not() -> None:
    desk = Desk()

    desk.pause()

    assert [desk.pauses.holds(partition) for partition in (0, 1)] == [True, False]
    assert not desk.pauses.has_held(0), "so that what it is tried with is still fetched"
    assert desk.shown == 1


async def test_handler_bugs_and_broken_seals_pause_nothing() -> None:
    desk = Desk()

    for offset, kind in enumerate([DeadKind.HANDLER_FAILED, DeadKind.SEAL_BROKEN, DeadKind.IMPOSSIBLE] * 4):
        assert desk.pauses.may_settle(Slot(0, offset, 1), kind)

    assert desk.shown == 0


@pytest.mark.parametrize("kind", list(DeadKind))
async def test_what_was_in_hand_at_the_pause_and_dies_is_held_and_what_was_handled_was(kind: DeadKind) -> None:
    desk = Desk()
    desk.pause()

    assert not desk.pauses.may_settle(Slot(0, 5, 1), kind)
    assert desk.pauses.may_settle(Slot(0, 6, 1), None)
    assert desk.shown == 1, "and that tells nothing of the fault"


async def test_one_record_is_tried_after_half_a_minute_and_it_is_the_oldest() -> None:
    desk = Desk()
    desk.pause()
    desk.hold(6, 5, 7)

    assert await desk.due() == []
    desk.now = 30
    assert await desk.due() == [5], "one, and no other while it is tried"
    desk.now = 300
    assert await desk.due() == []


async def test_a_bad_one_is_passed_and_the_next_is_tried_after_the_next_half_minute() -> None:
    desk = Desk()
    desk.pause()
    first, _ = desk.hold(5, 6)
    desk.now = 30
    await desk.due()

    assert desk.pauses.may_settle(first, BAD), "it becomes a dead letter"
    assert desk.shown == 1
    desk.now = 59
    assert await desk.due() == []
    desk.now = 60
    assert await desk.due() == [6]


async def test_a_good_one_lets_everything_go_on_in_order() -> None:
    desk = Desk()
    desk.pause()
    first, *_ = desk.hold(5, 8, 7, 6)
    desk.now = 30
    await desk.due()

    assert desk.pauses.may_settle(first, None)

    assert desk.shown == 0
    assert desk.pauses.holds(0), "what comes now stands behind what is held"
    assert await desk.due() == [6, 7, 8]
    assert not desk.pauses.holds(0)


async def test_what_is_not_ready_waits_and_is_looked_at_again_when_something_changed() -> None:
    desk = Desk()
    desk.pause()
    (slot,) = desk.hold(5)
    desk.now = 30
    room = False
    waiting = asyncio.create_task(desk.pauses.turn(lambda _slot: room))
    await asyncio.sleep(0)
    assert not waiting.done()

    room = True
    desk.changed.set()

    assert await asyncio.wait_for(waiting, 5) is slot


async def test_a_turn_that_has_passed_is_not_begun() -> None:
    desk = Desk()
    desk.pause()
    (slot,) = desk.hold(5)
    desk.now = 30
    assert await desk.pauses.turn(lambda _slot: True) is slot

    desk.pauses.give_up()

    assert not desk.pauses.begin(slot)


async def test_a_rebalance_forgets_what_is_held_and_remembers_the_pause_of_what_comes_back() -> None:
    desk = Desk()
    desk.pause(0)
    desk.pause(1)
    desk.hold(5)

    desk.pauses.give_up()
    assert desk.shown == 0, "nothing is ours"
    desk.pauses.keep([0, 2])

    assert desk.shown == 1
    assert [desk.pauses.holds(partition) for partition in (0, 1, 2)] == [True, False, False]
    desk.hold(5)
    desk.now = 30
    assert await desk.due() == [5]


async def test_what_was_tried_when_the_partition_was_lost_is_tried_anew() -> None:
    desk = Desk()
    desk.pause()
    desk.hold(5)
    desk.now = 30
    assert await desk.due() == [5]

    desk.pauses.give_up()
    desk.pauses.keep([0])
    desk.hold(5)

    assert await desk.due() == [5]
