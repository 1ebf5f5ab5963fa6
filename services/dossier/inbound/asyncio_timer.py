"""Empties the outbox again and again: right after a commit (the bell), and every second in case a bell was not heard.

A process that died between commit and announcement rings no bell; the next look of any process finds what it left. The
same look tells whether the archive answers, and that is the service's readiness: Kafka may be away, the outbox holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import structlog

from services.chassis.telemetry import Health
from services.dossier.actions.forget import ForgetClaims
from services.dossier.actions.sweep import SweepOutbox, Swept
from services.dossier.metrics import DossierMetrics
from services.dossier.ports import ArchiveUnavailable

EVERY = timedelta(seconds=1)
FORGET_EVERY_S = 60.0
LAST_PASS_WITHIN_S = 3.0  # at the stop; what is left waits for the next start
PART = "archive"


class SweepTimer:
    """Runs `sweep` and, once a minute, `forget`."""

    def __init__(
        self,
        sweep: SweepOutbox,
        forget: ForgetClaims,
        bell: asyncio.Event,
        *,
        metrics: DossierMetrics,
        health: Health,
        every: timedelta = EVERY,
    ) -> None:
        self._sweep = sweep
        self._forget = forget
        self._bell = bell
        self._metrics = metrics
        self._health = health
        self._every = every
        self._stopping = False
        self._forgot_at = float("-inf")
        health.part(PART, ready=False)

    async def run(self) -> None:
        """Sweep until `stop`, and once more after it."""
        while not self._stopping:
            self._bell.clear()
            await self._look()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._bell.wait(), self._every.total_seconds())
        await self._look()

    def stop(self) -> None:
        """Make a last pass, then end."""
        self._stopping = True
        self._bell.set()

    async def _look(self) -> None:
        try:
            swept = await self._sweep()
            self._tell(swept)
            if swept.more:
                self._bell.set()
            if time.monotonic() - self._forgot_at > FORGET_EVERY_S:
                await self._forget()
                self._forgot_at = time.monotonic()
        except ArchiveUnavailable as error:
            self._metrics.archive_failures.inc()
            self._health.part(PART, ready=False)
            structlog.get_logger().warning("archive_unavailable", error=type(error.__cause__).__name__)
        else:
            self._health.part(PART, ready=True)

    def _tell(self, swept: Swept) -> None:
        metrics, backlog = self._metrics, swept.backlog
        metrics.announced.inc(swept.announced)
        metrics.outbox_messages.set(backlog.notices)
        metrics.outbox_oldest.set(backlog.oldest.timestamp() if backlog.oldest else 0)
        if swept.halted_by is not None:
            metrics.announce_failures.labels(swept.halted_by).inc()
            structlog.get_logger().warning("outbox_waits", reason=swept.halted_by, notices=backlog.notices)


@asynccontextmanager
async def sweeping(timer: SweepTimer) -> AsyncIterator[asyncio.Task[None]]:
    """Run the timer beside everything else; the task ends early only when it failed."""
    running = asyncio.create_task(timer.run())
    try:
        yield running
    finally:
        timer.stop()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(running, LAST_PASS_WITHIN_S)
