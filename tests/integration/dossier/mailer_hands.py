"""What the mailer does with its two topics, done by a test: read wishes, tell how letters fared."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kip.mailer.v1 import mail_events_pb2, notice_events_pb2

from services.chassis.events import Envelope, envelope_of
from tests.conditions import wait_until

NOTICE_REQUESTED = "notice.requested.v1"
MAIL_DELIVERY = "mail.delivery.notice.v1"
ANSWER_S = 10


@dataclass(frozen=True)
class Wish:
    """One record of `notice.requested.v1`."""

    envelope: Envelope
    event: notice_events_pb2.NoticeRequested


class MailerHands:
    """Reads from where the topic ends when it is made."""

    def __init__(self, brokers: str) -> None:
        self._producer = KafkaProducer(bootstrap_servers=[brokers])
        self._consumer = KafkaConsumer(bootstrap_servers=[brokers], group_id=None)
        self._dead = KafkaConsumer(bootstrap_servers=[brokers], group_id=None)
        self._read: list[Wish] = []
        self._buried: list[str] = []
        self._follow(self._consumer, NOTICE_REQUESTED)
        self._follow(self._dead, f"{MAIL_DELIVERY}.dead")

    def wishes(self) -> list[Wish]:
        """Return every wish so far."""
        for record in _new_records(self._consumer):
            headers = dict(record.headers)
            envelope = envelope_of(record.topic, record.key, record.value, headers)
            self._read.append(Wish(envelope, notice_events_pb2.NoticeRequested.FromString(record.value)))
        return list(self._read)

    def asked_for(self) -> list[str]:
        """Return the id of every notice asked for so far."""
        return [wish.event.notice_id for wish in self.wishes()]

    def wait_for(self, ids: set[str], *, within_s: float = 30) -> None:
        """Wait until each of these notices was asked for."""
        wait_until(lambda: ids <= set(self.asked_for()), within_s=within_s, what=f"{len(ids)} notices")

    def tell(self, notice_id: str, **fate: object) -> None:
        """Say how a letter fared."""
        now = Timestamp()
        now.GetCurrentTime()
        event = mail_events_pb2.MailDelivery(owner_id=notice_id, generation=1, at=now, **fate)  # type: ignore[arg-type] # the fates are of many types
        self.write(notice_id.encode(), event.SerializeToString())

    def write(self, key: bytes, value: bytes) -> None:
        """Write whatever it is to the delivery topic."""
        self._producer.send(MAIL_DELIVERY, key=key, value=value).get(ANSWER_S)

    def dead_reasons(self) -> list[str]:
        """Return why records were dead-lettered so far."""
        self._buried += [dict(record.headers)["dead-reason"].decode() for record in _new_records(self._dead)]
        return list(self._buried)

    def close(self) -> None:
        """Let go of the broker."""
        for client in (self._producer, self._consumer, self._dead):
            client.close()

    @staticmethod
    def _follow(consumer: KafkaConsumer, topic: str) -> None:
        partitions = wait_until(lambda: consumer.partitions_for_topic(topic), within_s=ANSWER_S, what=topic)
        consumer.assign([TopicPartition(topic, number) for number in partitions])
        consumer.seek_to_end()
        for partition in consumer.assignment():
            consumer.position(partition)  # the seek is lazy; from here on nothing is missed


def _new_records(consumer: KafkaConsumer) -> list[Any]:
    return [record for batch in consumer.poll(timeout_ms=100).values() for record in batch]


@contextmanager
def mailer_hands(brokers: str) -> Iterator[MailerHands]:
    """Yield the hands, and let go at the end."""
    hands = MailerHands(brokers)
    try:
        yield hands
    finally:
        hands.close()
