"""How far a consumer group is behind in a topic, in messages and in time: values and arithmetic, no client, no clock.

A partition of a topic is a queue per group, and two numbers describe it:

    messages = end - position        how many wait
    age      = now - created(head)   how long the first of them has waited

`position` is where the group's work resumes. That is its committed offset, unless there is none or the log does not
hold it (any more): then a consumer that resets to `earliest`, as all of ours do, resumes at the first record of the
log, and everything in the log waits. `head` is the first record at or after the position; offsets between the two were
compacted or deleted. Its creation time is read, not guessed from earlier polls: exact, and right after a restart. The
clock that wrote it may be ahead; so it is never later than the first measurement that found the record there.

Arrival and drain are how fast `end` and `committed` grow. Read the committed offset first, the beginning of the log
next, and its end last: work that is done meanwhile then makes the lag look a little too long, never too short. Nothing
that is unknown is ever given as zero. What a letter that comes now would wait is told by `services.chassis.lane`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

ZERO = timedelta(0)
SIGHTINGS = 64  # of a partition; with more, every second one is forgotten: each only bounds an age from below


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
    asked_at: datetime | None = None
    """Of a tier: when the one of its letters was asked for that has waited longest; its record is younger."""
    due_at: datetime | None = None
    """Of a tier: when the first of its letters is due."""

    @property
    def position(self) -> int:
        """Offset at which the group's work resumes."""
        if self.committed is None or self.is_out_of_range:
            return self.earliest
        return self.committed

    @property
    def is_out_of_range(self) -> bool:
        """True when the log does not hold what was committed: deleted by retention, or the commit is of another log."""
        return self.committed is not None and not self.earliest <= self.committed <= self.end

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
    asked_at: datetime | None = None
    """Of a tier: when the letter was asked for that has waited longest."""
    due_at: datetime | None = None
    """Of a tier: when the first letter is due."""
    still_since: datetime | None = None
    """When it was first measured to wait at this position; none when nothing waits, or when it was measured once."""
    sightings: tuple[tuple[datetime, int], ...] = ()
    """When measurements found records behind the position, and where the log ended then; oldest first."""

    @property
    def is_age_unknown(self) -> bool:
        """True when something waits and nobody knows since when."""
        return self.messages > 0 and self.oldest_at is None

    @property
    def waits_since(self) -> datetime | None:
        """When the letter was asked for, or at least was there, that has waited longest; none when none is known."""
        seen = self.sightings[0][0] if self.sightings else None
        return min((at for at in (self.oldest_at, self.asked_at, seen) if at is not None), default=None)


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
    is_doubtful: bool = False
    """True when what was measured may not be what is meant: no such group, or a commit that the log does not hold."""

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
        asked_at=reading.asked_at if waiting else None,
        due_at=reading.due_at if waiting else None,
    )


def followed(before: PartitionLag | None, now: PartitionLag, at: datetime) -> PartitionLag:
    """Return `now`, read before `at`, with what the measurement before it tells.

    The age that was known is kept if it is unknown now and the group has not moved: same head. A record is no younger
    than the first measurement that found it, whatever the clock that dated it said.
    """
    if before is not None and before.end > now.end:
        before = None  # a topic that was made anew has no past
    if not now.messages:
        return now
    stands = before is not None and before.messages > 0 and before.position == now.position
    oldest_at = before.oldest_at if before is not None and stands and now.is_age_unknown else now.oldest_at
    sightings = _sightings(before.sightings if before is not None else (), now, at)
    return replace(
        now,
        oldest_at=None if oldest_at is None else min(oldest_at, sightings[0][0]),
        still_since=before.still_since if before is not None and stands else at,
        sightings=sightings,
    )


def longest_wait(partitions: Iterable[PartitionLag], now: datetime) -> timedelta | None:
    """Return how long the oldest waiting record has waited; zero when nothing waits, none when that is not known.

    A partition whose age is unknown does not hide the others. Clocks of two hosts may differ: an age is never below 0.
    """
    waiting = [part for part in partitions if part.messages > 0]
    since = [part.oldest_at for part in waiting if part.oldest_at is not None]
    if since:
        return max(ZERO, now - min(since))
    return None if waiting else ZERO


def _sightings(
    before: tuple[tuple[datetime, int], ...], now: PartitionLag, at: datetime
) -> tuple[tuple[datetime, int], ...]:
    seen = tuple((when, end) for when, end in before if end > now.position)
    if not seen or seen[-1][1] < now.end:
        seen = (*seen, (at, now.end))
    return seen if len(seen) <= SIGHTINGS else seen[::2]
