"""Sweep the outbox: publish what a commit promised and nobody has announced.

An entry goes only after the broker acknowledged it, so a crash repeats it and never loses it; the mailer knows a repeat
by its challenge and generation. Entries in the hands of a request are left alone until they are `IDLE` old.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from services.otp.ports import ChallengeStore, EventSink, OutboxEntry, PublishFailed

IDLE = timedelta(seconds=5)
BATCH = 200
PUBLISH_WITHIN = timedelta(seconds=10)


class AnnounceLetters:
    """Fulfils `Announce`: publishes entries and forgets those that were acknowledged."""

    def __init__(self, store: ChallengeStore, events: EventSink) -> None:
        """Publish from the store to the sink."""
        self._store = store
        self._events = events

    async def __call__(self, entries: Sequence[OutboxEntry], *, within: timedelta) -> None:
        """Publish all at once; what fails stays in the outbox."""
        await asyncio.gather(*(self._one(entry, within) for entry in entries))

    async def _one(self, entry: OutboxEntry, within: timedelta) -> None:
        try:
            await self._events.publish(entry, within=within)
        except PublishFailed:
            return  # it stays in the outbox, where the sweep finds it
        await self._store.published(entry)


class SweepOutbox:
    """Verb: publish what is left."""

    def __init__(self, store: ChallengeStore, announce: AnnounceLetters) -> None:
        """Sweep the store through `announce`."""
        self._store = store
        self._announce = announce

    async def __call__(self) -> int:
        """Publish up to a batch, the oldest first; return how many entries wait after it.

        Raises:
            StoreUnavailable: the outbox cannot be read now.
        """
        await self._announce(await self._store.unpublished(older_than=IDLE, most=BATCH), within=PUBLISH_WITHIN)
        return await self._store.outbox_size()
