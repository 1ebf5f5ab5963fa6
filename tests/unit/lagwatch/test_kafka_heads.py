"""How the oldest waiting records are read: all together, and one by one when one of them is bad."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from kafka import TopicPartition, errors

from services.lagwatch.outbound.kafka_heads import KafkaHeads

FIRST, SECOND, THIRD = (TopicPartition("letters", number) for number in range(3))
AT = datetime(2026, 11, 25, 8, 0, tzinfo=UTC)


@dataclass(frozen=True)
class Record:
    offset: int
    timestamp: int


def record(offset: int, at: datetime = AT) -> Record:
    return Record(offset, round(at.timestamp() * 1000))


class ScriptedConsumer:
    """Gives, per partition, the records from the position on; raises where one is damaged."""

    def __init__(self, log: dict[TopicPartition, list[Record]], *damaged: TopicPartition) -> None:
        self._log = log
        self._damaged = set(damaged)
        self._positions: dict[TopicPartition, int] = {}

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        self._positions = dict.fromkeys(partitions, 0)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self._positions[partition] = offset

    def poll(self, timeout_ms: int) -> dict[TopicPartition, list[Record]]:
        assert timeout_ms >= 0
        if self._damaged & self._positions.keys():
            raise errors.CorruptRecordError
        found = {
            partition: [record for record in self._log.get(partition, []) if record.offset >= position]
            for partition, position in self._positions.items()
        }
        return {partition: records for partition, records in found.items() if records}

    def unsubscribe(self) -> None:
        self._positions = {}


def reading(consumer: ScriptedConsumer) -> KafkaHeads:
    return KafkaHeads(consumer, timedelta(milliseconds=50))


def test_the_record_at_the_position_or_the_next_that_exists_is_read() -> None:
    later = AT + timedelta(seconds=4)
    heads = reading(ScriptedConsumer({FIRST: [record(3), record(4)], SECOND: [record(9, later)]}))

    assert heads.created([(FIRST, 3), (SECOND, 5)]) == {(FIRST, 3): AT, (SECOND, 5): later}


def test_a_damaged_record_hides_no_other() -> None:
    log = {FIRST: [record(0)], SECOND: [record(0)], THIRD: [record(0)]}
    heads = reading(ScriptedConsumer(log, SECOND))

    assert heads.created([(FIRST, 0), (SECOND, 0), (THIRD, 0)]) == {(FIRST, 0): AT, (THIRD, 0): AT}


def test_two_places_of_one_partition_are_read_one_after_the_other() -> None:
    later = AT + timedelta(seconds=4)
    heads = reading(ScriptedConsumer({FIRST: [record(0), record(1, later)]}))

    assert heads.created([(FIRST, 0), (FIRST, 1)]) == {(FIRST, 0): AT, (FIRST, 1): later}


def test_a_record_without_a_time_has_no_age() -> None:
    heads = reading(ScriptedConsumer({FIRST: [Record(0, -1)]}))

    assert heads.created([(FIRST, 0)]) == {}


def test_where_no_record_comes_the_reading_ends_all_the_same() -> None:
    assert reading(ScriptedConsumer({})).created([(FIRST, 0)]) == {}


def test_nothing_is_asked_when_nothing_waits() -> None:
    assert reading(ScriptedConsumer({})).created([]) == {}
