"""In-memory twins of lagwatch's ports."""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from services.chassis.lag import PartitionReading, Queue, QueueLag
from services.lagwatch.ports import QueueReading, Reason, Unavailable, Unread


@dataclass
class Log:
    """One partition."""

    beginning: int = 0
    end: int = 0
    offsets: list[int] = field(default_factory=list)
    created: dict[int, datetime] = field(default_factory=dict)

    def first_at_or_after(self, offset: int) -> datetime | None:
        """Return when the first record from there on was created."""
        index = bisect.bisect_left(self.offsets, offset)
        return self.created[self.offsets[index]] if index < len(self.offsets) else None


class InMemoryQueues:
    """A broker in a dictionary, which is read through the port `QueueReader` and written by tests."""

    def __init__(self) -> None:
        self.broken: Reason | None = None
        """Why nothing can be read."""
        self.leaderless: set[tuple[str, int]] = set()
        self.unreadable_heads: set[tuple[str, int]] = set()
        self._topics: dict[str, list[Log]] = {}
        self._commits: dict[tuple[str, str, int], int] = {}
        self._members: Counter[str] = Counter()

    def create(self, topic: str, partitions: int = 1) -> None:
        """Make a topic."""
        self._topics[topic] = [Log() for _ in range(partitions)]

    def delete(self, topic: str) -> None:
        """Remove a topic and what groups committed of it."""
        del self._topics[topic]
        self._commits = {place: offset for place, offset in self._commits.items() if place[1] != topic}

    def append(self, topic: str, partition: int, *created: datetime) -> None:
        """Write records."""
        log = self._topics[topic][partition]
        for at in created:
            log.offsets.append(log.end)
            log.created[log.end] = at
            log.end += 1

    def append_in_transaction(self, topic: str, partition: int, created: datetime) -> None:
        """Write a record and, behind it, the marker that ends its transaction: an offset without a record."""
        self.append(topic, partition, created)
        self._topics[topic][partition].end += 1

    def cut(self, topic: str, partition: int, before: int) -> None:
        """Delete all records before an offset."""
        log = self._topics[topic][partition]
        log.beginning = before
        log.offsets = [offset for offset in log.offsets if offset >= before]

    def commit(self, group: str, topic: str, partition: int, offset: int) -> None:
        """Commit as the group would."""
        self._commits[group, topic, partition] = offset

    def join(self, group: str, topic: str) -> None:
        """Add a consumer of the topic to the group."""
        assert topic in self._topics
        self._members[group] += 1

    async def read(self, queues: Sequence[Queue]) -> Sequence[QueueReading]:
        """Implements `QueueReader`."""
        if self.broken is not None:
            raise Unavailable(self.broken)
        return [self._reading(queue) for queue in queues]

    def _reading(self, queue: Queue) -> QueueReading:
        if queue.topic not in self._topics:
            return QueueReading(queue, unread=(Unread(None, Reason.TOPIC_UNKNOWN),))
        partitions: list[PartitionReading] = []
        unread: list[Unread] = []
        for number, log in enumerate(self._topics[queue.topic]):
            if (queue.topic, number) in self.leaderless:
                unread.append(Unread(number, Reason.PARTITION_UNREADABLE))
            else:
                partitions.append(self._partition(queue, number, log))
        return QueueReading(queue, tuple(partitions), tuple(unread), self._members[queue.group])

    def _partition(self, queue: Queue, number: int, log: Log) -> PartitionReading:
        committed = self._commits.get((queue.group, queue.topic, number))
        bare = PartitionReading(number, committed, log.beginning, log.end)
        if not bare.is_waiting or (queue.topic, number) in self.unreadable_heads:
            return bare
        return PartitionReading(number, committed, log.beginning, log.end, log.first_at_or_after(bare.position))


class BoardOfLists:
    """Keeps everything it was told to show."""

    def __init__(self) -> None:
        self.shown: list[QueueLag] = []

    def show(self, lag: QueueLag) -> None:
        """Implements `Board`."""
        self.shown.append(lag)

    def latest(self, queue: Queue) -> QueueLag:
        """Return what was last told about a queue."""
        return next(lag for lag in reversed(self.shown) if lag.queue == queue)
