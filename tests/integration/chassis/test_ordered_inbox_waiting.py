"""An inbox whose records may wait for their time: a stop does not wait with them, and loses none."""

from __future__ import annotations

import asyncio
import time
import uuid
from datetime import timedelta

from prometheus_client import CollectorRegistry

from deploy.create_topics import Topic, create_topics, laptop
from services.chassis.inbox_metrics import InboxMetrics
from services.chassis.kafka_producer import producing
from services.chassis.ordered_inbox import InboxOptions, OrderedInbox, inbox_running
from services.chassis.record_fate import Record
from tests.conditions import eventually
from tests.integration.chassis.inbox_suite import AROUND_AN_INBOX, Server

PATIENCE_S = 60
GRACE = timedelta(seconds=PATIENCE_S)

pytestmark = AROUND_AN_INBOX


class Clockwork:
    """A handler: `later` waits until it is time, `work` takes a while, and anything else is done at once."""

    def __init__(self) -> None:
        self.waiting = 0
        self.working = 0
        self.is_time = asyncio.Event()
        self.may_end = asyncio.Event()
        self.done: list[bytes] = []

    async def __call__(self, record: Record) -> None:
        """Handle."""
        if record.value.startswith(b"later"):
            self.waiting += 1
            try:
                await self.is_time.wait()
            finally:
                self.waiting -= 1
        if record.value == b"work":
            self.working += 1
            await self.may_end.wait()
        self.done.append(record.value)


async def test_a_stop_waits_for_what_works_and_not_for_what_waits_which_comes_again(kafka: Server) -> None:
    settings, topic = laptop(kafka.address), f"waiting-{uuid.uuid4()}"
    metrics = InboxMetrics.on(CollectorRegistry())
    await asyncio.to_thread(create_topics, settings, topics=(Topic(topic, 1, 3_600_000),))
    first, second = Clockwork(), Clockwork()
    second.is_time.set()
    second.may_end.set()
    async with producing(settings, "waiting") as producer:
        await eventually(lambda: producer.connected, within_s=PATIENCE_S, what="a broker was seen")
        for value in (b"first", b"later 1", b"work", b"later 2", b"last"):
            await producer.write(topic, b"key", value, [], within=GRACE)

        def inbox_of(handler: Clockwork) -> OrderedInbox:
            options = InboxOptions(drain_grace=GRACE, waiting=lambda: handler.waiting)
            return OrderedInbox(
                settings,
                group=f"{topic}-readers",
                topic=topic,
                handle=handler,
                producer=producer,
                metrics=metrics,
                options=options,
            )

        inbox = inbox_of(first)
        async with inbox_running(inbox) as running:
            await eventually(lambda: (first.waiting, first.working) == (2, 1), within_s=PATIENCE_S, what="all in hand")
            await eventually(
                lambda: first.done == [b"first", b"last"], within_s=PATIENCE_S, what="what is done at once"
            )
            inbox.stop()
            await asyncio.wait({running}, timeout=1)
            assert not running.done(), "one still works"
            started = time.monotonic()
            first.may_end.set()
            await running
            took_s = time.monotonic() - started
        async with inbox_running(inbox_of(second)):
            rest = {b"later 1", b"work", b"later 2", b"last"}  # from the first that waited on
            await eventually(lambda: set(second.done) >= rest, within_s=PATIENCE_S, what="the rest, again")

    assert took_s < PATIENCE_S / 2, "it did not wait for a time that does not come"
    assert first.done == [b"first", b"last", b"work"]
