from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count

import pytest
from prometheus_client import CollectorRegistry

from services.chassis.telemetry import Health
from services.dossier.actions.forget import ForgetClaims
from services.dossier.actions.open import OpenDossier
from services.dossier.actions.sweep import SweepOutbox
from services.dossier.inbound.asyncio_timer import SweepTimer, sweeping
from services.dossier.metrics import DossierMetrics
from tests.conditions import eventually
from tests.fakes.dossier import NOON, Dice, FakeClock, InMemoryArchive, InMemoryCatalogue, InMemoryEvents, filing


@dataclass
class Office:
    """The timer over the twins; `open` rings its bell."""

    archive: InMemoryArchive = field(default_factory=InMemoryArchive)
    events: InMemoryEvents = field(default_factory=InMemoryEvents)
    bell: asyncio.Event = field(default_factory=asyncio.Event)
    health: Health = field(default_factory=Health)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    dice: Dice = field(default_factory=Dice)

    def timer(
        self, *, every: timedelta = timedelta(milliseconds=50), seconds: Callable[[], float] = time.monotonic
    ) -> SweepTimer:
        return SweepTimer(
            SweepOutbox(self.archive, self.events, holder="one", seconds=seconds),
            ForgetClaims(self.archive, FakeClock()),
            self.bell,
            metrics=DossierMetrics(self.registry),
            health=self.health,
            every=every,
        )

    async def open(self, key: str) -> None:
        verb = OpenDossier(self.archive, InMemoryCatalogue(), FakeClock(), self.bell.set, agency="K01", draw=self.dice)
        await verb(filing(), caller="portal", idempotency_key=key, trace={})

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)


async def test_a_commit_wakes_the_sweeper_at_once() -> None:
    office = Office()

    async with sweeping(office.timer(every=timedelta(hours=1))):
        await eventually(lambda: office.health.ready)
        await office.open("key")
        await eventually(lambda: len(office.events.announced) == 1)

    assert office.value("dossier_notices_announced_total") == 1


async def test_a_long_outbox_is_emptied_without_a_pause_between_passes() -> None:
    office = Office()
    for number in range(50):
        await office.open(str(number))
    seconds = count()

    async with sweeping(office.timer(every=timedelta(hours=1), seconds=lambda: float(next(seconds)))):
        await eventually(lambda: len(office.events.announced) == 50)


async def test_what_a_killed_process_left_is_announced_without_a_bell() -> None:
    office = Office()
    await office.open("key")
    office.bell.clear()

    async with sweeping(office.timer()):
        await eventually(lambda: len(office.events.announced) == 1)


async def test_while_kafka_is_away_the_service_is_ready_and_tells_what_waits() -> None:
    office = Office()
    office.events.fails = "kafka"

    async with sweeping(office.timer()):
        await office.open("key")
        await eventually(lambda: office.value("dossier_outbox_messages") == 1)

        assert office.health.ready
        assert office.value("dossier_outbox_oldest_timestamp_seconds") == NOON.timestamp()
        assert (office.value("dossier_announce_failures_total", reason="kafka") or 0) >= 1

        office.events.fails = None
        await eventually(lambda: office.value("dossier_outbox_messages") == 0)

    assert office.value("dossier_outbox_oldest_timestamp_seconds") == 0


async def test_without_its_archive_the_service_is_not_ready_until_it_is_back() -> None:
    office = Office()
    office.archive.away = True

    async with sweeping(office.timer()):
        await eventually(lambda: (office.value("dossier_archive_failures_total") or 0) >= 1)
        assert office.health.missing == ["archive"]

        office.archive.away = False
        await eventually(lambda: office.health.ready)


async def test_what_was_stored_before_the_stop_is_announced_before_the_end() -> None:
    office = Office()

    async with sweeping(office.timer()):
        await eventually(lambda: office.health.ready)
        await office.open("key")

    assert len(office.events.announced) == 1


async def test_a_fault_of_ours_ends_the_timer_and_is_not_swallowed() -> None:
    office = Office()

    async def broken() -> None:
        raise RuntimeError("a fault")

    office.archive.backlog = broken  # type: ignore[assignment,method-assign] # the fault

    with pytest.raises(RuntimeError, match="a fault"):
        async with sweeping(office.timer()) as running:
            await running
