"""When each thing of the demo's code happened, told by those who saw it: the portal, Redis, Kafka, the mailbox."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp
from kafka import KafkaConsumer, TopicPartition
from kip.otp.v1 import otp_service_pb2 as codes

from deploy.dev.demo_screen import Moment
from deploy.dev.inbox.client import Mail

READ_WITHIN = timedelta(seconds=10)
ROADS = {
    "otp.code-requested.v1": "on the road to the mailer",
    "mail.delivery.otp.v1": "told to otp",
}


def moments_of(
    asked: datetime, answered: datetime, mail: Mail, challenge: codes.Challenge, brokers: str
) -> list[Moment]:
    """Return what happened to the one letter of a challenge that was verified."""
    letter = challenge.letters[0]
    life = letter.good_until.ToDatetime() - letter.handed_over_at.ToDatetime()
    minutes = f"{life.total_seconds() / 60:g}"
    return [
        Moment(asked, "asked for", "gRPC RequestCode"),
        Moment(_instant(letter.queued_at), "written down", "Redis: challenge and outbox, one commit"),
        Moment(answered, "answered", "the portal holds the handle"),
        Moment(mail.received_at, "in the mailbox", "SMTP"),
        Moment(_instant(letter.handed_over_at), "handed over", f"the relay said 250: its {minutes} minutes begin"),
        Moment(_instant(challenge.verified_at), "verified", "gRPC VerifyCode: accepted"),
        *_records_of(challenge.challenge_id, brokers),
    ]


def _records_of(challenge_id: str, brokers: str) -> Iterator[Moment]:
    consumer = KafkaConsumer(bootstrap_servers=brokers.split(","), enable_auto_commit=False)
    try:
        roads = [TopicPartition(topic, part) for topic in ROADS for part in consumer.partitions_for_topic(topic)]
        ends = consumer.end_offsets(roads)
        consumer.assign(roads)
        consumer.seek_to_beginning(*roads)
        deadline = datetime.now(UTC) + READ_WITHIN
        while any(consumer.position(road) < end for road, end in ends.items()) and datetime.now(UTC) < deadline:
            for road, records in consumer.poll(timeout_ms=200).items():
                for record in records:
                    if record.key == challenge_id.encode():
                        at = datetime.fromtimestamp(record.timestamp / 1000, UTC)
                        yield Moment(at, ROADS[road.topic], f"Kafka: {road.topic}, partition {road.partition}")
    finally:
        consumer.close()


def _instant(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(tzinfo=UTC)
