"""How far a consumer group is behind in a topic, in messages and in time: values and arithmetic, no client.

A partition of a topic is a queue per group, and two numbers describe it:

    messages = end - position        how many wait
    age      = now - created(head)   how long the first of them has waited

`position` is where the group's work resumes. That is its committed offset, unless there is none or the log does not
hold it (any more): then a consumer that resets to `earliest`, as all of ours do, resumes at the first record of the
log, and everything in the log waits. `head` is the first record at or after the position; offsets between the two were
compacted or deleted. Its creation time is read, not guessed from earlier polls: exact, and right after a restart.

Read the committed offset first, the beginning of the log next, and its end last: work that is done meanwhile then makes
the lag look a little too long, never too short. Nothing that is unknown is ever given as zero.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True, order=True)
class Queue:
    """What waits for one consumer group in one topic."""

    group: str
    topic: str


@dataclass(frozen=True, slots=True)
class PartitionReading:
    """What a broker said about one partition and one group."""

    partition: int
    committed: int | None
    """Offset the group will read next; none when it never committed, or when its commit has expired."""
    earliest: int
    """Offset of the first record that the log still holds; equals `end` when it holds none."""
    end: int
    """Offset that the next record will get."""
    head_at: datetime | None = None
    """When the first waiting record was created; none when nothing waits, or when it could not be read."""

    @property
    def position(self) -> int:
        """Offset at which the group's work resumes."""
        if self.committed is None or not self.earliest <= self.committed <= self.end:
            return self.earliest
        return self.committed

    @property
    def is_waiting(self) -> bool:
        """True when at least one record waits."""
        return self.position < self.end


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """How far one group is behind in one partition."""

    partition: int
    committed: int
    """As the broker says; the beginning of the log when the group never committed."""
    position: int
    """Offset at which the group's work resumes."""
    end: int
    messages: int
    """How many wait; gaps that compaction left count too."""
    vanished: int
    """How many were deleted (retention) before the group got to them. 0 again after its next commit."""
    oldest_at: datetime | None
    """When the oldest waiting record was created; none when nothing waits, or when it is not known."""

    @property
    def is_age_unknown(self) -> bool:
        """True when something waits and nobody knows since when."""
        return self.messages > 0 and self.oldest_at is None


@dataclass(frozen=True, slots=True)
class QueueLag:
    """How far one group is behind in one topic, partition by partition."""

    queue: Queue
    partitions: tuple[PartitionLag, ...]
    """Those that were measured."""
    unmeasured: frozenset[int]
    """Those that exist and could not be measured this time."""
    members: int | None
    """How many consumers the group has; none when that could not be read."""
    measured_at: datetime

    @property
    def is_complete(self) -> bool:
        """True when nothing about the queue is unknown."""
        return not self.unmeasured and not any(part.is_age_unknown for part in self.partitions)


def lag_of(reading: PartitionReading) -> PartitionLag:
    """Return what a reading means."""
    waiting = max(0, reading.end - reading.position)
    return PartitionLag(
        partition=reading.partition,
        committed=reading.earliest if reading.committed is None else reading.committed,
        position=reading.position,
        end=reading.end,
        messages=waiting,
        vanished=0 if reading.committed is None else max(0, reading.earliest - reading.committed),
        oldest_at=reading.head_at if waiting else None,
    )


def with_age_of(before: PartitionLag | None, now: PartitionLag) -> PartitionLag:
    """Return `now` with the age that was known before, if it is unknown and the group has not moved: same head."""
    if before is None or not now.is_age_unknown or now.position != before.position:
        return now
    return replace(now, oldest_at=before.oldest_at)


def longest_wait(partitions: Iterable[PartitionLag], now: datetime) -> timedelta | None:
    """Return how long the oldest waiting record has waited; zero when nothing waits, none when that is not known.

    A partition whose age is unknown does not hide the others. Clocks of two hosts may differ: an age is never below 0.
    """
    waiting = [part for part in partitions if part.messages > 0]
    since = [part.oldest_at for part in waiting if part.oldest_at is not None]
    if since:
        return max(timedelta(0), now - min(since))
    return None if waiting else timedelta(0)
