"""One consumer of the chaos run: `python -m tests.chaos.worker BROKERS GROUP TOPIC DONE WINDOW`.

It touches DONE.<pid>.up once signals are handled. Its handler takes 1–20 ms, now and then 3 s, and then writes the
record's value as one line of the file DONE: what is written has settled.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from pathlib import Path

from services.chassis.inbox_metrics import InboxMetrics
from services.chassis.kafka_producer import producing
from services.chassis.ordered_inbox import InboxOptions, OrderedInbox, inbox_running
from services.chassis.process import Stopping, run, until_stopped
from services.chassis.record_fate import Record
from services.chassis.settings import KafkaSettings, Profile
from services.chassis.telemetry import Health, configure_telemetry, new_registry

SLOW_SHARE = 0.01
SLOW_S = 3.0


class PretendSend:
    """The handler."""

    def __init__(self, done: str) -> None:
        """Append to the file `done`."""
        self._done = os.open(done, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def __call__(self, record: Record) -> None:
        """Take a while, then write the line in one call, so that a kill leaves no half of it."""
        slow = random.random() < SLOW_SHARE
        await asyncio.sleep(SLOW_S if slow else random.uniform(0.001, 0.02))
        os.write(self._done, record.value + b"\n")


async def serve(stopping: Stopping) -> None:
    """Consume until stopped."""
    brokers, group, topic, done, window = sys.argv[1:6]
    settings = KafkaSettings(profile=Profile.LAPTOP, kafka_brokers=brokers)
    registry = new_registry("chaos", "0")
    async with producing(settings, "chaos-worker") as producer:
        inbox = OrderedInbox(
            settings,
            group=group,
            topic=topic,
            handle=PretendSend(done),
            producer=producer,
            metrics=InboxMetrics.on(registry),
            health=Health(),
            options=InboxOptions(window=int(window)),
        )
        async with inbox_running(inbox) as running:
            Path(done).with_suffix(f".{os.getpid()}.up").touch()
            await until_stopped(stopping, running)


if __name__ == "__main__":
    configure_telemetry("chaos-worker")
    run(serve)
