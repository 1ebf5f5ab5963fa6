"""How records of tiers and deliveries are read on: each once, and what could not be read is not taken for nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from kafka import TopicPartition, errors
from kip.mailer.v1 import mail_events_pb2

from services.chassis.events import instant_text
from services.chassis.lag import PartitionReading, Queue
from services.lagwatch.outbound.kafka_letters import KafkaRecords, LetterBook
from services.lagwatch.ports import Lane, QueueReading, Reason, Unread

AT = datetime(2026, 11, 25, 8, 0, tzinfo=UTC)
TIER, DELIVERIES = Queue("mailer-retry-otp-1m", "tier"), Queue("otp", "deliveries")
LANE = Lane("otp", Queue("mailer-otp", "letters"), (TIER,), DELIVERIES)
HANDED_OVER = mail_events_pb2.MailDelivery(
    source=mail_events_pb2.SOURCE_SMTP_REPLY, handed_over=mail_events_pb2.HandedOver()
).SerializeToString()


def s(count: float) -> timedelta:
    return timedelta(seconds=count)


@dataclass(frozen=True)
class Record:
    offset: int
    value: bytes | None = b""
    headers: tuple[tuple[str, bytes], ...] = ()
    timestamp: int = round(AT.timestamp() * 1000)


def letter(offset: int, asked_at: datetime, due_at: datetime = AT) -> Record:
    return Record(offset, headers=(("ce_time", instant_text(asked_at)), ("not-before", instant_text(due_at))))


@dataclass
class Consumer:
    """Gives what is in the log from each position on, `most` records of a partition at a time."""

    log: dict[str, list[Record]] = field(default_factory=dict)
    denied: set[str] = field(default_factory=set)
    gaps: set[int] = field(default_factory=set)
    """Offsets that have no record."""
    most: int = 1_000
    polls: int = 0
    silent: bool = False
    _positions: dict[TopicPartition, int] = field(default_factory=dict)

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        self._positions = dict.fromkeys(partitions, 0)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self._positions[partition] = offset

    def poll(self, timeout_ms: int, max_records: int) -> dict[TopicPartition, list[Record]]:
        assert timeout_ms >= 0
        assert max_records > 0
        self.polls += 1
        if any(place.topic in self.denied for place in self._positions):
            raise errors.TopicAuthorizationFailedError
        found = {}
        for place, position in self._positions.items():
            records = [record for record in self.log.get(place.topic, []) if record.offset >= position][: self.most]
            if records and not self.silent:
                found[place] = records
                self._positions[place] = records[-1].offset + 1
        return found

    def position(self, partition: TopicPartition) -> int:
        position = self._positions[partition]
        return position + 1 if position in self.gaps else position

    def unsubscribe(self) -> None:
        self._positions = {}


class World:
    """A book, a consumer, and what the admin said about the two topics."""

    def __init__(self) -> None:
        self.consumer = Consumer()
        self.book = LetterBook([LANE])
        self.topic_id = "first"

    def read(
        self, *, tier: tuple[int | None, int] = (0, 0), deliveries: int = 0
    ) -> tuple[PartitionReading, int | None]:
        """Return what is told of the tier's partition (committed, end), and the hand-overs."""
        readings = [
            QueueReading(TIER, (PartitionReading(0, tier[0], 0, tier[1]),), topic_id=self.topic_id),
            QueueReading(DELIVERIES, (PartitionReading(0, 0, 0, deliveries),), topic_id=self.topic_id),
        ]
        told, counted = self.book.with_letters(KafkaRecords(self.consumer, timedelta(milliseconds=50)), readings)
        return told.partitions[0], counted.handed_over


@pytest.fixture
def world() -> World:
    return World()


def test_the_letter_that_waits_longest_is_found_anywhere_in_the_tier(world: World) -> None:
    world.consumer.log["tier"] = [letter(0, AT - s(5), AT), letter(1, AT - s(50), AT - s(9)), letter(2, AT - s(6))]

    told, _ = world.read(tier=(None, 3))

    assert (told.head_at, told.asked_at, told.due_at) == (AT, AT - s(50), AT - s(9))


