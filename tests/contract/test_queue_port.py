"""What any `QueueReader` owes lagwatch: the twin in memory and the one on Kafka pass the same suite."""

from __future__ import annotations

import asyncio
import socket
import threading
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from kip.mailer.v1 import mail_events_pb2

from services.chassis.lag import PartitionReading, Queue
from services.lagwatch.outbound.kafka_heads import BATCH_OCTETS
from services.lagwatch.outbound.kafka_queue import reading_queues
from services.lagwatch.ports import Lane, QueueReader, QueueReading, Reason, Unavailable, Unread
from tests.fakes.lagwatch import InMemoryQueues, Letter
from tests.integration.lagwatch.real_queues import UNCLOSED, Broker, RealQueues, hand_over_event, real_queues

pytestmark = UNCLOSED

NOW = datetime.now(UTC).replace(microsecond=0)


def seconds_ago(count: float) -> datetime:
    return NOW - timedelta(seconds=count)


@dataclass
class World:
    """A broker to write to, the reader under test, and names that no other test uses."""

    hands: InMemoryQueues | RealQueues
    reader: QueueReader
    topic: str
    group: str
    lane: Lane
    """Nothing of it exists before a test creates it."""

    async def read(self, *queues: Queue) -> QueueReading:
        return (await self.reader.read(queues or [Queue(self.group, self.topic)]))[0]

    async def partition(self) -> PartitionReading:
        reading = await self.read()
        assert reading.unread == ()
        return reading.partitions[0]


def lane_of(name: str) -> Lane:
    return Lane(
        name,
        Queue(f"mailer-{name}", f"letters-{name}"),
        (Queue(f"mailer-retry-{name}-1m", f"tier-{name}"),),
        Queue(f"otp-{name}", f"events-{name}"),
    )


