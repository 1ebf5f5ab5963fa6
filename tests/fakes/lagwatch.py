"""In-memory twins of lagwatch's ports."""

from __future__ import annotations

import bisect
import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from services.chassis.lag import PartitionReading, Queue, QueueLag
from services.chassis.lane import Flow
from services.lagwatch.ports import Lane, QueueReading, Reason, Unavailable, Unread


@dataclass(frozen=True)
class Letter:
    """A letter in a tier."""

    asked_at: datetime
    due_at: datetime


@dataclass
class Log:
    """One partition."""

    beginning: int = 0
    end: int = 0
    offsets: list[int] = field(default_factory=list)
    created: dict[int, datetime] = field(default_factory=dict)
    letters: dict[int, Letter] = field(default_factory=dict)
    """What the records of a tier tell."""

    def first_at_or_after(self, offset: int) -> datetime | None:
        """Return when the first record from there on was created."""
        index = bisect.bisect_left(self.offsets, offset)
        return self.created[self.offsets[index]] if index < len(self.offsets) else None


class InMemoryQueues:
    """A broker in a dictionary, which is read through the port `QueueReader` and written by tests."""

    def __init__(self, lanes: Iterable[Lane] = ()) -> None:
        """Look into the tiers and deliveries of these lanes."""
        self._tiers = {tier for lane in lanes for tier in lane.tiers}
        self._handed_over = {lane.deliveries: 0 for lane in lanes}
        self._read_once = False
        self._ids = itertools.count()
        self._topic_ids: dict[str, str] = {}
        self.broken: Reason | None = None
        """Why nothing can be read."""
        self.blind_deliveries = False
        """True while hand-overs cannot be told."""
        self.leaderless: set[tuple[str, int]] = set()
        self.unreadable_heads: set[tuple[str, int]] = set()
        self._topics: dict[str, list[Log]] = {}
        self._commits: dict[tuple[str, str, int], int] = {}
        self._members: Counter[str] = Counter()

    def create(self, topic: str, partitions: int = 1) -> None:
        """Make a topic."""
        self._topics[topic] = [Log() for _ in range(partitions)]
        self._topic_ids[topic] = str(next(self._ids))

    def grow(self, topic: str, partitions: int) -> None:
        """Give a topic more partitions."""
        self._topics[topic] += [Log() for _ in range(partitions - len(self._topics[topic]))]

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

    def defer(self, topic: str, partition: int, written_at: datetime, letter: Letter) -> None:
        """Write a letter into a tier."""
        self._topics[topic][partition].letters[self._topics[topic][partition].end] = letter
        self.append(topic, partition, written_at)

    def hand_over(self, topic: str, count: int) -> None:
        """Tell hand-overs as the mailer does."""
        self.append(topic, 0, *[datetime.now(UTC)] * count)
        for queue in self._handed_over:
            if queue.topic == topic and self._read_once:
                self._handed_over[queue] += count

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
        self._read_once = True
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
        handed_over = None if self.blind_deliveries else self._handed_over.get(queue)
        if handed_over is not None:
            self._handed_over[queue] = 0
        members = self._members[queue.group]
        return QueueReading(
            queue, tuple(partitions), tuple(unread), members, handed_over, topic_id=self._topic_ids[queue.topic]
        )

    def _partition(self, queue: Queue, number: int, log: Log) -> PartitionReading:
        committed = self._commits.get((queue.group, queue.topic, number))
        bare = PartitionReading(number, committed, log.beginning, log.end)
        if not bare.is_waiting or (queue.topic, number) in self.unreadable_heads:
            return bare
        told = replace(bare, head_at=log.first_at_or_after(bare.position))
        letters = [letter for offset, letter in log.letters.items() if offset >= bare.position]
        if queue not in self._tiers or not letters:
            return told
        asked_at, due_at = min(each.asked_at for each in letters), min(each.due_at for each in letters)
        return replace(told, asked_at=asked_at, due_at=due_at)


class BoardOfLists:
    """Keeps everything it was told to show."""

    def __init__(self) -> None:
        self.shown: list[QueueLag] = []
        self.lanes: dict[str, Flow] = {}

    def show(self, lag: QueueLag) -> None:
        """Implements `Board`."""
        self.shown.append(lag)

    def show_lane(self, lane: str, main: Queue, flow: Flow) -> None:
        """Implements `Board`."""
        assert any(shown.queue == main for shown in self.shown)
        self.lanes[lane] = flow

    def latest(self, queue: Queue) -> QueueLag:
        """Return what was last told about a queue."""
        return next(lag for lag in reversed(self.shown) if lag.queue == queue)
