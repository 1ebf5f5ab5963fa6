"""A road to the mailer of a test's own: letters are asked for as otp does, and taken as the mailer does."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta

from kafka import KafkaConsumer, TopicPartition
from kafka.structs import OffsetAndMetadata
from prometheus_client import CollectorRegistry

from deploy.create_topics import Topic, create_topics, laptop
from services.chassis.events import Envelope
from services.chassis.kafka_producer import Producer, producing
from services.otp.metrics import OtpMetrics
from services.otp.outbound.kafka_queue import KafkaQueue, queue_sampled
from services.otp.ports import Position
from tests.conditions import eventually

PARTITIONS = 4
WITHIN = timedelta(seconds=30)


class MailLane:
    """One topic, its writer, and the group that mails."""

    def __init__(self, brokers: str, producer: Producer) -> None:
        self.topic, self.group = f"letters-{uuid.uuid4()}", f"mailer-{uuid.uuid4()}"
        self.tier = f"tier-{uuid.uuid4()}"
        self.registry = CollectorRegistry()
        self._brokers = brokers
        self._producer = producer
        self._metrics = OtpMetrics(self.registry, [])

    async def create(self) -> None:
        """Make the topic."""
        topics = Topic(self.topic, PARTITIONS, 3_600_000), Topic(self.tier, 2, 3_600_000)
        await asyncio.to_thread(create_topics, laptop(self._brokers), topics=topics)
        await eventually(lambda: self._producer.connected, within_s=WITHIN.total_seconds(), what="a broker was seen")

    async def ask_for(self, letters: int) -> list[Position]:
        """Ask for letters, by as many people; return where each stands."""
        return await self._write(self.topic, letters)

    async def put_off(self, letters: int) -> None:
        """Let so many letters wait in the tier, whose group has never come."""
        await self._write(self.tier, letters)

    async def _write(self, topic: str, letters: int) -> list[Position]:
        events = [self._event(topic) for _ in range(letters)]
        told = await asyncio.gather(*(self._producer.publish(event, within=WITHIN) for event in events))
        return [Position(each.partition, each.offset) for each in told]

    async def commit(self, offsets: Mapping[int, int]) -> None:
        """Let the mailer have come so far."""
        await asyncio.to_thread(self._commit, offsets)

    def sampled(self) -> AbstractAsyncContextManager[KafkaQueue]:
        """Return the queue as otp sees it."""
        return queue_sampled(
            laptop(self._brokers), self._metrics, groups={self.topic: self.group, self.tier: f"{self.group}-retry"}
        )

    def failures(self) -> float:
        """Return how many samples failed."""
        return self.registry.get_sample_value("otp_queue_sample_failures_total") or 0

    def _event(self, topic: str) -> Envelope:
        key = str(uuid.uuid4())
        return Envelope(topic, key.encode(), b"sealed", "kip.test.Letter", "test", key, datetime.now(UTC))

    def _commit(self, offsets: Mapping[int, int]) -> None:
        consumer = KafkaConsumer(bootstrap_servers=[self._brokers], group_id=self.group, enable_auto_commit=False)
        try:
            places = {TopicPartition(self.topic, number): offset for number, offset in offsets.items()}
            consumer.assign(list(places))
            consumer.commit({place: OffsetAndMetadata(offset, "", -1) for place, offset in places.items()})
        finally:
            consumer.close(autocommit=False)


@asynccontextmanager
async def mail_lane(brokers: str) -> AsyncIterator[MailLane]:
    """Yield a lane whose topic exists."""
    async with producing(laptop(brokers), "test") as producer:
        lane = MailLane(brokers, producer)
        await lane.create()
        yield lane
