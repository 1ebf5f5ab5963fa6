"""What any `Queue` owes otp: the twin in memory and the one on Kafka pass the same suite."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import CollectorRegistry

from deploy.create_topics import laptop
from services.chassis.clock import system_clock
from services.otp.metrics import OtpMetrics
from services.otp.outbound.kafka_queue import AdminReader, KafkaQueue
from services.otp.ports import Position, Queue
from services.otp.rules.outlook import Outlook
from tests.fakes.clock import NOON
from tests.fakes.otp import InMemoryQueue
from tests.integration.lagwatch.real_queues import UNCLOSED, Broker, RealQueues, real_queues

pytestmark = UNCLOSED

NOW = NOON + timedelta(milliseconds=400)


class World:
    """A queue of two partitions, and the hands of the mailer."""

    queue: Queue

    async def write(self, partition: int, letters: int) -> None:
        """Let letters be asked for."""

    async def commit(self, partition: int, offset: int) -> None:
        """Let the mailer have come so far, and the queue know it."""


class InMemoryWorld(World):
    def __init__(self) -> None:
        self.memory = self.queue = InMemoryQueue()
        self.memory.partitions = range(2)

    async def commit(self, partition: int, offset: int) -> None:
        self.memory.committed[partition] = offset


@dataclass
class KafkaWorld(World):
    hands: RealQueues
    queue: KafkaQueue
    topic: str
    group: str
    written: dict[int, int] = field(default_factory=dict)

    async def write(self, partition: int, letters: int) -> None:
        await asyncio.to_thread(self.hands.append, self.topic, partition, *[datetime.now(UTC)] * letters)

    async def commit(self, partition: int, offset: int) -> None:
        await asyncio.to_thread(self.hands.commit, self.group, self.topic, partition, offset)
        await self.queue.sample()


class QueueContract:
    async def test_without_a_position_nothing_is_known(self, world: World) -> None:
        await world.write(0, 1)
        await world.commit(0, 0)

        assert world.queue.outlook(None, NOW) == Outlook()

    async def test_where_the_mailer_never_committed_it_begins_at_the_beginning(self, world: World) -> None:
        await world.write(0, 1)
        await world.write(1, 5)
        await world.commit(0, 1)

        assert world.queue.outlook(Position(1, 4), NOW) == Outlook(4)

    async def test_of_a_partition_that_does_not_exist_nothing_is_known(self, world: World) -> None:
        await world.commit(0, 0)

        assert world.queue.outlook(Position(99, 0), NOW) == Outlook()

    async def test_of_an_offset_that_the_broker_did_not_say_nothing_is_known(self, world: World) -> None:
        await world.commit(0, 0)

        assert world.queue.outlook(Position(0, -1), NOW) == Outlook()

    async def test_the_place_is_how_many_letters_leave_before(self, world: World) -> None:
        await world.write(0, 10)
        await world.write(1, 30)
        await world.commit(0, 4)
        await world.commit(1, 5)

        places = [world.queue.outlook(Position(*where), NOW).place for where in ((0, 9), (1, 9), (1, 29))]

        assert places == [5, 4, 24]

    async def test_the_next_letter_leaves_within_the_second(self, world: World) -> None:
        await world.write(0, 10)
        await world.commit(0, 4)

        assert world.queue.outlook(Position(0, 4), NOW) == Outlook(0, NOON + timedelta(seconds=1))

    async def test_a_letter_that_has_left_is_at_place_0(self, world: World) -> None:
        await world.write(0, 10)
        await world.commit(0, 4)

        assert world.queue.outlook(Position(0, 3), NOW) == Outlook(0, NOON + timedelta(seconds=1))

    async def test_when_the_mailer_moves_on_everybody_does(self, world: World) -> None:
        await world.write(0, 10)
        await world.commit(0, 4)
        before = world.queue.outlook(Position(0, 9), NOW).place

        await world.commit(0, 7)

        assert (before, world.queue.outlook(Position(0, 9), NOW).place) == (5, 2)

    async def test_no_news_of_hand_overs_is_refused(self, world: World) -> None:
        await world.commit(0, 0)

        for at in (NOW, NOW, NOW - timedelta(days=400), NOW + timedelta(days=400)):
            world.queue.handed_over(at)

        assert world.queue.outlook(Position(0, 0), NOW).place == 0


class TestInMemory(QueueContract):
    @pytest.fixture
    def world(self) -> World:
        return InMemoryWorld()

    def test_what_is_not_known_is_none_as_in_the_real_one(self) -> None:
        queue = InMemoryQueue()
        queue.committed[0] = 4
        assert queue.outlook(Position(0, 8), NOW) == Outlook(4, None)

        queue.per_second = 2
        assert queue.outlook(Position(0, 8), NOW) == Outlook(4, NOON + timedelta(seconds=3))

        queue.is_blind = True
        assert queue.outlook(Position(0, 8), NOW) == Outlook()


class TestKafka(QueueContract):
    @pytest.fixture
    async def world(self, kafka: Broker) -> AsyncIterator[World]:
        name = uuid.uuid4().hex[:12]
        topic, group = f"letters-{name}", f"mailer-{name}"
        async with AsyncExitStack() as parts:
            hands = parts.enter_context(real_queues(kafka.address))
            hands.create(topic, partitions=2)
            queue = KafkaQueue(
                lambda: AdminReader.opened(laptop(kafka.address), {topic: group}),
                system_clock,
                OtpMetrics(CollectorRegistry(), []),
                topic,
            )
            parts.push_async_callback(queue.close)
            yield KafkaWorld(hands, queue, topic, group)