class QueueReaderContract:
    async def test_a_group_that_does_not_exist_has_everything_in_front_of_it(self, world: World) -> None:
        world.hands.create(world.topic)
        world.hands.append(world.topic, 0, seconds_ago(9), seconds_ago(5), seconds_ago(1))

        reading = await world.read()

        assert reading.partitions == (PartitionReading(0, None, 0, 3, head_at=seconds_ago(9)),)
        assert (reading.unread, reading.members) == ((), 0)

    async def test_a_group_in_the_middle_waits_for_the_record_it_committed(self, world: World) -> None:
        world.hands.create(world.topic)
        world.hands.append(world.topic, 0, seconds_ago(9), seconds_ago(5), seconds_ago(1))
        world.hands.commit(world.group, world.topic, 0, 1)

        assert await world.partition() == PartitionReading(0, 1, 0, 3, head_at=seconds_ago(5))

    async def test_a_group_at_the_end_waits_for_nothing(self, world: World) -> None:
        world.hands.create(world.topic)
        world.hands.append(world.topic, 0, seconds_ago(9), seconds_ago(5))
        world.hands.commit(world.group, world.topic, 0, 2)

        partition = await world.partition()

        assert partition == PartitionReading(0, 2, 0, 2, head_at=None)
        assert not partition.is_waiting

    async def test_an_empty_topic_has_nothing_to_wait_for(self, world: World) -> None:
        world.hands.create(world.topic)

        assert await world.partition() == PartitionReading(0, None, 0, 0)

    async def test_each_partition_has_its_own_oldest_record(self, world: World) -> None:
        world.hands.create(world.topic, partitions=3)
        world.hands.append(world.topic, 0, seconds_ago(7))
        world.hands.append(world.topic, 2, seconds_ago(50), seconds_ago(3))
        world.hands.commit(world.group, world.topic, 2, 1)

        reading = await world.read()

        assert [(part.partition, part.head_at) for part in reading.partitions] == [
            (0, seconds_ago(7)),
            (1, None),
            (2, seconds_ago(3)),
        ]

    async def test_two_groups_of_one_topic_are_each_at_their_own_place(self, world: World) -> None:
        world.hands.create(world.topic)
        world.hands.append(world.topic, 0, seconds_ago(9), seconds_ago(5))
        world.hands.commit(world.group, world.topic, 0, 1)

        ahead, behind = await world.reader.read(
            [Queue(world.group, world.topic), Queue(f"{world.group}-behind", world.topic)]
        )

        assert ahead.partitions[0].head_at == seconds_ago(5)
        assert behind.partitions[0].head_at == seconds_ago(9)

    async def test_after_a_cut_the_next_record_that_exists_is_the_oldest(self, world: World) -> None:
        world.hands.create(world.topic)
        world.hands.append(world.topic, 0, *(seconds_ago(count) for count in (9, 8, 7, 6)))
        world.hands.commit(world.group, world.topic, 0, 1)
        world.hands.cut(world.topic, 0, before=3)

        assert await world.partition() == PartitionReading(0, 1, 3, 4, head_at=seconds_ago(6))

    async def test_when_everything_was_cut_nothing_waits(self, world: World) -> None:
        world.hands.create(world.topic)
        world.hands.append(world.topic, 0, seconds_ago(9), seconds_ago(8))
        world.hands.cut(world.topic, 0, before=2)

        partition = await world.partition()

        assert partition == PartitionReading(0, None, 2, 2)
        assert not partition.is_waiting

    async def test_an_offset_without_a_record_is_stepped_over(self, world: World) -> None:
        world.hands.create(world.topic)
        world.hands.append_in_transaction(world.topic, 0, seconds_ago(9))
        world.hands.append(world.topic, 0, seconds_ago(4))
        world.hands.commit(world.group, world.topic, 0, 1)

        assert await world.partition() == PartitionReading(0, 1, 0, 3, head_at=seconds_ago(4))

    async def test_where_no_record_is_left_the_age_is_unknown_and_hides_no_other(self, world: World) -> None:
        world.hands.create(world.topic, partitions=2)
        world.hands.append_in_transaction(world.topic, 0, seconds_ago(9))
        world.hands.commit(world.group, world.topic, 0, 1)
        world.hands.append(world.topic, 1, seconds_ago(5))

        assert [part.head_at for part in (await world.read()).partitions] == [None, seconds_ago(5)]
        world.hands.append(world.topic, 0, seconds_ago(4))
        assert [part.head_at for part in (await world.read()).partitions] == [seconds_ago(4), seconds_ago(5)]

    async def test_a_topic_that_does_not_exist_is_unread_and_hides_nothing(self, world: World) -> None:
        world.hands.create(world.topic)
        missing, there = Queue(world.group, f"{world.topic}-missing"), Queue(world.group, world.topic)

        readings = await world.reader.read([missing, there])

        assert readings[0] == QueueReading(missing, unread=(Unread(None, Reason.TOPIC_UNKNOWN),))
        assert [reading.queue for reading in readings] == [missing, there]
        assert len(readings[1].partitions) == 1

    async def test_a_topic_made_anew_starts_from_nothing(self, world: World) -> None:
        world.hands.create(world.topic)
        world.hands.append(world.topic, 0, seconds_ago(9), seconds_ago(8))
        world.hands.commit(world.group, world.topic, 0, 2)
        assert (await world.partition()).end == 2
        world.hands.delete(world.topic)
        assert (await world.read()).unread == (Unread(None, Reason.TOPIC_UNKNOWN),)

        world.hands.create(world.topic)
        world.hands.append(world.topic, 0, seconds_ago(3))

        assert await world.partition() == PartitionReading(0, None, 0, 1, head_at=seconds_ago(3))

    async def test_the_members_of_a_group_are_counted(self, world: World) -> None:
        world.hands.create(world.topic)
        world.hands.join(world.group, world.topic)

        assert (await world.read()).members == 1

    async def test_of_a_tier_the_letter_that_was_asked_for_first_is_told_wherever_it_stands(self, world: World) -> None:
        (tier,) = world.lane.tiers
        world.hands.create(tier.topic, partitions=2)
        for asked, due in ((300, -20), (500, -30), (100, -40)):
            world.hands.defer(tier.topic, 0, seconds_ago(due + 60), Letter(seconds_ago(asked), seconds_ago(due)))

        first, empty = (await world.read(tier)).partitions
        world.hands.commit(tier.group, tier.topic, 0, 2)
        second, _ = (await world.read(tier)).partitions

        assert (first.head_at, first.asked_at, first.due_at) == (seconds_ago(40), seconds_ago(500), seconds_ago(-20))
        assert (second.head_at, second.asked_at, second.due_at) == (seconds_ago(20), seconds_ago(100), seconds_ago(-40))
        assert empty == PartitionReading(1, None, 0, 0)

    async def test_a_tier_that_is_read_from_an_earlier_place_again_is_known_again(self, world: World) -> None:
        (tier,) = world.lane.tiers
        world.hands.create(tier.topic)
        for asked in (300, 200):
            world.hands.defer(tier.topic, 0, seconds_ago(5), Letter(seconds_ago(asked), NOW))
        world.hands.commit(tier.group, tier.topic, 0, 1)
        assert (await world.read(tier)).partitions[0].asked_at == seconds_ago(200)

        world.hands.commit(tier.group, tier.topic, 0, 0)

        assert (await world.read(tier)).partitions[0].asked_at == seconds_ago(300)

    async def test_hand_overs_are_counted_once_from_the_first_reading_on(self, world: World) -> None:
        deliveries = world.lane.deliveries
        world.hands.create(deliveries.topic)
        world.hands.hand_over(deliveries.topic, 5)

        counts = [(await world.read(deliveries)).handed_over]
        world.hands.hand_over(deliveries.topic, 3)
        counts += [(await world.read(deliveries)).handed_over for _ in range(2)]
        world.hands.hand_over(deliveries.topic, 4)
        counts += [(await world.read(deliveries)).handed_over]

        assert counts == [0, 3, 0, 4]

    async def test_an_offset_without_a_record_holds_up_no_count_of_hand_overs(self, world: World) -> None:
        deliveries = world.lane.deliveries
        world.hands.create(deliveries.topic)
        assert (await world.read(deliveries)).handed_over == 0
        world.hands.append_in_transaction(deliveries.topic, 0, NOW)
        world.hands.hand_over(deliveries.topic, 2)
        world.hands.append_in_transaction(deliveries.topic, 0, NOW)

        assert (await world.read(deliveries)).handed_over == 2

    async def test_of_a_queue_that_is_no_lane_s_nothing_is_counted(self, world: World) -> None:
        world.hands.create(world.topic)
        world.hands.hand_over(world.topic, 1)

        assert (await world.read()).handed_over is None

    async def test_a_reading_changes_nothing(self, world: World) -> None:
        world.hands.create(world.topic)
        world.hands.append(world.topic, 0, seconds_ago(9), seconds_ago(5))
        world.hands.commit(world.group, world.topic, 0, 1)

        assert await world.read() == await world.read()


