"""When a partition pours too much into its dead letters: the arithmetic of `partition_pauses`, without a clock.

A release that does not fit its neighbours (its messages do not decode, its letters have no template) makes a dead
letter of every record that it touches. A few hundred can be looked at and put back by a person; a night's worth cannot.
So a partition whose last records were mostly such **deploy faults** is paused: what waits there waits undamaged for a
mended release. Now and then one record is tried (half-open): when it is handled, the partition runs again.

**Why half of the last 200.** With fewer records, one sender with a bug and little else to do would stop a healthy
partition; and 200 dead letters per partition are what a person can still look through. Half, because a bad release need
not break every record: one of two templates may be missing, or every second reader is still an old one. One bad sender
among many stays below. It is a limiter and no wall: after a recovery the count begins anew, so a fault that stays costs
at most `last` dead letters for each record that is handled while half-open.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Limits:
    """When to pause, and how often to look whether the fault is gone."""

    last: int = 200
    """How many records are judged by; fewer never pause a partition."""
    share: float = 0.5
    """Of those, the part of deploy faults from which on it is paused."""
    half_open_every: timedelta = timedelta(seconds=30)
    """A dead letter each half minute is no flood, and a mended release is found within one."""


class PoisonLimiter:
    """One partition. Instants are seconds of any clock that never goes back."""

    def __init__(self, limits: Limits) -> None:
        """Start as running, with nothing known."""
        self._limits = limits
        self._faults: deque[bool] = deque(maxlen=limits.last)
        self._next_try_at: float | None = None

    @property
    def is_paused(self) -> bool:
        """Say whether only half-open records may settle."""
        return self._next_try_at is not None

    @property
    def faults(self) -> int:
        """Count the deploy faults among the last records."""
        return sum(self._faults)

    def note(self, *, fault: bool, now: float) -> bool:
        """Note how a record of the running partition settles; return whether the partition is paused from here on."""
        self._faults.append(fault)
        if len(self._faults) == self._limits.last and self.faults >= self._limits.share * self._limits.last:
            self._next_try_at = now + self._limits.half_open_every.total_seconds()
        return self.is_paused

    def wait(self, now: float) -> float:
        """Return the seconds until a record may be tried; 0 when one may now, or when the partition runs."""
        return 0 if self._next_try_at is None else max(0.0, self._next_try_at - now)

    def tried(self, *, handled: bool, now: float) -> bool:
        """Note how the half-open record fared; return whether the partition runs again, judged anew."""
        if handled:
            self._next_try_at = None
            self._faults.clear()
        else:
            self._next_try_at = now + self._limits.half_open_every.total_seconds()
        return handled
