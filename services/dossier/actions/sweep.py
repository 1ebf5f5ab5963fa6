"""Announce what the outbox holds: bucket by bucket, in order, each wish deleted only after it is acknowledged.

A crash between acknowledgement and deletion announces a wish again, with the same notice id: the same letter. When an
announcement fails the pass ends: the outbox holds the rest, and only one wish at a time knocks at a door that is shut.

The arithmetic of the lease: a wish is begun only while a whole `ANNOUNCE_WITHIN` is left of the lease, so a holder has
let go before anybody else may take the bucket: LEASE = BATCH_WITHIN + ANNOUNCE_WITHIN + 1 s for the store itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from services.dossier.ports import Backlog, EventSink, NotAnnounced, Outbox
from services.dossier.rules.notice import NoticeId

BATCH = 100  # wishes of a bucket before others get their turn
BATCH_WITHIN = timedelta(seconds=5)
ANNOUNCE_WITHIN = timedelta(seconds=4)
PASS_WITHIN = timedelta(seconds=1)  # then the pass tells how far it is, however much is left
LEASE = BATCH_WITHIN + ANNOUNCE_WITHIN + timedelta(seconds=1)  # also how long a killed holder's bucket waits


@dataclass(frozen=True, slots=True)
class Swept:
    """What a pass did."""

    announced: int
    backlog: Backlog
    """What is left."""
    halted_by: str | None
    """`NotAnnounced.reason` when the pass ended early."""
    more: bool
    """True: the pass ended because it took long, and the next one has work to do."""


class SweepOutbox:
    """Empties the outbox; one pass at a time per holder."""

    def __init__(
        self,
        outbox: Outbox,
        events: EventSink,
        *,
        holder: str,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._outbox = outbox
        self._events = events
        self._holder = holder
        self._seconds = seconds

    async def __call__(self) -> Swept:
        """Announce until nothing is left that this holder may have, an announcement fails, or the pass has taken long.

        Raises:
            ArchiveUnavailable: what was announced and not deleted will be announced again.
        """
        announced = 0
        begun = pass_begun = self._seconds()
        while begun - pass_begun < PASS_WITHIN.total_seconds():
            bucket = await self._outbox.claim_bucket(self._holder, LEASE)
            if bucket is None:
                return Swept(announced, await self._outbox.backlog(), halted_by=None, more=False)
            done, halted_by = await self._announce(bucket, begun + BATCH_WITHIN.total_seconds())
            await self._outbox.settle(bucket, self._holder, done)
            announced += len(done)
            if halted_by is not None:
                return Swept(announced, await self._outbox.backlog(), halted_by, more=False)
            begun = self._seconds()
        return Swept(announced, await self._outbox.backlog(), halted_by=None, more=True)

    async def _announce(self, bucket: int, until: float) -> tuple[Sequence[NoticeId], str | None]:
        done: list[NoticeId] = []
        for waiting in await self._outbox.waiting(bucket, BATCH):
            if self._seconds() > until:
                break
            try:
                await self._events.announce(waiting)
            except NotAnnounced as failure:
                return done, failure.reason
            done.append(waiting.wish.notice_id)
        return done, None
