"""One tier: its records wait until they are due, and are then delivered as those of the lane are.

They wait in hand, in tasks of their inbox, and hold nothing of their lane: no slot, no connection, no place in the hand
of its inbox. All of a tier wait equally long, so the first of them is due first and holds up nobody. When many are due
at once they take turns, all tiers of a lane together, so that fresh letters get their share of its slots. One that
still waits when the process stops is given up at once: whoever gets the partition next waits on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

from services.chassis.clock import Clock
from services.chassis.events import read_instant
from services.chassis.record_fate import Record
from services.mailer.outbound.kafka_retries import NOT_BEFORE
from services.mailer.rules.schedule import Tier

IN_HAND = 500
"""Records of a tier in hand, 20 kB each with what is fetched ahead: 90 MB when all nine tiers are full. Of more than
that, a restart may find a partition's later records before another one's earlier ones; these are then late, by the
tier's delay at most."""


def tier_group(tier: Tier) -> str:
    """Return the consumer group of a tier.

    Each has its own: in a group for all, a member that comes or goes would interrupt every tier of the lane.
    """
    return f"mailer-retry-{tier.lane}-{tier.name}"


class TierInbox:
    """Lets a record wait for its time, then hands it on."""

    def __init__(
        self,
        tier: Tier,
        deliver: Callable[[Record], Awaitable[None]],
        *,
        turns: asyncio.Semaphore,
        clock: Clock,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Hand on to what delivers the records of the lane, each in its turn."""
        self._tier = tier
        self._deliver = deliver
        self._turns = turns
        self._clock = clock
        self._sleep = sleep
        self._waiting = 0

    def waiting(self) -> int:
        """Count the records that wait for their time."""
        return self._waiting

    async def __call__(self, record: Record) -> None:
        """Handle one record. Raises what the delivering raises."""
        now = self._clock()
        # Never longer than the tier's delay: the clock that wrote it may be ahead of ours, and must not hold the tier.
        due = min(_not_before(record) or now, now + self._tier.delay)
        if due > now:
            with self._counted():
                await self._sleep((due - now).total_seconds())
        async with self._turns:
            await self._deliver(record)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1


def _not_before(record: Record) -> datetime | None:
    """Return when it is due; none for a record that does not tell: somebody put it there, and wants it delivered."""
    try:
        return read_instant(record.headers[NOT_BEFORE].decode())
    except (KeyError, ValueError):
        return None
