"""Reads, with a kafka-python consumer, the one record at which each group's work would resume. Blocks.

Only its creation time is looked at; the value is sealed, and nobody here has a key. The consumer is in no group and
commits nothing. Where the record is gone (compacted, deleted by retention) the next one that exists is read.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from kafka import TopicPartition

from services.lagwatch.outbound.kafka_failures import KAFKA_ERRORS
from services.lagwatch.outbound.kafka_offsets import Log
from services.lagwatch.outbound.kafka_reader import open_reader

BATCH_OCTETS = 16 * 1024
"""Per partition and fetch: what our producers put into one batch at most, so that all partitions come in one answer.

A larger batch comes all the same, alone, when its partition is the first of a fetch (KIP-74)."""
CALM_S = 1.0  # of a calm cluster's answer; one that is not calm is asked partition by partition


class KafkaHeads:
    """One consumer, used again for every poll.

    Args:
        consumer: a kafka-python consumer, or what behaves like one.
        within: bounds each call of `created` as a whole.
    """

    def __init__(self, consumer: Any, within: timedelta) -> None:
        self._consumer = consumer
        self._within_s = within.total_seconds()

    @classmethod
    def opened(cls, config: Mapping[str, Any], within: timedelta) -> KafkaHeads:
        """Connect. Raises as `open_reader` does."""
        return cls(open_reader(config, within, max_partition_fetch_bytes=BATCH_OCTETS), within)

    def created(self, positions: Collection[tuple[TopicPartition, int]]) -> dict[tuple[TopicPartition, int], datetime]:
        """Return when the first record at or after each position was created; those that cannot be read are absent."""
        deadline = time.monotonic() + self._within_s
        found: dict[tuple[TopicPartition, int], datetime] = {}
        left = set(positions)
        while left:  # a consumer is at one position of a partition at a time; two groups may wait at two
            once = dict(sorted(left))
            left -= once.items()
            found |= {(partition, once[partition]): at for partition, at in self._read(once, deadline).items()}
        return found

    def logs(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, Log]:
        """Return where every log begins and ends; the end is read last.

        A consumer remembers who leads what, and so asks for a quarter of what an admin client's question costs.

        Raises:
            kafka.errors.KafkaError, OSError: of at least one it could not be read soon.
        """
        within_ms = int(min(self._within_s, CALM_S) * 1000)
        begin = self._consumer.beginning_offsets(partitions, timeout_ms=within_ms)
        end = self._consumer.end_offsets(partitions, timeout_ms=within_ms)
        return {partition: Log(begin[partition], end[partition]) for partition in partitions}

    def close(self) -> None:
        """Let go of the brokers."""
        self._consumer.close(autocommit=False, timeout_ms=int(self._within_s * 1000))

    def _read(self, positions: Mapping[TopicPartition, int], deadline: float) -> dict[TopicPartition, datetime]:
        try:
            return self._read_together(positions, deadline)
        except KAFKA_ERRORS:  # of one of them (a damaged record, a missing right); it must not hide the others
            if len(positions) == 1:
                return {}
            alone = [self._read({partition: offset}, deadline) for partition, offset in positions.items()]
            return {partition: at for one in alone for partition, at in one.items()}

    def _read_together(
        self, positions: Mapping[TopicPartition, int], deadline: float
    ) -> dict[TopicPartition, datetime]:
        found: dict[TopicPartition, datetime] = {}
        seen: set[TopicPartition] = set()
        self._consumer.assign(list(positions))
        for partition, offset in positions.items():
            self._consumer.seek(partition, offset)
        try:
            while len(seen) < len(positions) and (left_s := deadline - time.monotonic()) > 0:
                for partition, records in self._consumer.poll(timeout_ms=int(left_s * 1000)).items():
                    if partition not in seen and records[0].timestamp >= 0:  # -1: written by a client of another age
                        found[partition] = datetime.fromtimestamp(records[0].timestamp / 1000, UTC)
                    seen.add(partition)
        finally:
            self._consumer.unsubscribe()  # what was fetched beyond is dropped, not handed out next time
        return found
