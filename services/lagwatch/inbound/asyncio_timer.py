"""Makes a measurement at every interval, one at a time, and tells the metrics how it went."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

import structlog

from services.chassis.clock import Clock
from services.chassis.telemetry import Health
from services.lagwatch.actions.measure import MeasureQueues
from services.lagwatch.metrics import LagwatchMetrics
from services.lagwatch.ports import Reason

FIRST_MEASUREMENT = "first measurement"


async def measure_for_ever(
    measure: MeasureQueues, metrics: LagwatchMetrics, health: Health, clock: Clock, *, interval: timedelta
) -> None:
    """Measure now and at every interval; one that takes longer delays the next.

    The process is ready from the first measurement in which nothing was missing, be something amiss or not. Later
    failures do not take that back: what is shown then is old and says so.
    """
    log = structlog.get_logger()
    health.part(FIRST_MEASUREMENT, ready=False)
    last: frozenset[Reason] | None = None
    was_ready = False
    while True:
        started_at, started = clock(), time.monotonic()
        failures = await _measured(measure)
        took = timedelta(seconds=time.monotonic() - started)
        is_whole = not any(failure.is_blind for failure in failures)
        metrics.polled(started_at, took, failures, is_whole=is_whole)
        was_ready = was_ready or is_whole
        health.part(FIRST_MEASUREMENT, ready=was_ready, why="" if was_ready else ", ".join(sorted(failures)))
        if failures != last:  # once per change: an hour of the same outage is one line
            say = log.warning if failures else log.info
            say("queues_measured", missing=sorted(failures), took_s=round(took.total_seconds(), 3))
        last = failures
        await asyncio.sleep(max(0.0, (interval - took).total_seconds()))


async def _measured(measure: MeasureQueues) -> frozenset[Reason]:
    try:
        return await measure()
    except Exception:  # noqa: BLE001 - the outermost loop: the page must stay up, the next measurement starts afresh
        structlog.get_logger().exception("measurement_failed")
        return frozenset({Reason.UNEXPECTED})
