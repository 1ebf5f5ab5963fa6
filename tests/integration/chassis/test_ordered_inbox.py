"""The ordered inbox on a real broker: what settles, what waits, what is buried, and that nothing is stepped over."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from prometheus_client import CollectorRegistry

from deploy.create_topics import Topic, create_topics, laptop
from deploy.dev.kafka_broker import KafkaBroker
from services.chassis.dead_letter import DeadKind
from services.chassis.errors import Kind, ServiceError, Words
from services.chassis.inbox_metrics import InboxMetrics
from services.chassis.kafka_producer import BrokerAway, Producer, producing
from services.chassis.ordered_inbox import InboxOptions, OrderedInbox, inbox_running
from services.chassis.record_fate import TRIES, Poison, Record
from services.chassis.telemetry import Health
from tests.conditions import eventually
from tests.integration.chassis.inbox_suite import AROUND_AN_INBOX, Server

PATIENCE_S = 60
PUBLISH_WITHIN = timedelta(seconds=30)

pytestmark = AROUND_AN_INBOX


class Away(ServiceError):
    kind = Kind.UNAVAILABLE
    reason = "AWAY"


class Reader:
    """A handler that does what a record's value says, and remembers."""

    def __init__(self) -> None:
        self.tried: list[bytes] = []
        self.handled: list[Record] = []
        self.is_back = asyncio.Event()

    async def __call__(self, record: Record) -> None:
        """Handle, or fail in the way that was written."""
        self.tried.append(record.value)
        match record.value.partition(b" ")[0]:
            case b"poison":
                raise Poison("nobody can read this")
            case b"bug":
                raise ZeroDivisionError("lan@example.vn")
            case b"away" if not self.is_back.is_set():
                raise Away(Words(vi="Chưa được.", en="not yet"))
            case b"broker-away" if not self.is_back.is_set():
                raise BrokerAway("not acknowledged")
            case b"slow":
                await self.is_back.wait()
        self.handled.append(record)

    def values(self) -> list[bytes]:
        """Return what was handled, in that order."""
        return [record.value for record in self.handled]


class Post:
    """One topic with its dead letters, its writer, and an inbox whenever one is wanted."""

    def __init__(self, brokers: str, producer: Producer) -> None:
        self.brokers = brokers
        self.topic = f"post-{uuid.uuid4()}"
        self.group = f"{self.topic}-readers"
        self.health = Health()
        self.registry = CollectorRegistry()
        self._metrics = InboxMetrics.on(self.registry)
        self._producer = producer

    async def create(self, partitions: int = 1) -> None:
        """Make the topic and its dead letters."""
        topic = Topic(self.topic, partitions, 3_600_000)
        await asyncio.to_thread(create_topics, laptop(self.brokers), topics=(topic, topic.dead))

    async def write(self, *values: bytes, key: bytes = b"key") -> None:
        """Write one after the other."""
        await eventually(lambda: self._producer.connected, within_s=PATIENCE_S, what="a broker was seen")
        for value in values:
            await self._producer.write(self.topic, key, value, [("ce_id", value)], within=PUBLISH_WITHIN)

    @asynccontextmanager
    async def read_by(self, reader: Reader, *, on_dead: Any = None, **options: Any) -> AsyncIterator[OrderedInbox]:
        """Run an inbox."""
        inbox = OrderedInbox(
            laptop(self.brokers),
            group=self.group,
            topic=self.topic,
            handle=reader,
            producer=self._producer,
            metrics=self._metrics,
            health=self.health,
            options=replace(InboxOptions(drain_grace=timedelta(seconds=5)), **options),
            on_dead=on_dead,
        )
        async with inbox_running(inbox):
            yield inbox

    def count(self, outcome: str) -> float | None:
        """Return how many records settled so."""
        return self.registry.get_sample_value("inbox_records_total", {"topic": self.topic, "outcome": outcome})

    def restarts(self) -> float:
        """Return how often the consumer was built anew."""
        return self.registry.get_sample_value("inbox_restarts_total", {"topic": self.topic}) or 0

    def committed(self) -> int:
        """Return the group's offset in partition 0."""
        admin = KafkaAdminClient(bootstrap_servers=[self.brokers])
        try:
            offsets = admin.list_group_offsets([self.group])[self.group]
            return int(offsets[TopicPartition(self.topic, 0)].offset) if offsets else 0
        finally:
            admin.close()

    def dead_letters(self, lie_in: str | None = None) -> list[Any]:
        """Return every dead letter."""
        consumer = KafkaConsumer(bootstrap_servers=[self.brokers], group_id=None)
        try:
            partition = TopicPartition(lie_in or f"{self.topic}.dead", 0)
            consumer.assign([partition])
            consumer.seek_to_beginning()
            end = consumer.end_offsets([partition])[partition]
            found: list[Any] = []
            while consumer.position(partition) < end:
                found += [record for batch in consumer.poll(timeout_ms=200).values() for record in batch]
            return found
        finally:
            consumer.close()


@pytest.fixture
async def post(kafka: Server) -> AsyncIterator[Post]:
    async with producing(laptop(kafka.address), "test") as producer:
        made = Post(kafka.address, producer)
        await made.create()
        yield made


