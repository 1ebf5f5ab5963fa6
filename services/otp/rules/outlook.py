"""Where a letter stands in the mailer's queue and when it should leave: arithmetic over offsets that are sampled.

Each partition is a queue of its own, first come, first served, and all are drained side by side:

    place = own offset - committed offset        letters in front of it, in its partition
    wait  = place * active / rate                active: partitions where letters wait; rate: hand-overs a second

Nothing is guessed. How long the head of a partition has waited is known without reading it: a record behind the end of
an earlier sample is younger than that sample, one before it is older. A rate is learnt only while letters
wait and move, since an idle mailer hands over no faster than people ask, and is kept until it can be learnt again. A
partition that stands still has no wait that could be told: then there is no number, instead of a wrong one.

Times are of one clock, whichever; what comes out is a duration.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

FRESH = timedelta(seconds=15)  # a sample that is older tells nothing any more
YOUNG = timedelta(seconds=5)  # a head that is younger stands in no backlog; commits lag half a second behind
WINDOW = 200  # letters of a partition that the mailer takes in hand at once, as its inbox does
STILL = timedelta(seconds=10)
STILL_TURNS = 5  # a slow relay serves a partition rarely; one that missed this many of its turns stands still
LEARNING = timedelta(seconds=30)  # busy time that a rate is learnt from
LEAST_LEARNING = timedelta(seconds=5)  # with less, two letters that happen to leave together would be a rate
FARTHEST = timedelta(days=1)  # no letter is wanted for longer, and no topic keeps one


@dataclass(frozen=True, slots=True)
class Offsets:
    """What was read of one partition."""

    committed: int
    """Offset at which the mailer's work resumes."""
    end: int
    """Offset that the next record will get; read after the former."""


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition, as of the last sample."""

    offsets: Offsets
    still_since: datetime
    """When it was first seen waiting with this committed offset; of the last sample when nothing waits."""
    ends: tuple[tuple[datetime, int], ...]
    """When samples were taken and what the end was, oldest first: those of the last `YOUNG`, and one before."""

    @property
    def waiting(self) -> int:
        """How many letters wait."""
        return self.offsets.end - self.offsets.committed

    def is_head_young(self, now: datetime) -> bool:
        """True when the first letter that waits, or the next that comes, was written less than `YOUNG` ago."""
        return any(end <= self.offsets.committed and now - at < YOUNG for at, end in self.ends)

    def is_head_old(self, now: datetime) -> bool:
        """True when the first letter that waits was written `YOUNG` ago or earlier."""
        return any(end > self.offsets.committed and now - at >= YOUNG for at, end in self.ends)


@dataclass(frozen=True, slots=True)
class Sample:
    """The whole queue, at one time."""

    at: datetime
    partitions: Mapping[int, Partition]
    """All that could be read."""

    @property
    def active(self) -> frozenset[int]:
        """Partitions where letters wait."""
        return frozenset(number for number, part in self.partitions.items() if part.waiting)

    @property
    def is_still(self) -> bool:
        """True when letters wait and none has moved for `STILL`."""
        return bool(self.active) and not any(True for _ in self._moving())

    @property
    def is_busy(self) -> bool:
        """True when letters move and more wait than the mailer can take at once: then it is as fast as it can be."""
        return any(part.waiting > WINDOW or part.is_head_old(self.at) for part in self._moving())

    def _moving(self) -> Iterator[Partition]:
        return (part for part in self.partitions.values() if part.waiting and self.at - part.still_since < STILL)


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast letters are handed over while they queue, learnt from the last `LEARNING` of busy time."""

    stretches: tuple[tuple[timedelta, float], ...] = ()
    """Busy stretches and how many letters were handed over in each, oldest first."""

    @property
    def per_second(self) -> float | None:
        """Return letters a second, above 0; none while too little is known."""
        busy = sum((length for length, _ in self.stretches), timedelta(0))
        if busy < LEAST_LEARNING:
            return None
        return sum(count for _, count in self.stretches) / busy.total_seconds() or None


@dataclass(frozen=True, slots=True)
class Outlook:
    """What can be told of a letter that waits; what is not known is none, never a guess."""

    place: int | None = None
    """Letters that leave before it, 0 or more: 0 when it is the next, or has left the queue."""
    leaves_at: datetime | None = None
    """A whole second, never before the `now` of the question."""


UNKNOWN = Outlook()


@dataclass(frozen=True, slots=True)
class Forecast:
    """What can be told of one letter."""

    place: int
    """How many letters of its partition leave before it."""
    wait: timedelta | None
    """Until it should leave; none when that is not known."""


def sampled(before: Sample | None, at: datetime, offsets: Mapping[int, Offsets]) -> Sample:
    """Return the sample that was taken `at`, with what those before it tell about it."""
    known = before.partitions if before is not None else {}
    return Sample(at, {number: _sampled(known.get(number), at, told) for number, told in offsets.items()})


def learnt(rate: Rate, before: Sample | None, now: Sample, handed_over: float) -> Rate:
    """Return the rate after one more sample, with what was handed over since the one before.

    A stretch teaches when the queue was busy at both its ends; one longer than `FRESH` is an outage.
    """
    if before is None or not (before.is_busy and now.is_busy):
        return rate
    length = now.at - before.at
    if not timedelta(0) < length <= FRESH:
        return rate
    stretches = (*rate.stretches, (length, handed_over))
    total = sum((each for each, _ in stretches), timedelta(0))
    while total - stretches[0][0] >= LEARNING:
        total -= stretches[0][0]
        stretches = stretches[1:]
    return Rate(stretches)


def forecast(sample: Sample, rate: Rate, partition: int, offset: int, now: datetime) -> Forecast | None:
    """Return what can be told of the letter at `offset`; none when the sample is old or silent about it."""
    part = sample.partitions.get(partition)
    if part is None or offset < 0 or now - sample.at > FRESH:
        return None
    ahead = offset - part.offsets.committed
    if ahead < 0:
        return Forecast(0, timedelta(0))
    return Forecast(ahead, _wait(sample, rate.per_second, partition, ahead, now))


def whole_second(instant: datetime) -> datetime:
    """Return the instant, rounded up to a whole second."""
    return instant if not instant.microsecond else instant.replace(microsecond=0) + timedelta(seconds=1)


def _sampled(before: Partition | None, at: datetime, offsets: Offsets) -> Partition:
    if before is None or before.offsets.end > offsets.end:  # a topic that was made anew has no past
        return Partition(offsets, at, ((at, offsets.end),))
    is_same_head = before.waiting and before.offsets.committed == offsets.committed
    past = before.ends
    while len(past) > 1 and at - past[1][0] >= YOUNG:
        past = past[1:]
    return Partition(offsets, before.still_since if is_same_head else at, (*past, (at, offsets.end)))


def _wait(sample: Sample, rate: float | None, partition: int, ahead: int, now: datetime) -> timedelta | None:
    active = len(sample.active | {partition})
    part = sample.partitions[partition]
    if sample.is_still or _stands_still(part, sample.at, active, rate):
        return None
    if ahead == 0 or (ahead <= WINDOW and part.is_head_young(now)):
        return timedelta(0)
    if rate is None:
        return None
    left_s = ahead * active / rate - (now - sample.at).total_seconds()
    return timedelta(seconds=max(0.0, left_s)) if left_s <= FARTHEST.total_seconds() else None


def _stands_still(part: Partition, at: datetime, active: int, rate: float | None) -> bool:
    patience_s = max(STILL.total_seconds(), STILL_TURNS * active / rate if rate else 0)
    return bool(part.waiting) and (at - part.still_since).total_seconds() >= patience_s