def test_only_what_is_new_is_read_and_what_left_is_forgotten(world: World) -> None:
    world.consumer.log["tier"] = [letter(0, AT - s(50)), letter(1, AT - s(5))]
    world.read(tier=(0, 2))
    polls = world.consumer.polls

    told, _ = world.read(tier=(1, 2))

    assert told.asked_at == AT - s(5)
    assert world.consumer.polls == polls
    world.consumer.log["tier"] = [letter(2, AT - s(70))]  # the others could not be read any more
    assert world.read(tier=(1, 3))[0].asked_at == AT - s(70)
    assert world.read(tier=(3, 3))[0].asked_at is None


def test_records_come_in_as_many_fetches_as_they_need(world: World) -> None:
    world.consumer.most = 2
    world.consumer.log["tier"] = [letter(number, AT - s(number)) for number in range(7)]

    assert world.read(tier=(0, 7))[0].asked_at == AT - s(6)


def test_while_not_all_of_a_tier_was_looked_at_its_head_is_not_told(world: World) -> None:
    world.consumer.log["tier"] = [letter(0, AT - s(50))]

    told, _ = world.read(tier=(0, 2))

    assert (told.head_at, told.asked_at) == (None, AT - s(50))


def test_hand_overs_that_could_not_be_read_yet_are_not_told_as_none_and_are_counted_later(world: World) -> None:
    assert world.read()[1] == 0
    world.consumer.log["deliveries"] = [Record(offset, HANDED_OVER) for offset in range(3)]
    world.consumer.silent = True

    assert world.read(deliveries=3)[1] is None

    world.consumer.silent = False
    assert world.read(deliveries=3)[1] == 3


def test_an_offset_without_a_record_at_the_end_is_stepped_over(world: World) -> None:
    world.read()
    world.consumer.log["deliveries"] = [Record(0, HANDED_OVER)]
    world.consumer.gaps = {1}

    assert world.read(deliveries=2)[1] == 1
    assert world.read(deliveries=2)[1] == 0


def test_a_topic_that_is_denied_hides_no_other(world: World) -> None:
    world.read()
    world.consumer.log = {"tier": [letter(0, AT - s(50))], "deliveries": [Record(0, HANDED_OVER)]}
    world.consumer.denied = {"tier"}

    told, counted = world.read(tier=(0, 1), deliveries=1)

    assert (told.head_at, counted) == (None, 1)


def test_a_topic_made_anew_is_read_from_its_beginning(world: World) -> None:
    world.read(deliveries=9)
    world.consumer.log = {"tier": [letter(0, AT - s(50))], "deliveries": [Record(0, HANDED_OVER)]}
    world.topic_id = "second"

    told, counted = world.read(tier=(None, 1), deliveries=1)

    assert (told.asked_at, counted) == (AT - s(50), 1)


def test_hand_overs_of_a_partition_that_was_not_measured_are_not_told(world: World) -> None:
    reading = QueueReading(DELIVERIES, unread=(Unread(0, Reason.PARTITION_UNREADABLE),))

    (told,) = world.book.with_letters(KafkaRecords(world.consumer, s(0.05)), [reading])

    assert told.handed_over is None


@pytest.mark.parametrize(
    ("record", "asked_at"),
    [
        (Record(0), AT),
        (Record(0, headers=(("ce_time", b"yesterday"), ("not-before", b"\xff"))), AT),
        (Record(0, headers=(("ce_time", b"0001-01-01T00:00:00+14:00"),)), AT),
        (Record(0, timestamp=-1), None),
        (Record(0, None), AT),
    ],
    ids=["no times", "no time at all", "before all time", "nothing", "no value"],
)
def test_a_record_that_tells_nothing_is_as_old_as_it_is_in_the_tier(
    world: World, record: Record, asked_at: datetime | None
) -> None:
    world.consumer.log["tier"] = [record]

    told, _ = world.read(tier=(0, 1))

    assert (told.asked_at, told.due_at) == (asked_at, None)


@pytest.mark.parametrize("value", [None, b"", b"\xff\xff\xff"], ids=["none", "empty", "no event"])
def test_what_is_no_delivery_event_is_no_hand_over(world: World, value: bytes | None) -> None:
    world.read()
    world.consumer.log["deliveries"] = [Record(0, value), Record(1, HANDED_OVER)]

    assert world.read(deliveries=2)[1] == 1
