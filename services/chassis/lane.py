"""What a letter that is asked for now would wait in its lane: values and arithmetic, no client, no clock.

A lane is all that waits for the same slots: the letters of its main topic, of the tiers where those wait that could not
leave, and those that its owner has not published yet. In front of a new letter is all of that:

    wait = backlog / rate         while letters leave
    wait = age + backlog / rate   while none does: the oldest has waited that long for nothing, the rest comes after

`rate` is hand-overs a second, never how fast offsets are committed, which soars when letters are dropped. It is learnt
while letters queue, since an idle mailer hands over no faster than people ask, and kept until it can be learnt again.
As long as it was never learnt, what leaves anyhow is the least that can leave; and where nothing leaves either, the
wait is told as the age of the oldest, which is the least that it can be. So nothing is ever divided by nothing.

The partitions of the main topic are drained side by side, each first come, first served. At the end of one, a letter
leaves after all of its own partition, and after as many of each other one, as far as that reaches:

    wait(p) = (Σ_q min(messages(p), messages(q)) + tiers + unpublished) / rate

which is backlog / rate for the longest. A partition that stands still while others move waits as a lane would in which
nothing leaves: age + …, with its own age.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from services.chassis.lag import ZERO, PartitionLag

FRESH = timedelta(seconds=15)  # a measurement that is older tells nothing about now
YOUNG = timedelta(seconds=5)  # a head that is younger stands in no backlog; commits lag half a second behind
WINDOW = 200  # letters of a partition that the mailer takes in hand at once, as its inbox does
STILL = timedelta(seconds=10)
STILL_TURNS = 12  # letters of a partition leave at random: of 160 000 gaps between them one is longer than 12 turns
LEARNING = timedelta(seconds=30)  # busy time that a rate is learnt from
LEAST_LEARNING = timedelta(seconds=5)  # with less, two letters that happen to leave together would be a rate
SHORTEST = timedelta(milliseconds=1)  # where something waits, no wait is told as none
LONGEST = timedelta(days=7)  # no topic of ours keeps a letter for longer


@dataclass(frozen=True, slots=True)
class LaneLag:
    """What waits in one lane, as of one measurement in which nothing was missing."""

    at: datetime
    main: tuple[PartitionLag, ...]
    tiers: tuple[PartitionLag, ...] = ()
    """The partitions of all its tiers."""
    unpublished: int = 0
    """Letters in the outbox of its owner, for whoever knows."""

    @property
    def backlog(self) -> int:
        """How many letters wait, wherever."""
        return sum(part.messages for part in (*self.main, *self.tiers)) + self.unpublished

    @property
    def beside(self) -> int:
        """How many letters wait outside the main topic."""
        return sum(part.messages for part in self.tiers) + self.unpublished

    @property
    def waits_since(self) -> datetime | None:
        """When the letter was asked for that has waited longest; none when none waits, or none is known."""
        parts = [part for part in (*self.main, *self.tiers) if part.messages]
        return min((part.waits_since for part in parts if part.waits_since is not None), default=None)

    @property
    def is_young(self) -> bool:
        """True when no backlog is there: the mailer has it all in hand, and nothing has waited for long."""
        oldest = self.waits_since
        is_old = oldest is not None and self.at - oldest >= YOUNG
        is_short = all(part.messages <= WINDOW for part in (*self.main, *self.tiers))
        return is_short and not is_old and not self.unpublished

    def patience(self, per_second: float | None) -> timedelta:
        """Return how long a partition may stand still: a slow relay serves each of them rarely."""
        turn_s = sum(1 for part in self.main if part.messages) / per_second if per_second else 0.0
        return max(STILL, _bounded(ZERO, STILL_TURNS * turn_s))

    def is_busy(self, per_second: float | None) -> bool:
        """Return whether letters are handed over as fast as they can be: some that could leave have to wait."""
        patience = self.patience(per_second)
        moving = (part for part in self.main if part.messages and not is_still(part, self.at, patience))
        return any(part.messages > WINDOW or _is_old(part.waits_since, self.at) for part in moving) or any(
            part.messages and _is_old(part.due_at, self.at) for part in self.tiers
        )


@dataclass(frozen=True, slots=True)
class Flow:
    """What measurements so far have told about how letters come and go in a lane."""

    arrived: int = 0
    """Letters that came into the main topic since the first measurement."""
    handed_over: int = 0
    """Letters that left since the first measurement."""
    busy: tuple[tuple[timedelta, int], ...] = ()
    """Busy stretches and what left in each, oldest first; each ends with a letter that left."""
    fruitless: timedelta = ZERO
    """Busy time since then, in which none left; none of it once nothing leaves: that is no pace."""
    recent: tuple[tuple[timedelta, int], ...] = ()
    """The last stretches, busy or not, and what left in each."""
    still_since: datetime | None = None
    """Since when letters wait and none has left; none while none waits."""
    before: LaneLag | None = None
    """The last measurement."""

    @property
    def per_second(self) -> float | None:
        """Return how many letters leave a second while they queue, above 0; none while too little is known.

        While it was never learnt, what left lately is the least that can leave.
        """
        learnt = self.learnt_per_second
        if learnt is not None or _sum(self.busy)[1] + self.fruitless >= LEAST_LEARNING:
            return learnt
        return _pace(*_sum(self.recent))

    @property
    def learnt_per_second(self) -> float | None:
        """Return the same, learnt while letters queued and nothing else: no bound, for who must not refuse too many."""
        count, length = _sum(self.busy)
        return _pace(count, length + self.fruitless)

    @property
    def patience(self) -> timedelta:
        """Return how long to wait for a letter to leave before nothing is said to leave."""
        count, length = _sum(self.busy)
        return max(STILL, STILL_TURNS * length / count) if count else STILL

    @property
    def is_still(self) -> bool:
        """True when letters wait, and have for so long without one of them leaving that none does."""
        if self.before is None or self.still_since is None:
            return False
        return self.before.at - self.still_since >= self.patience


@dataclass(frozen=True, slots=True)
class Wait:
    """What a letter that is asked for now would wait."""

    whole: timedelta
    """In the lane, wherever it comes to stand: 0 only where nothing waits but what the mailer has in hand."""
    partitions: Mapping[int, timedelta]
    """At the end of each partition of the main topic."""


def flowed(flow: Flow, now: LaneLag, handed_over: int) -> Flow:
    """Return what is known after one more measurement and what was handed over since the one before.

    A stretch teaches when letters queued at both its ends; one longer than `FRESH` is an outage of the measurer.
    """
    before = flow.before
    is_still = flow.still_since is not None and now.backlog and not handed_over
    grown = replace(
        flow,
        arrived=flow.arrived + (_arrived(before, now) if before is not None else 0),
        handed_over=flow.handed_over + handed_over,
        still_since=flow.still_since if is_still else now.at if now.backlog else None,
        before=now,
    )
    length = now.at - before.at if before is not None else ZERO
    if before is None or not ZERO < length <= FRESH:
        return grown
    pace = flow.per_second
    grown = replace(grown, recent=_last((*flow.recent, (length, handed_over))))
    if before.is_busy(pace) and now.is_busy(pace):
        grown = _taught(grown, length, handed_over)
    return replace(grown, fruitless=ZERO) if grown.is_still else grown


def wait_in(flow: Flow, now: datetime) -> Wait | None:
    """Return what a letter that is asked for now would wait; none when the last measurement tells nothing any more."""
    lane = flow.before
    if lane is None or now - lane.at > FRESH:
        return None
    if not lane.backlog or lane.is_young:
        return Wait(ZERO, {part.partition: ZERO for part in lane.main})
    per_second, age = flow.per_second, _since(lane.waits_since, now)
    if per_second is None:
        ages = {
            part.partition: _bounded(_since(part.waits_since, now)) if part.messages else ZERO for part in lane.main
        }
        return Wait(_bounded(age), ages)
    patience = lane.patience(per_second)

    def told(part: PartitionLag) -> timedelta:
        ahead = sum(min(part.messages, each.messages) for each in lane.main) + lane.beside
        stands = is_still(part, lane.at, patience)
        lost = age if flow.is_still else _since(part.waits_since, now) if stands else ZERO
        return _bounded(lost, ahead / per_second) if ahead else ZERO

    partitions = {part.partition: told(part) for part in lane.main}
    whole = _bounded(age if flow.is_still else ZERO, lane.backlog / per_second)
    return Wait(max([whole, *partitions.values()]), partitions)


def is_still(part: PartitionLag, at: datetime, patience: timedelta) -> bool:
    """Return whether letters wait in a partition, and none has moved for so long."""
    return part.messages > 0 and part.still_since is not None and at - part.still_since >= patience


def _arrived(before: LaneLag, now: LaneLag) -> int:
    known = {part.partition: part.end for part in before.main}
    ends = ((part.end, known.get(part.partition, 0)) for part in now.main)
    return sum(end - past if end >= past else end for end, past in ends)  # a topic that was made anew starts from 0


def _taught(flow: Flow, length: timedelta, handed_over: int) -> Flow:
    if not handed_over:
        return replace(flow, fruitless=flow.fruitless + length)
    return replace(flow, busy=_last((*flow.busy, (flow.fruitless + length, handed_over))), fruitless=ZERO)


def _last(stretches: tuple[tuple[timedelta, int], ...]) -> tuple[tuple[timedelta, int], ...]:
    """Return the last stretches that make up `LEARNING`."""
    _, total = _sum(stretches)
    while total - stretches[0][0] >= LEARNING:
        total -= stretches[0][0]
        stretches = stretches[1:]
    return stretches


def _pace(count: int, length: timedelta) -> float | None:
    return count / length.total_seconds() if count and length >= LEAST_LEARNING else None


def _sum(stretches: Iterable[tuple[timedelta, int]]) -> tuple[int, timedelta]:
    stretches = tuple(stretches)
    return sum(count for _, count in stretches), sum((length for length, _ in stretches), ZERO)


def _is_old(since: datetime | None, at: datetime) -> bool:
    return since is not None and at - since >= YOUNG


def _since(at: datetime | None, now: datetime) -> timedelta:
    return SHORTEST if at is None else _bounded(now - at)


def _bounded(lost: timedelta, seconds: float = 0.0) -> timedelta:
    """Return the sum, where something waits: never told as nothing, and never as more than a topic keeps."""
    return min(LONGEST, max(SHORTEST, lost + timedelta(seconds=min(seconds, LONGEST.total_seconds()))))
