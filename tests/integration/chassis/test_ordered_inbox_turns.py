"""Partitions take turns: a short one does not wait until a long one, fetched before it grew, has been worked off."""

from __future__ import annotations

import asyncio
import uuid
from datetime import timedelta

from prometheus_client import CollectorRegistry

from deploy.create_topics import Topic, create_topics, laptop
from services.chassis.inbox_metrics import InboxMetrics
from services.chassis.kafka_producer import Producer, producing
from services.chassis.ordered_inbox import InboxOptions, OrderedInbox, inbox_running
from services.chassis.record_fate import Record
from tests.conditions import eventually
from tests.integration.chassis.inbox_suite import AROUND_AN_INBOX, Server

PATIENCE_S = 60
LETTER = b"." * 600  # an order for a letter has about as many octets
LONG, SHORT = 600, 40
WINDOW = 10

pytestmark = AROUND_AN_INBOX


class Turnstile:
    """A handler that lets nothing through until it is opened, and remembers the partitions of what went through."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.waiting: set[int] = set()
        self.through: list[int] = []

    async def __call__(self, record: Record) -> None:
        """Handle."""
        self.waiting.add(record.partition)
        await self.opened.wait()
        self.through.append(record.partition)


async def test_a_partition_that_grows_is_not_kept_waiting_until_a_longer_one_is_done(kafka: Server) -> None:
    settings, topic = laptop(kafka.address), f"turns-{uuid.uuid4()}"
    await asyncio.to_thread(create_topics, settings, topics=(Topic(topic, 2, 3_600_000),))
    turnstile = Turnstile()
    async with producing(settings, "turns") as producer:
        await eventually(lambda: producer.connected, within_s=PATIENCE_S, what="a broker was seen")
        long, short, written = await _keys(producer, topic)
        await _write(producer, topic, long, LONG)
        inbox = OrderedInbox(
            settings,
            group=f"{topic}-readers",
            topic=topic,
            handle=turnstile,
            producer=producer,
            metrics=InboxMetrics.on(CollectorRegistry()),
            options=InboxOptions(window=WINDOW, concurrency=1),
        )
        async with inbox_running(inbox):
            await eventually(lambda: turnstile.waiting, within_s=PATIENCE_S, what="the first is in hand")
            await _write(producer, topic, short, SHORT)
            turnstile.opened.set()
            await eventually(
                lambda: len(turnstile.through) == LONG + SHORT + written, within_s=PATIENCE_S, what="all went through"
            )

    short_partition = min(set(turnstile.through), key=turnstile.through.count)
    first_of_the_rest = [place for place, of in enumerate(turnstile.through) if of == short_partition][1]
    last = len(turnstile.through) - 1 - turnstile.through[::-1].index(short_partition)
    assert first_of_the_rest < LONG / 4
    assert last < LONG / 2


async def _keys(producer: Producer, topic: str) -> tuple[bytes, bytes, int]:
    """Return two keys whose records go to different partitions, and how many were written to find them."""
    first = await producer.write(topic, b"0", LETTER, [], within=timedelta(seconds=PATIENCE_S))
    for number in range(1, 64):
        key = str(number).encode()
        other = await producer.write(topic, key, LETTER, [], within=timedelta(seconds=PATIENCE_S))
        if other.partition != first.partition:
            return b"0", key, number + 1
    raise AssertionError("all keys are in one partition")


async def _write(producer: Producer, topic: str, key: bytes, count: int) -> None:
    within = timedelta(seconds=PATIENCE_S)
    await asyncio.gather(*(producer.write(topic, key, LETTER, [], within=within) for _ in range(count)))
