"""In-memory twin of otp's quotas: the model of the rule, under a clock that the test turns."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Sequence
from datetime import datetime, timedelta

from services.otp.ports import StoreUnavailable
from services.otp.rules.guesses import Tally
from services.otp.rules.quota import Bucket, LetterAsked, NoRoom, Quota, given_back, refilled, taken
from tests.fakes.clock import FakeClock
from tests.fakes.otp import Breaks


class InMemoryQuotas:
    """Implements `QuotaStore`."""

    def __init__(self, clock: FakeClock | None = None) -> None:
        self.clock = clock or FakeClock()
        self.calls: list[str] = []
        """`take` and `give_back`, in order."""
        self._breaks: defaultdict[str, deque[Breaks]] = defaultdict(deque)
        self._buckets: defaultdict[str, Bucket] = defaultdict(Bucket)

    def breaks_next(self, method: str, when: Breaks = Breaks.BEFORE) -> None:
        """Let the next call of a method raise `StoreUnavailable`, once."""
        self._breaks[method].append(when)

    def spent(self, dimension: str = "") -> int:
        """Return how many takes are remembered, of all buckets whose name begins so."""
        return sum(len(bucket.takes) for name, bucket in self._buckets.items() if name.startswith(dimension))

    def names(self) -> list[str]:
        """Return the names of all buckets."""
        return sorted(self._buckets)

    async def take(self, token: str, quotas: Sequence[Quota]) -> list[timedelta]:
        """Implements `QuotaStore`."""
        lost = await self._called("take")
        waits = []
        for quota in quotas:
            self._buckets[quota.name], wait = taken(self._buckets[quota.name], quota.limit, token, self.clock())
            waits.append(wait)
        self._lose(lost)
        return waits

    async def give_back(self, token: str, quotas: Sequence[Quota]) -> None:
        """Implements `QuotaStore`."""
        lost = await self._called("give_back")
        for quota in quotas:
            self._buckets[quota.name] = given_back(self._buckets[quota.name], quota.limit, token)
        self._lose(lost)

    async def refill(self, quotas: Sequence[tuple[Quota, timedelta]]) -> None:
        """Implements `QuotaStore`."""
        lost = await self._called("refill")
        for quota, sooner in quotas:
            self._buckets[quota.name] = refilled(self._buckets[quota.name], sooner, self.clock())
        self._lose(lost)

    async def _called(self, method: str) -> Breaks | None:
        self.calls.append(method)
        await asyncio.sleep(0)
        breaks = self._breaks[method].popleft() if self._breaks[method] else None
        if breaks is Breaks.BEFORE:
            raise StoreUnavailable
        return breaks

    @staticmethod
    def _lose(breaks: Breaks | None) -> None:
        if breaks is Breaks.AFTER:
            raise StoreUnavailable


class InMemoryTally:
    """Implements `GuessTally`, in stretches of five minutes."""

    def __init__(self, clock: FakeClock | None = None) -> None:
        self.clock = clock or FakeClock()
        self.is_away = False
        self._stretches: defaultdict[int, Tally] = defaultdict(lambda: Tally(0, 0))

    async def add(self, seen: Tally) -> Tally:
        """Implements `GuessTally`."""
        if self.is_away:
            raise StoreUnavailable
        now = int(self.clock().timestamp() // 300)
        self._stretches[now] = _sum(self._stretches[now], seen)
        return _sum(self._stretches[now], self._stretches[now - 1])


def _sum(one: Tally, other: Tally) -> Tally:
    return Tally(one.failed + other.failed, one.right + other.right)


class AdmitsAll:
    """Implements `Admit` and `Toll` where nothing is limited."""

    def __call__(self, now: datetime) -> AdmitsAll:
        """Implements `Admit`."""
        del now
        return self

    async def settle(self, letter: LetterAsked | None) -> NoRoom | None:
        """Implements `Toll`."""
        del letter
        return None
