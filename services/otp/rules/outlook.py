"""Where a letter stands in the mailer's queue and when it should leave: arithmetic over offsets that are sampled.

Each partition is a queue of its own, first come, first served, and all are drained side by side:

    place = own offset - committed offset                      letters in front of it, in its partition
    wait  = (Σ_q min(place, waiting(q)) + beside) / rate       of each other partition as many as that reaches

`beside` is what waits in retry tiers for the same slots, and `rate` is hand-overs a second, learnt while letters queue
(`services.chassis.lane`). Nothing is guessed. How long the head of a partition has waited is known without reading it:
a record behind the end of an earlier sample is younger than that sample, one before it is older. A partition that
stands still has no wait that could be told: then there is no number, instead of a wrong one.

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
STILL_TURNS = 12  # letters of a partition leave at random: of 160 000 gaps between them one is longer than 12 turns
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


@dataclass(frozen=True, slots=True)
class Sample:
    """The whole queue, at one time."""

    at: datetime
    partitions: Mapping[int, Partition]
    """All that could be read."""
    beside: int = 0
    """Letters in retry tiers."""

    @property
    def active(self) -> frozenset[int]:
        """Partitions where letters wait."""
        return frozenset(number for number, part in self.partitions.items() if part.waiting)

    @property
    def is_still(self) -> bool:
        """True when letters wait and none has moved for `STILL`."""
        return bool(self.active) and not any(True for _ in self._moving())

    def _moving(self) -> Iterator[Partition]:
        return (part for part in self.partitions.values() if part.waiting and self.at - part.still_since < STILL)


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


def sampled(before: Sample | None, at: datetime, offsets: Mapping[int, Offsets], beside: int = 0) -> Sample:
    """Return the sample that was taken `at`, with what those before it tell about it."""
    known = before.partitions if before is not None else {}
    return Sample(at, {number: _sampled(known.get(number), at, told) for number, told in offsets.items()}, beside)


def forecast(sample: Sample, rate: float | None, partition: int, offset: int, now: datetime) -> Forecast | None:
    """Return what can be told of the letter at `offset`; none when the sample is old or silent about it.

    `rate` is letters a second, above 0; none where nobody knows, or nothing leaves.
    """
    part = sample.partitions.get(partition)
    if part is None or offset < 0 or now - sample.at > FRESH:
        return None
    ahead = offset - part.offsets.committed
    if ahead < 0:
        return Forecast(0, timedelta(0))
    return Forecast(ahead, _wait(sample, rate, partition, ahead, now))


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
    before_it = sum(min(ahead, each.waiting) for number, each in sample.partitions.items() if number != partition)
    left_s = (ahead + before_it + sample.beside) / rate - (now - sample.at).total_seconds()
    return timedelta(seconds=max(0.0, left_s)) if left_s <= FARTHEST.total_seconds() else None


def _stands_still(part: Partition, at: datetime, active: int, rate: float | None) -> bool:
    patience_s = max(STILL.total_seconds(), STILL_TURNS * active / rate if rate else 0)
    return bool(part.waiting) and (at - part.still_since).total_seconds() >= patience_s