async def read(reader: Reader, *values: bytes) -> None:
    await eventually(lambda: reader.values() == list(values), within_s=PATIENCE_S, what=f"{values} are handled")


async def acknowledged(post: Post, offset: int) -> None:
    """Wait until the group has come that far, and see that it goes no further."""

    def look() -> bool:
        return post.committed() >= offset

    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while not await asyncio.to_thread(look):
        assert asyncio.get_running_loop().time() < deadline, "it is not acknowledged"
    assert await asyncio.to_thread(post.committed) == offset


async def test_a_handler_gets_records_whole_and_in_order_and_they_are_acknowledged(post: Post) -> None:
    reader = Reader()
    async with post.read_by(reader, concurrency=1):
        await post.write(b"a", b"b", b"c")
        await read(reader, b"a", b"b", b"c")
        await acknowledged(post, 3)

    first = reader.handled[0]
    assert (first.topic, first.partition, first.offset, first.key) == (post.topic, 0, 0, b"key")
    assert first.headers == {"ce_id": b"a"}
    assert first.epoch > 0
    assert post.count("handled") == 3


async def test_after_a_stop_the_next_one_goes_on_where_it_ended(post: Post) -> None:
    first, second = Reader(), Reader()
    await post.write(b"a", b"b")
    async with post.read_by(first):
        await eventually(lambda: len(first.handled) == 2, within_s=PATIENCE_S)
    await post.write(b"c")

    async with post.read_by(second):
        await read(second, b"c")
    assert second.tried == [b"c"], "nothing came twice"


async def test_poison_is_buried_with_its_headers_and_the_partition_goes_on(post: Post) -> None:
    reader = Reader()
    async with post.read_by(reader):
        await post.write(b"a", b"poison 1", b"b")
        await eventually(lambda: set(reader.values()) == {b"a", b"b"}, within_s=PATIENCE_S)
        await acknowledged(post, 3)

    (dead,) = await asyncio.to_thread(post.dead_letters)
    assert (dead.key, dead.value) == (b"key", b"poison 1")
    headers = dict(dead.headers)
    at = datetime.fromisoformat(headers.pop("dead-at").decode())
    assert abs(datetime.now(UTC) - at) < timedelta(minutes=5)
    assert headers == {
        "ce_id": b"poison 1",
        "dead-topic": post.topic.encode(),
        "dead-partition": b"0",
        "dead-offset": b"1",
        "dead-group": post.group.encode(),
        "dead-kind": b"undecodable",
        "dead-reason": b"nobody can read this",
        "dead-times": b"1",
    }
    assert (post.count("handled"), post.count("dead_lettered")) == (2, 1)
    assert reader.tried.count(b"poison 1") == 1, "it is not tried again"


async def test_a_handler_with_a_bug_is_tried_five_times_and_then_buried_without_its_words(post: Post) -> None:
    reader = Reader()
    async with post.read_by(reader):
        await post.write(b"bug", b"a")
        await eventually(lambda: post.count("dead_lettered") == 1, within_s=PATIENCE_S)
        await acknowledged(post, 2)

    (dead,) = await asyncio.to_thread(post.dead_letters)
    reason = dict(dead.headers)["dead-reason"].decode()
    assert dict(dead.headers)["dead-kind"] == b"handler-failed"
    assert reader.tried.count(b"bug") == TRIES
    assert reason == "the handler failed 5 times with ZeroDivisionError; the log has the traceback"


async def test_dead_letters_lie_where_they_are_told_to_and_who_must_hear_of_them_does(
    kafka: Server, post: Post
) -> None:
    elsewhere = f"{post.topic}.elsewhere.dead"
    await asyncio.to_thread(create_topics, laptop(kafka.address), topics=(Topic(elsewhere, 1, 3_600_000),))
    told: list[tuple[bytes, DeadKind]] = []
    errors: list[Exception] = [Away(Words(vi="Chưa được.", en="not yet")), ZeroDivisionError()]

    async def hear(record: Record, kind: DeadKind) -> None:
        told.append((record.value, kind))
        if errors:
            raise errors.pop(0)

    async with post.read_by(Reader(), on_dead=hear, buried_in=elsewhere, concurrency=1):
        await post.write(b"poison 1", b"poison 2")
        await acknowledged(post, 2)

    kind = DeadKind.UNDECODABLE
    assert told == [(b"poison 1", kind)] * 2 + [(b"poison 2", kind)], "away is tried again; a bug holds nothing up"
    dead = await asyncio.to_thread(post.dead_letters, elsewhere)
    assert [record.value for record in dead] == [b"poison 1", b"poison 2"]
    assert {dict(record.headers)["dead-topic"].decode() for record in dead} == {post.topic}
    assert await asyncio.to_thread(post.dead_letters) == []


async def test_a_header_without_a_value_stops_nothing(post: Post) -> None:
    reader = Reader()
    async with post.read_by(reader):
        await post.write(b"a")
        async with AIOKafkaProducer(bootstrap_servers=post.brokers) as writer:  # ours cannot write such a header
            await writer.send_and_wait(post.topic, b"poison", b"key", headers=[("empty", None)])
        await acknowledged(post, 2)

    (dead,) = await asyncio.to_thread(post.dead_letters)
    assert dict(dead.headers)["empty"] == b""
    assert post.restarts() == 0


