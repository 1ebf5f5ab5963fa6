"""The producer on a real broker: acknowledged or told, and mended after every outage."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import pytest
from kafka import KafkaConsumer, TopicPartition

from deploy.create_topics import Topic, create_topics, laptop
from deploy.dev.kafka_broker import KafkaBroker
from services.chassis.events import Envelope
from services.chassis.kafka_producer import BrokerAway, Producer, RecordPosition, producing
from services.chassis.settings import KafkaSettings
from tests.conditions import eventually

PATIENCE = timedelta(seconds=60)
SHORT = timedelta(seconds=1)
DELIVERY = timedelta(seconds=3)
PARTITIONS = 3

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.usefixtures("rubbish_collected"),
    # kafka-python leaves the sockets of attempts that failed to the garbage collector.
    pytest.mark.filterwarnings("ignore:.*socket:pytest.PytestUnraisableExceptionWarning"),
]


class Server(Protocol):
    """The suite's broker."""

    @property
    def address(self) -> str:
        """HOST:PORT."""


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    """A broker that a test may kill."""
    broker = KafkaBroker(tmp_path_factory.mktemp("kafka-private"))
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


def new_topic(brokers: str) -> str:
    name = f"letters-{uuid.uuid4()}"
    create_topics(laptop(brokers), topics=(Topic(name, PARTITIONS, 3_600_000),))
    return name


def event(topic: str, key: str, value: bytes = b"value") -> Envelope:
    return Envelope(topic, key.encode(), value, "kip.test.Letter", "test", key, datetime.now(UTC))


def records_of(brokers: str, topic: str) -> list[Any]:
    """Return every record that the topic holds now."""
    consumer = KafkaConsumer(bootstrap_servers=[brokers], group_id=None)
    try:
        partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        consumer.assign(partitions)
        consumer.seek_to_beginning()
        ends = consumer.end_offsets(partitions)
        found: list[Any] = []
        while any(consumer.position(partition) < ends[partition] for partition in partitions):
            found += [record for batch in consumer.poll(timeout_ms=200).values() for record in batch]
        return found
    finally:
        consumer.close()


async def connected(producer: Producer) -> Producer:
    await eventually(lambda: producer.connected, within_s=PATIENCE.total_seconds(), what="a broker was seen")
    return producer


async def test_what_was_acknowledged_is_there_whole(kafka: Server) -> None:
    topic = await asyncio.to_thread(new_topic, kafka.address)
    sent = [event(topic, f"challenge-{number}", str(number).encode()) for number in range(20)]
    async with producing(laptop(kafka.address), "test") as producer:
        await connected(producer)
        for each in sent:
            await producer.publish(each, within=PATIENCE)

        records = await asyncio.to_thread(records_of, kafka.address, topic)

    assert {(record.key, record.value) for record in records} == {(each.key, each.value) for each in sent}
    assert len(records) == 20
    by_key = {each.key: dict(each.headers()) for each in sent}
    assert all(dict(record.headers) == by_key[record.key] for record in records)


async def test_one_key_has_one_partition_and_many_keys_have_all(kafka: Server) -> None:
    topic = await asyncio.to_thread(new_topic, kafka.address)
    async with producing(laptop(kafka.address), "test") as producer:
        await connected(producer)
        async with asyncio.TaskGroup() as publishing:
            for number in range(2_000):  # twice as many as may be in flight
                publishing.create_task(producer.publish(event(topic, f"key-{number % 50}"), within=PATIENCE))

        records = await asyncio.to_thread(records_of, kafka.address, topic)

    partitions: dict[bytes, set[int]] = {}
    for record in records:
        partitions.setdefault(record.key, set()).add(record.partition)
    assert len(records) == 2_000
    assert all(len(places) == 1 for places in partitions.values())
    assert set().union(*partitions.values()) == set(range(PARTITIONS))


async def test_it_is_told_where_each_acknowledged_record_stands(kafka: Server) -> None:
    topic = await asyncio.to_thread(new_topic, kafka.address)
    async with producing(laptop(kafka.address), "test") as producer:
        await connected(producer)
        sent = [event(topic, f"key-{number}", str(number).encode()) for number in range(300)]

        told = await asyncio.gather(*(producer.publish(each, within=PATIENCE) for each in sent))
        last = await producer.write(topic, b"key-0", b"last", [], within=PATIENCE)

        records = await asyncio.to_thread(records_of, kafka.address, topic)

    stands = {record.value: RecordPosition(record.partition, record.offset) for record in records}
    assert {each.value: position for each, position in zip(sent, told, strict=True)} | {b"last": last} == stands
    assert {position.partition for position in told} == set(range(PARTITIONS))


