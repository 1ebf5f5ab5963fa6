"""The hands of a test on a real broker: what `tests.fakes.lagwatch.InMemoryQueues` can do, done to Kafka."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Protocol

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic
from kafka.errors import CoordinatorLoadInProgressError, CoordinatorNotAvailableError, NotCoordinatorError
from kafka.structs import OffsetAndMetadata
from kip.mailer.v1 import mail_events_pb2

from services.chassis.events import instant_text
from tests.conditions import wait_until
from tests.fakes.lagwatch import Letter

ANSWER_S = 10
UNCLOSED = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
"""For modules that open kafka-python clients: one that is closed while it still connects forgets a socket."""


def hand_over_event(*, uncertain: bool = False) -> mail_events_pb2.MailDelivery:
    """Return what the mailer tells when a relay took a letter."""
    return mail_events_pb2.MailDelivery(
        owner_id="challenge",
        source=mail_events_pb2.SOURCE_SMTP_REPLY,
        handed_over=mail_events_pb2.HandedOver(route="first", uncertain=uncertain),
    )


class Broker(Protocol):
    """The suite's broker; tests use it and leave it running."""

    @property
    def address(self) -> str:
        """`host:port`."""


class RealQueues:
    """Writes topics and commits groups; keeps its own account of nothing."""

    def __init__(self, address: str) -> None:
        """Connect to the broker at `host:port`."""
        self._address = address
        self._admin = KafkaAdminClient(bootstrap_servers=[address])
        self._producer = KafkaProducer(bootstrap_servers=[address])
        self._consumers: list[KafkaConsumer] = []
        wait_until(self._has_coordinators, within_s=ANSWER_S, what="the broker keeps groups")

    def create(self, topic: str, partitions: int = 1) -> None:
        """Make a topic and wait until it can be used."""
        self._admin.create_topics([NewTopic(topic, num_partitions=partitions, replication_factor=1)])
        self._admin.wait_for_topics([topic])

    def delete(self, topic: str) -> None:
        """Remove a topic and wait until it is gone."""
        self._admin.delete_topics([topic])
        wait_until(lambda: self._admin.describe_topics([topic])[0]["error_code"], what="the topic is gone")
        self._renew_producer()  # it would look for the topic ten times a second for ever

    def append(self, topic: str, partition: int, *created: datetime, octets: int = 6) -> None:
        """Write records, in this order."""
        value = b"s" * octets
        sent = [self._producer.send(topic, value=value, partition=partition, timestamp_ms=_ms(at)) for at in created]
        for each in sent:
            each.get(ANSWER_S)

    def grow(self, topic: str, partitions: int) -> None:
        """Give a topic more partitions, and wait until they can be used."""
        self._admin.create_partitions({topic: partitions})
        wait_until(lambda: self._leaders(topic) == partitions, within_s=ANSWER_S, what="new partitions have leaders")
        self._renew_producer()  # it learns of new partitions every five minutes only

    def defer(self, topic: str, partition: int, written_at: datetime, letter: Letter) -> None:
        """Write a letter into a tier, as the mailer does."""
        headers = [("ce_time", instant_text(letter.asked_at)), ("not-before", instant_text(letter.due_at))]
        self._producer.send(
            topic, value=b"sealed", headers=headers, partition=partition, timestamp_ms=_ms(written_at)
        ).get(ANSWER_S)

    def hand_over(self, topic: str, count: int) -> None:
        """Tell hand-overs as the mailer does."""
        self.tell(topic, *[hand_over_event()] * count)

    def tell(self, topic: str, *events: mail_events_pb2.MailDelivery) -> None:
        """Tell what became of letters."""
        sent = [self._producer.send(topic, value=event.SerializeToString(), partition=0) for event in events]
        for each in sent:
            each.get(ANSWER_S)

    def append_in_transaction(self, topic: str, partition: int, created: datetime) -> None:
        """Write a record and, behind it, the marker that ends its transaction: an offset without a record."""
        producer = KafkaProducer(bootstrap_servers=[self._address], transactional_id=f"{topic}-{partition}")
        producer.init_transactions()
        producer.begin_transaction()
        producer.send(topic, value=b"sealed", partition=partition, timestamp_ms=_ms(created))
        producer.commit_transaction()
        producer.close()

    def cut(self, topic: str, partition: int, before: int) -> None:
        """Delete all records before an offset."""
        self._admin.delete_records({TopicPartition(topic, partition): before})

    def commit(self, group: str, topic: str, partition: int, offset: int) -> None:
        """Commit as the group would; it must have no members."""
        self._admin.alter_group_offsets(
            group, {TopicPartition(topic, partition): OffsetAndMetadata(offset, "", leader_epoch=-1)}
        )

    def join(self, group: str, topic: str) -> None:
        """Add a consumer of the topic to the group."""
        consumer = KafkaConsumer(topic, bootstrap_servers=[self._address], group_id=group, enable_auto_commit=False)
        self._consumers.append(consumer)

        def is_member() -> bool:
            consumer.poll(timeout_ms=100)
            return bool(self._admin.describe_groups([group])[group]["group_state"] == "Stable")

        wait_until(is_member, within_s=ANSWER_S, what="the group has taken the consumer in")

    def _renew_producer(self) -> None:
        self._producer.close(timeout=ANSWER_S)
        self._producer = KafkaProducer(bootstrap_servers=[self._address])

    def _leaders(self, topic: str) -> int:
        (told,) = self._admin.describe_topics([topic])
        return sum(1 for partition in told["partitions"] if partition["leader_id"] >= 0)

    def _has_coordinators(self) -> bool:
        """Ask for a group: a young broker makes the topic of groups when it is first asked, and refuses meanwhile."""
        try:
            self._admin.list_group_offsets(["nobody"])
        except (CoordinatorNotAvailableError, CoordinatorLoadInProgressError, NotCoordinatorError):
            return False
        return True

    def close(self) -> None:
        """Leave all groups and let go of the broker."""
        for consumer in self._consumers:
            consumer.close()
        self._producer.close(timeout=ANSWER_S)
        self._admin.close()


@contextmanager
def real_queues(address: str) -> Iterator[RealQueues]:
    """Yield the hands, and take them off at the end."""
    hands = RealQueues(address)
    try:
        yield hands
    finally:
        hands.close()
        gc.collect()  # here, where the test's own `UNCLOSED` holds, and not in somebody else's test


def _ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)