@pytest.mark.parametrize("kind", [b"away", b"broker-away"])
async def test_what_waits_for_a_dependency_holds_its_partition_and_then_goes_on_in_order(
    post: Post, kind: bytes
) -> None:
    reader = Reader()
    async with post.read_by(reader, concurrency=1):
        await post.write(b"a", kind, b"b")
        await eventually(
            lambda: reader.tried.count(kind) > TRIES, within_s=PATIENCE_S, what="more tries than a bug gets"
        )
        assert reader.values() == [b"a"]
        await acknowledged(post, 1)

        reader.is_back.set()
        await read(reader, b"a", kind, b"b")
        await acknowledged(post, 3)

    assert post.count("dead_lettered") == 0


async def test_what_is_done_behind_something_that_waits_is_not_acknowledged(post: Post) -> None:
    reader = Reader()
    async with post.read_by(reader):
        await post.write(b"a", b"slow", b"b", b"c")
        await eventually(lambda: set(reader.values()) == {b"a", b"b", b"c"}, within_s=PATIENCE_S)
        await acknowledged(post, 1)

        reader.is_back.set()
        await acknowledged(post, 4)


async def test_no_more_than_the_window_is_in_hand(post: Post) -> None:
    reader = Reader()
    async with post.read_by(reader, window=5):
        await post.write(b"slow", *(str(number).encode() for number in range(20)))
        await eventually(lambda: len(reader.handled) == 4, within_s=PATIENCE_S)
        await acknowledged(post, 0)
        assert len(reader.handled) == 4, "five offsets from the oldest, itself included"

        reader.is_back.set()
        await eventually(lambda: len(reader.handled) == 21, within_s=PATIENCE_S)


async def test_a_stop_waits_for_what_is_in_hand_and_gives_up_the_rest(post: Post) -> None:
    first, second = Reader(), Reader()
    await post.write(b"a", b"slow", b"b")
    async with post.read_by(first, drain_grace=timedelta(seconds=0.5)) as inbox:
        await eventually(lambda: set(first.values()) == {b"a", b"b"}, within_s=PATIENCE_S)
        inbox.stop()

    second.is_back.set()
    async with post.read_by(second):
        await eventually(lambda: set(second.values()) == {b"slow", b"b"}, within_s=PATIENCE_S)
        await acknowledged(post, 3)
    assert b"a" not in second.tried


async def test_a_stop_that_is_in_time_repeats_nothing(post: Post) -> None:
    first, second = Reader(), Reader()
    await post.write(b"a", b"slow", b"b")
    async with post.read_by(first, drain_grace=timedelta(seconds=PATIENCE_S)) as inbox:
        await eventually(lambda: set(first.values()) == {b"a", b"b"}, within_s=PATIENCE_S)
        inbox.stop()
        first.is_back.set()
    await post.write(b"c")

    async with post.read_by(second):
        await read(second, b"c")
    assert sorted(first.values()) == [b"a", b"b", b"slow"]
    assert second.tried == [b"c"]


async def test_readiness_is_having_a_place_in_the_group(post: Post) -> None:
    assert post.health.missing == []

    async with post.read_by(Reader()):
        await eventually(lambda: post.health.ready, within_s=PATIENCE_S)


async def test_it_says_which_partitions_are_its_own(kafka: Server) -> None:
    async with producing(laptop(kafka.address), "test") as producer:
        post = Post(kafka.address, producer)
        await post.create(partitions=3)
        async with post.read_by(Reader()) as first:
            assert first.assigned == frozenset()
            await eventually(lambda: first.assigned == {0, 1, 2}, within_s=PATIENCE_S)

            async with post.read_by(Reader()) as second:
                await eventually(
                    lambda: second.assigned and first.assigned | second.assigned == {0, 1, 2}, within_s=PATIENCE_S
                )
                assert not first.assigned & second.assigned
                await eventually(lambda: second.consuming, within_s=PATIENCE_S, what="a start that is not cut off")

            assert second.assigned == frozenset()
            await eventually(lambda: first.assigned == {0, 1, 2}, within_s=PATIENCE_S)


@pytest.fixture
async def absent(tmp_path: Path) -> AsyncIterator[KafkaBroker]:
    """A broker that nobody has started yet."""
    broker = KafkaBroker(tmp_path / "kafka")
    yield broker
    await asyncio.to_thread(broker.stop)


async def test_a_broker_that_is_not_there_at_the_start_is_waited_for(absent: KafkaBroker) -> None:
    reader = Reader()
    async with producing(laptop(absent.address), "test") as producer:
        post = Post(absent.address, producer)
        async with post.read_by(reader):
            await eventually(lambda: post.restarts() >= 1, within_s=PATIENCE_S, what="it has tried")
            assert not post.health.ready

            await asyncio.to_thread(absent.start)
            await post.create()
            await post.write(b"a")

            await read(reader, b"a")
            assert post.health.ready
