"""`python -m services.lagwatch`: how lagwatch is joined. Opened top to bottom, closed bottom to top."""

from __future__ import annotations

from contextlib import AsyncExitStack

import structlog

from services.chassis.clock import system_clock
from services.chassis.grpc_server import probe_server
from services.chassis.kafka_client import client_config
from services.chassis.process import Stopping, run, until_stopped
from services.chassis.settings import read_settings
from services.chassis.telemetry import Health, configure_telemetry, http_page, new_registry
from services.lagwatch.actions.measure import MeasureQueues
from services.lagwatch.inbound.asyncio_timer import measure_for_ever
from services.lagwatch.metrics import LagwatchMetrics
from services.lagwatch.outbound.kafka_queue import reading_queues
from services.lagwatch.ports import Reason
from services.lagwatch.settings import LagwatchSettings


async def serve(settings: LagwatchSettings, stopping: Stopping) -> None:
    """Measure until SIGTERM; the page answers from the first moment, whether Kafka is there or not."""
    health = Health()
    registry = new_registry("lagwatch", "0.1.0")
    metrics = LagwatchMetrics(registry, system_clock, Reason)
    async with AsyncExitStack() as parts:
        await parts.enter_async_context(http_page(settings.http_address, registry, health))
        await parts.enter_async_context(probe_server(settings.probe_address, health))
        config = client_config(settings) | {"client_id": "lagwatch"}
        reader = await parts.enter_async_context(reading_queues(config, settings.lanes))
        measure = MeasureQueues(settings.queues, settings.lanes, reader, metrics, system_clock)
        parts.callback(health.stop)
        structlog.get_logger().info("serving", http=settings.http_address, queues=len(settings.queues))
        await until_stopped(
            stopping,
            measure_for_ever(measure, metrics, health, system_clock, interval=settings.poll_interval),
        )


def main() -> None:
    """Read the settings, then live."""
    settings = read_settings(LagwatchSettings)
    configure_telemetry("lagwatch")
    run(lambda stopping: serve(settings, stopping))


if __name__ == "__main__":
    main()
