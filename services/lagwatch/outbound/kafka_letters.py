"""Looks at every letter in a tier, and counts what delivery events tell as handed over. Blocks.

The records of a tier stand in the order in which they are due, so the one that was asked for first may be anywhere
among them: each is looked at once, when it comes, for its `ce_time` and `not-before`. Of a delivery event only its kind
is looked at. Nobody here has a key, and nothing is committed: which records were looked at is remembered in the book,
and only what is new since the last reading is fetched.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.message import DecodeError
from kafka import TopicPartition
from kip.mailer.v1 import mail_events_pb2

from services.chassis.events import read_instant
from services.chassis.lag import PartitionReading, Queue
from services.lagwatch.outbound.kafka_failures import KAFKA_ERRORS
from services.lagwatch.outbound.kafka_reader import open_reader
from services.lagwatch.ports import Lane, QueueReading

PARTITION_OCTETS = 256 * 1024
FETCH_OCTETS = 4 * 1024 * 1024  # of all partitions; held in memory at once
LOOK_MS = 200  # then see whether what is left has no records: a fetch that finds none does not return
POLLED = 2_000

Take = Callable[[TopicPartition, Any], None]
Head = tuple[str, TopicPartition, int]
"""Topic id, partition, offset."""


class KafkaRecords:
    """One consumer, used again for every reading.

    Args:
        consumer: a kafka-python consumer, or what behaves like one.
        within: bounds each call of `read` as a whole.
    """

    def __init__(self, consumer: Any, within: timedelta) -> None:
        self._consumer = consumer
        self._within_s = within.total_seconds()

    @classmethod
    def opened(cls, config: Mapping[str, Any], within: timedelta) -> KafkaRecords:
        """Connect. Raises as `open_reader` does."""
        return cls(
            open_reader(config, within, max_partition_fetch_bytes=PARTITION_OCTETS, fetch_max_bytes=FETCH_OCTETS),
            within,
        )

    def read(self, spans: Mapping[TopicPartition, tuple[int, int]], take: Take) -> dict[TopicPartition, int]:
        """Hand every record of the spans (first offset, offset behind the last) to `take`, in order within each.

        Returns:
            Up to which offset each partition was read: less than asked for when time ran out or a record is damaged,
            more when a fetch brought more.
        """
        reached = {place: first for place, (first, _) in spans.items()}
        deadline = time.monotonic() + self._within_s
        for topics in self._attempts(spans):
            left = {place: reached[place] for place in spans if place.topic in topics}
            try:
                self._read(left, {place: spans[place][1] for place in left}, reached, take, deadline)
            except KAFKA_ERRORS:  # of one topic, perhaps (a missing right): it must not hide the others
                continue
            if len(topics) > 1:
                break
        return reached

    def close(self) -> None:
        """Let go of the brokers."""
        self._consumer.close(autocommit=False, timeout_ms=int(self._within_s * 1000))

    @staticmethod
    def _attempts(spans: Iterable[TopicPartition]) -> Iterable[set[str]]:
        topics = {place.topic for place in spans}
        return [topics, *({topic} for topic in topics)] if len(topics) > 1 else [topics] if topics else []

    def _read(
        self,
        firsts: Mapping[TopicPartition, int],
        ends: Mapping[TopicPartition, int],
        reached: dict[TopicPartition, int],
        take: Take,
        deadline: float,
    ) -> None:
        self._consumer.assign(list(firsts))
        for place, offset in firsts.items():
            self._consumer.seek(place, offset)
        left = set(firsts)
        try:
            while left and (left_s := deadline - time.monotonic()) > 0:
                within_ms = min(int(left_s * 1000), LOOK_MS)
                polled = self._consumer.poll(timeout_ms=within_ms, max_records=POLLED)
                for place, records in polled.items():
                    for record in records:
                        take(place, record)
                    reached[place] = records[-1].offset + 1
                if not polled:  # what is left may be behind offsets that have no record; it is dear to ask
                    reached |= {place: self._consumer.position(place) for place in left}
                left = {place for place in left if reached[place] < ends[place]}
        finally:
            self._consumer.unsubscribe()  # what was fetched beyond is dropped, not handed out next time


@dataclass(frozen=True, slots=True)
class _Letter:
    """One letter in a tier."""

    offset: int
    written_at: datetime | None
    """When its record came into the tier; none when it carries no time."""
    asked_at: datetime | None
    due_at: datetime | None


@dataclass(slots=True)
class _Page:
    """What is known of one partition."""

    topic_id: str
    next: int
    """Offset of the first record that was not looked at."""
    begins: int = 0
    """Of a tier: from which offset on all letters are known."""
    letters: deque[_Letter] = field(default_factory=deque)


class LetterBook:
    """What is known of letters and heads, from reading to reading."""

    def __init__(self, lanes: Iterable[Lane]) -> None:
        """Look into the tiers and deliveries of these lanes."""
        lanes = tuple(lanes)
        self.heads: dict[Head, datetime] = {}
        """When the records were created at which groups stood in the last reading."""
        self._tiers = {tier for lane in lanes for tier in lane.tiers}
        self._deliveries = {lane.deliveries for lane in lanes}
        self._delivery_topics = {queue.topic for queue in self._deliveries}
        self._pages: dict[TopicPartition, _Page] = {}
        self._handed_over: Counter[str] = Counter()

    def is_tier(self, queue: Queue) -> bool:
        """Return whether every letter of the queue is looked at, the head too."""
        return queue in self._tiers

    def with_letters(self, records: KafkaRecords, readings: Sequence[QueueReading]) -> list[QueueReading]:
        """Return the readings with what the letters in tiers, and the delivery events, tell."""
        spans = {
            place: (self._page(place, reading, part).next, part.end)
            for reading in readings
            if reading.queue in self._tiers | self._deliveries
            for part in reading.partitions
            for place in [TopicPartition(reading.queue.topic, part.partition)]
        }
        new = {place: (first, end) for place, (first, end) in spans.items() if first < end}
        for place, reached in records.read(new, self._take).items():
            self._pages[place].next = reached
        missing = {place for place, (_, end) in new.items() if self._pages[place].next < end}
        return [self._told(reading, missing) for reading in readings]

    def _page(self, place: TopicPartition, reading: QueueReading, part: PartitionReading) -> _Page:
        page = self._pages.get(place)
        if reading.queue in self._deliveries:
            if page is None:  # what was handed over before the first reading is of no stretch that was measured
                page = _Page(reading.topic_id, part.end)
            elif page.topic_id != reading.topic_id:
                page = _Page(reading.topic_id, part.earliest)
        elif page is None or page.topic_id != reading.topic_id or part.position < page.begins:
            page = _Page(reading.topic_id, part.position, begins=part.position)
        else:
            page.begins = part.position
            page.next = max(page.next, part.position)
            while page.letters and page.letters[0].offset < part.position:
                page.letters.popleft()
        self._pages[place] = page
        return page

    def _take(self, place: TopicPartition, record: Any) -> None:
        if place.topic in self._delivery_topics:
            self._handed_over[place.topic] += _tells_a_hand_over(record.value)
        else:
            self._pages[place].letters.append(_letter(record))

    def _told(self, reading: QueueReading, missing: set[TopicPartition]) -> QueueReading:
        topic = reading.queue.topic
        if reading.queue in self._tiers:
            places = [TopicPartition(topic, part.partition) for part in reading.partitions]
            parts = zip(places, reading.partitions, strict=True)
            told = (self._with_letters(place, part, is_known=place not in missing) for place, part in parts)
            return replace(reading, partitions=tuple(told))
        if reading.queue not in self._deliveries or reading.unread or topic in {place.topic for place in missing}:
            return reading
        return replace(reading, handed_over=self._handed_over.pop(topic, 0))

    def _with_letters(self, place: TopicPartition, part: PartitionReading, *, is_known: bool) -> PartitionReading:
        letters = self._pages[place].letters
        return replace(
            part,
            head_at=letters[0].written_at if letters and is_known else None,
            asked_at=min((letter.asked_at for letter in letters if letter.asked_at is not None), default=None),
            due_at=min((letter.due_at for letter in letters if letter.due_at is not None), default=None),
        )


def _letter(record: Any) -> _Letter:
    headers = {name: value for name, value in record.headers if name in {"ce_time", "not-before"}}
    written_at = datetime.fromtimestamp(record.timestamp / 1000, UTC) if record.timestamp >= 0 else None
    asked_at = _instant(headers.get("ce_time"))
    return _Letter(record.offset, written_at, asked_at or written_at, _instant(headers.get("not-before")))


def _instant(text: bytes | None) -> datetime | None:
    try:
        return read_instant(text.decode()) if text is not None else None
    except (ValueError, OverflowError):
        return None


def _tells_a_hand_over(value: bytes | None) -> bool:
    try:
        event = mail_events_pb2.MailDelivery.FromString(value or b"")
    except DecodeError:
        return False
    is_ours = event.source == mail_events_pb2.SOURCE_SMTP_REPLY
    return is_ours and event.WhichOneof("fate") == "handed_over" and not event.handed_over.uncertain
