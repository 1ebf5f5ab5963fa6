"""When measurements are made, and what becomes of the process's health."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

from prometheus_client import CollectorRegistry

from services.chassis.clock import system_clock
from services.chassis.lag import Queue
from services.chassis.telemetry import Health
from services.lagwatch.actions.measure import MeasureQueues
from services.lagwatch.inbound.asyncio_timer import measure_for_ever
from services.lagwatch.metrics import LagwatchMetrics
from services.lagwatch.ports import QueueReader, QueueReading, Reason
from tests.conditions import eventually
from tests.fakes.lagwatch import BoardOfLists, InMemoryQueues

LETTERS = Queue("mailer", "letters")
SHORT = timedelta(milliseconds=5)


class Process:
    """The timer of a process, on a reader of the test."""

    def __init__(self, reader: QueueReader) -> None:
        self.health = Health()
        self.registry = CollectorRegistry()
        metrics = LagwatchMetrics(self.registry, system_clock, Reason)
        measure = MeasureQueues([LETTERS], [], reader, BoardOfLists(), system_clock)
        self.timer = measure_for_ever(measure, metrics, self.health, system_clock, interval=SHORT)

    def failures(self, reason: Reason) -> float:
        return self.registry.get_sample_value("lagwatch_poll_failures_total", {"reason": reason}) or 0

    def measurements(self) -> float:
        return self.registry.get_sample_value("lagwatch_poll_duration_seconds_count") or 0


@asynccontextmanager
async def running(reader: QueueReader) -> AsyncIterator[Process]:
    process = Process(reader)
    task = asyncio.create_task(process.timer)
    try:
        yield process
    finally:
        task.cancel()
        await asyncio.wait([task])


class Faulty:
    """A reader with a bug in its first reading."""

    def __init__(self, then: QueueReader) -> None:
        self._then = then
        self._reads: list[Callable[[Sequence[Queue]], None]] = [self._stumble]

    async def read(self, queues: Sequence[Queue]) -> Sequence[QueueReading]:
        if self._reads:
            self._reads.pop()(queues)
        return await self._then.read(queues)

    def _stumble(self, _queues: Sequence[Queue]) -> None:
        raise RuntimeError("a bug")


class Counting:
    """A reader that takes its time and counts who is inside."""

    def __init__(self) -> None:
        self.inside = 0
        self.most = 0

    async def read(self, queues: Sequence[Queue]) -> Sequence[QueueReading]:
        self.inside += 1
        self.most = max(self.most, self.inside)
        await asyncio.sleep(3 * SHORT.total_seconds())
        self.inside -= 1
        return [QueueReading(queue) for queue in queues]


async def test_the_process_is_ready_from_its_first_whole_measurement_and_stays_so() -> None:
    broker = InMemoryQueues()
    broker.broken = Reason.BROKER_AWAY

    async with running(broker) as process:
        await eventually(lambda: process.failures(Reason.BROKER_AWAY) >= 1)
        assert process.health.missing == ["first measurement (broker_away)"]

        broker.create("letters")
        broker.broken = None
        await eventually(lambda: process.health.ready)

        broker.broken = Reason.BROKER_AWAY
        failed = process.failures(Reason.BROKER_AWAY)
        await eventually(lambda: process.failures(Reason.BROKER_AWAY) > failed)
        assert process.health.ready


async def test_a_topic_that_is_not_there_yet_keeps_the_process_unready() -> None:
    async with running(InMemoryQueues()) as process:
        await eventually(lambda: process.failures(Reason.TOPIC_UNKNOWN) >= 1)

        assert not process.health.ready


async def test_a_bug_is_counted_and_the_next_measurement_is_made() -> None:
    broker = InMemoryQueues()
    broker.create("letters")

    async with running(Faulty(broker)) as process:
        await eventually(lambda: process.health.ready)

        assert process.failures(Reason.UNEXPECTED) == 1


async def test_a_slow_measurement_is_not_overtaken_by_the_next() -> None:
    reader = Counting()

    async with running(reader) as process:
        await eventually(lambda: process.measurements() >= 4)

        assert reader.most == 1