async def test_who_gives_up_before_the_hand_over_is_not_written_and_a_record_too_large_fails_alone(
    kafka: Server,
) -> None:
    topic = await asyncio.to_thread(new_topic, kafka.address)
    async with producing(laptop(kafka.address), "test") as producer:
        await connected(producer)
        await producer.publish(event(topic, "first"), within=PATIENCE)
        given_up = asyncio.create_task(producer.publish(event(topic, "given up"), within=PATIENCE))
        await asyncio.sleep(0)  # it waits for company
        given_up.cancel()

        told = await asyncio.gather(
            producer.publish(event(topic, "huge", bytes(2 * 1024 * 1024)), within=PATIENCE),
            producer.publish(event(topic, "last"), within=PATIENCE),
            return_exceptions=True,
        )
        records = await asyncio.to_thread(records_of, kafka.address, topic)

    assert [type(answer) for answer in told] == [BrokerAway, RecordPosition]
    assert given_up.cancelled()
    assert {record.key for record in records} == {b"first", b"last"}


async def test_a_topic_that_does_not_exist_is_named_with_what_makes_it(kafka: Server) -> None:
    async with producing(laptop(kafka.address), "test") as producer:
        await connected(producer)

        with pytest.raises(BrokerAway, match=r"no-such-topic: .*no such topic \(deploy/create_topics\.py makes them\)"):
            await producer.publish(event("no-such-topic", "key"), within=PATIENCE)


async def test_a_topic_that_is_made_later_is_found(kafka: Server) -> None:
    topic = f"letters-{uuid.uuid4()}"
    async with producing(laptop(kafka.address), "test") as producer:
        await connected(producer)
        with pytest.raises(BrokerAway):
            await producer.publish(event(topic, "key"), within=PATIENCE)

        await asyncio.to_thread(create_topics, laptop(kafka.address), topics=(Topic(topic, PARTITIONS, 3_600_000),))

        await _published(producer, event(topic, "key"))


async def test_while_a_broker_is_away_each_producer_says_so_in_time_and_writes_when_it_is_back(
    private: KafkaBroker,
) -> None:
    topic = await asyncio.to_thread(new_topic, private.address)
    settings = laptop(private.address)
    async with producing(settings, "old") as old:
        async with producing(settings, "brief") as brief:
            await connected(old)
            await connected(brief)
            await old.publish(event(topic, "before"), within=PATIENCE)
            await brief.publish(event(topic, "before"), within=PATIENCE)
            await asyncio.to_thread(private.kill)
            assert not private.is_ready()

            await _away(old, event(topic, "meanwhile"))
            await _away(brief, event(topic, "given up"))
            closing = time.monotonic()
        assert time.monotonic() - closing < 8, "nobody waits for what nobody awaits"

        async with producing(settings, "never") as never:
            started = time.monotonic()
            with pytest.raises(BrokerAway, match="no broker has let us in yet"):
                await never.publish(event(topic, "key"), within=PATIENCE)
            assert time.monotonic() - started < 1
            assert not never.connected

            await asyncio.to_thread(private.start)
            for producer in (old, never):
                await connected(producer)
                await _published(producer, event(topic, "after"))
        keys = [record.key for record in await asyncio.to_thread(records_of, private.address, topic)]

    assert (keys.count(b"before"), keys.count(b"after")) == (2, 2)
    assert keys.count(b"meanwhile") <= 1, "given up waiting for, it may still be written, but once"


async def test_after_a_silence_longer_than_the_delivery_time_it_writes_again(private: KafkaBroker) -> None:
    topic = await asyncio.to_thread(new_topic, private.address)
    async with producing(laptop(private.address), "test", delivery=DELIVERY) as producer:
        await connected(producer)
        await producer.publish(event(topic, "before"), within=PATIENCE)

        os.kill(private.pid, signal.SIGSTOP)
        try:
            await _away(producer, event(topic, "meanwhile"))
            with pytest.raises(BrokerAway):
                await producer.publish(event(topic, "meanwhile"), within=2 * DELIVERY)
        finally:
            os.kill(private.pid, signal.SIGCONT)

        await _published(producer, event(topic, "after"))


async def test_a_certificate_that_cannot_be_read_is_told_and_ends_nothing(
    kafka: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = laptop(kafka.address).model_copy(update={"kafka_tls": True, "kafka_ca_file": tmp_path / "nowhere.pem"})
    assert isinstance(settings, KafkaSettings)
    heard: list[str] = []

    def told() -> bool:
        heard.append(capfd.readouterr().out)
        return "dependency_not_there" in "".join(heard)

    async with producing(settings, "test") as producer:
        await eventually(told, within_s=20, what="a word about the certificate")
        assert not producer.connected


async def _published(producer: Producer, envelope: Envelope) -> None:
    """Publish as callers do: again, until it is acknowledged."""
    for _ in range(8):
        with contextlib.suppress(BrokerAway):
            await producer.publish(envelope, within=timedelta(seconds=10))
            return
        await asyncio.sleep(0.5)
    raise AssertionError("it is never acknowledged")


async def _away(producer: Producer, envelope: Envelope) -> None:
    started = time.monotonic()
    with pytest.raises(BrokerAway, match="not acknowledged within 0:00:01"):
        await producer.publish(envelope, within=SHORT)
    assert SHORT.total_seconds() <= time.monotonic() - started < SHORT.total_seconds() + 2
