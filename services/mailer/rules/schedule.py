"""When a letter that could not leave is tried again: in which tier, from when on, and how long at most.

A tier is a queue whose records all wait equally long, so they are due in the order in which they stand, and the first
of them holds up nobody. The n-th failure of a letter goes to the n-th tier, the last tier repeats; a longer delay never
comes back to a shorter one, but near the deadline: a try that would come after it comes earlier, in the longest tier
that still fits. So the last try is as near to the deadline as the shortest delay, and no letter is dropped later than
that delay after its deadline.

    delay = the longest of delays[: failures] with now + delay ≤ deadline, else the shortest of all
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from services.mailer.rules.letter import Lane

UNITS = {"h": timedelta(hours=1), "m": timedelta(minutes=1)}
SECOND = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Tier:
    """One queue of letters that wait equally long."""

    lane: Lane
    delay: timedelta
    """Whole seconds."""

    @property
    def name(self) -> str:
        """Its delay in the largest unit that divides it, such as `10s`, `1m`, `6h`."""
        for unit, length in UNITS.items():
            if not self.delay % length:
                return f"{self.delay // length}{unit}"
        return f"{self.delay // SECOND}s"


@dataclass(frozen=True, slots=True)
class Retry:
    """The next try of a letter."""

    tier: Tier
    attempt: int
    """1 for the first try after the first failure."""
    not_before: datetime


class Schedule:
    """The tiers of one lane."""

    def __init__(self, lane: Lane, delays: Sequence[timedelta]) -> None:
        """Take at least one delay, in rising order."""
        self.tiers = tuple(Tier(lane, delay) for delay in delays)

    def next_try(self, attempt: int, now: datetime, deadline: datetime) -> Retry:
        """Return what follows the failure of this attempt (0 = the first try) of a letter wanted until `deadline`."""
        fitting = [tier for tier in self.tiers[: attempt + 1] if now + tier.delay <= deadline]
        tier = fitting[-1] if fitting else self.tiers[0]
        return Retry(tier, attempt + 1, now + tier.delay)
