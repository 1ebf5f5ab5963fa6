"""The sampled queue over a scripted broker, under a clock that the test turns."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta

from kafka import errors
from prometheus_client import CollectorRegistry

from services.otp.metrics import OtpMetrics
from services.otp.outbound.kafka_queue import KafkaQueue, Place
from services.otp.ports import Position
from services.otp.rules.outlook import Offsets
from tests.fakes.clock import FakeClock

TOPIC = "letters"


class Broker:
    """What a broker says, or how it fails; opens readers of itself, and is one."""

    def __init__(self) -> None:
        self.offsets: Mapping[Place, Offsets] = {Place(TOPIC, 0): Offsets(10, 10)}
        self.failure: Exception | None = None
        self.opened = self.closed = 0
        self.asked: Callable[[], None] = lambda: None
        """Called when it is asked, before it answers."""

    def open(self) -> Broker:
        self.opened += 1
        return self

    def read(self) -> Mapping[Place, Offsets]:
        self.asked()
        if self.failure is not None:
            raise self.failure
        return self.offsets

    def close(self) -> None:
        self.closed += 1
        raise errors.KafkaConnectionError  # as clients do that no longer work


class Office:
    """A queue over a scripted broker, under a clock that the test turns."""

    def __init__(self, share: float = 1.0) -> None:
        self.broker, self.clock, self.registry = Broker(), FakeClock(), CollectorRegistry()
        self.share = share
        self.others: dict[Place, Offsets] = {}
        """Of other partitions, and of tiers."""
        self.queue = KafkaQueue(
            self.broker.open, self.clock, OtpMetrics(self.registry, []), TOPIC, share=lambda: self.share
        )

    async def sample(self, committed: int, end: int, *, after_s: float = 1, handed_over: int = 0) -> None:
        """Let time pass, tell of hand-overs, and take a sample of partition 0."""
        self.clock.pass_by(timedelta(seconds=after_s))
        for _ in range(handed_over):
            self.queue.handed_over(self.clock())
        self.broker.offsets = {Place(TOPIC, 0): Offsets(committed, end)} | self.others
        await self.queue.sample()

    async def surge(self, seconds: int = 12, *, each: int = 4) -> None:
        """See a backlog in which so many letters leave each second."""
        await self.sample(0, 9_999)
        for second in range(1, seconds):
            await self.sample(each * second, 9_999, handed_over=each)

    def outlook(self, offset: int) -> tuple[int | None, float | None]:
        """Return place and seconds until departure."""
        told = self.queue.outlook(Position(0, offset), self.clock())
        return told.place, None if told.leaves_at is None else (told.leaves_at - self.clock()).total_seconds()

    def number(self, name: str) -> float | None:
        return self.registry.get_sample_value(name)


@asynccontextmanager
async def office(share: float = 1.0) -> AsyncIterator[Office]:
    made = Office(share)
    try:
        yield made
    finally:
        await made.queue.close()