class TestInMemory(QueueReaderContract):
    @pytest.fixture
    def world(self) -> World:
        lane = lane_of("one")
        broker = InMemoryQueues([lane])
        return World(broker, broker, "letters", "mailer", lane)

    async def test_a_broker_that_is_away_is_unavailable(self, world: World) -> None:
        assert isinstance(world.hands, InMemoryQueues)
        world.hands.broken = Reason.BROKER_AWAY

        with pytest.raises(Unavailable, match=Reason.BROKER_AWAY):
            await world.read()


class TestKafka(QueueReaderContract):
    @pytest.fixture
    async def world(self, kafka: Broker) -> AsyncIterator[World]:
        name = uuid.uuid4().hex[:12]
        async with AsyncExitStack() as parts:
            hands = parts.enter_context(real_queues(kafka.address))
            lane = lane_of(name)
            reader = await parts.enter_async_context(reading_queues({"bootstrap_servers": [kafka.address]}, [lane]))
            yield World(hands, reader, f"letters-{name}", f"mailer-{name}", lane)

    async def test_only_a_relay_s_own_word_that_it_took_a_letter_is_a_hand_over(self, world: World) -> None:
        assert isinstance(world.hands, RealQueues)
        topic = world.lane.deliveries.topic
        world.hands.create(topic)
        assert (await world.read(world.lane.deliveries)).handed_over == 0
        own, log = mail_events_pb2.SOURCE_SMTP_REPLY, mail_events_pb2.SOURCE_RELAY_LOG
        world.hands.tell(
            topic,
            hand_over_event(uncertain=True),
            mail_events_pb2.MailDelivery(source=own, deferred=mail_events_pb2.Deferred()),
            mail_events_pb2.MailDelivery(source=own, dropped=mail_events_pb2.Dropped()),
            mail_events_pb2.MailDelivery(source=own, refused=mail_events_pb2.Refused()),
            mail_events_pb2.MailDelivery(source=log, handed_over=mail_events_pb2.HandedOver()),
        )
        world.hands.append(topic, 0, NOW, octets=3)

        assert (await world.read(world.lane.deliveries)).handed_over == 0

    async def test_what_is_known_of_letters_outlives_clients_that_are_thrown_away(self, world: World) -> None:
        assert isinstance(world.hands, RealQueues)
        (tier,) = world.lane.tiers
        world.hands.create(tier.topic)
        world.hands.create(world.lane.deliveries.topic)
        world.hands.defer(tier.topic, 0, seconds_ago(5), Letter(seconds_ago(300), NOW))
        world.hands.create(world.topic)
        world.hands.append_in_transaction(world.topic, 0, NOW)
        world.hands.commit(world.group, world.topic, 0, 1)
        queues = [Queue(world.group, world.topic), tier, world.lane.deliveries]
        headless, *_ = await world.reader.read(queues)
        assert headless.partitions[0].head_at is None, "where no head was found the clients are thrown away"
        world.hands.hand_over(world.lane.deliveries.topic, 2)

        _, told, counted = await world.reader.read(queues)

        assert (told.partitions[0].asked_at, counted.handed_over) == (seconds_ago(300), 2)

    async def test_a_record_that_carries_no_times_is_as_old_as_it_is_in_the_tier(self, world: World) -> None:
        assert isinstance(world.hands, RealQueues)
        (tier,) = world.lane.tiers
        world.hands.create(tier.topic)
        world.hands.append(tier.topic, 0, seconds_ago(7))

        part = (await world.read(tier)).partitions[0]

        assert (part.head_at, part.asked_at, part.due_at) == (seconds_ago(7), seconds_ago(7), None)

    async def test_records_larger_than_one_fetch_are_read_in_every_partition(self, world: World) -> None:
        assert isinstance(world.hands, RealQueues)
        world.hands.create(world.topic, partitions=3)
        for partition in range(3):
            world.hands.append(world.topic, partition, seconds_ago(partition + 1), octets=10 * BATCH_OCTETS)

        reading = await world.read()

        assert [part.head_at for part in reading.partitions] == [seconds_ago(1), seconds_ago(2), seconds_ago(3)]

    async def test_a_broker_that_says_nothing_is_unavailable_within_bounds(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections in, and never answers
            address = f"127.0.0.1:{silent.getsockname()[1]}"
            threads = threading.active_count()

            async with (
                asyncio.timeout(5),
                reading_queues({"bootstrap_servers": [address]}, answer_within=timedelta(milliseconds=300)) as reader,
            ):
                for _ in range(3):
                    with pytest.raises(Unavailable, match=Reason.BROKER_AWAY):
                        await reader.read([Queue("mailer", "letters")])
                assert threading.active_count() <= threads + 1  # the reader's own; kafka-python's are gone again
