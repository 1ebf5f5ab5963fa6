"""Sweep the outbox: publish what a commit promised and nobody has announced.

An entry goes only after the broker acknowledged it, so a crash repeats it and never loses it; the mailer knows a repeat
by its challenge and generation. Entries in the hands of a request are left alone until they are `IDLE` old. A caller
who waits no longer does not end the attempt: an entry is in one attempt at a time, so that a broker which comes back
does not find it twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta

from services.otp.ports import ChallengeStore, EventSink, OutboxEntry, Position, PublishFailed, StoreUnavailable

IDLE = timedelta(seconds=5)
BATCH = 200
SWEEP_WITHIN = timedelta(seconds=10)
PUBLISH_WITHIN = timedelta(seconds=30)  # above what the sink itself allows, so that it says how an attempt ended


class AnnounceEntries:
    """Fulfils `Announce`: publishes entries and forgets those that were acknowledged."""

    def __init__(self, store: ChallengeStore, events: EventSink) -> None:
        """Publish from the store to the sink."""
        self._store = store
        self._events = events
        self._in_hand: dict[tuple[int, str], asyncio.Task[Position | None]] = {}
        self._published: list[tuple[OutboxEntry, Position]] = []
        self._forgetting: asyncio.Task[None] | None = None

    async def __call__(self, entries: Sequence[OutboxEntry], *, within: timedelta) -> Mapping[str, Position]:
        """Publish all at once; what fails stays in the outbox, what takes longer goes on without the caller."""
        attempts = [self._in_hand.get((entry.shard, entry.id)) or self._begin(entry) for entry in entries]
        if not attempts:
            return {}
        ended, _ = await asyncio.wait(attempts, timeout=within.total_seconds())
        stand = {
            entry.letter: attempt.result()
            for entry, attempt in zip(entries, attempts, strict=True)
            if attempt in ended and entry.letter
        }
        return {letter: position for letter, position in stand.items() if position is not None}

    async def settled(self, *, within: timedelta) -> None:
        """Wait until nothing is on its way, as a process that ends does: else the next one publishes it again."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within.total_seconds()):
                while self._in_hand:
                    await asyncio.wait(self._in_hand.values())
                if self._forgetting is not None:
                    await self._forgetting

    def _begin(self, entry: OutboxEntry) -> asyncio.Task[Position | None]:
        attempt = asyncio.create_task(self._one(entry))
        self._in_hand[entry.shard, entry.id] = attempt
        attempt.add_done_callback(lambda _: self._in_hand.pop((entry.shard, entry.id)))
        return attempt

    async def _one(self, entry: OutboxEntry) -> Position | None:
        try:
            position = await self._events.publish(entry, within=PUBLISH_WITHIN)
        except PublishFailed:
            return None  # it stays in the outbox, where the sweep finds it; published twice is harmless
        self._published.append((entry, position))
        if self._forgetting is None or self._forgetting.done():
            self._forgetting = asyncio.create_task(self._forget())
        return position

    async def _forget(self) -> None:
        """Forget what was published, all that came together in one call; nobody waits for it."""
        while self._published:
            batch, self._published = self._published, []
            with suppress(StoreUnavailable):  # then they are published once more by the sweep
                await self._store.published(batch)


class SweepOutbox:
    """Verb: publish what is left."""

    def __init__(self, store: ChallengeStore, announce: AnnounceEntries) -> None:
        """Sweep the store through `announce`."""
        self._store = store
        self._announce = announce

    async def __call__(self) -> int:
        """Publish up to a batch, the oldest first; return how many entries wait after it.

        Raises:
            StoreUnavailable: the outbox cannot be read now.
        """
        await self._announce(await self._store.unpublished(older_than=IDLE, most=BATCH), within=SWEEP_WITHIN)
        return await self._store.outbox_size()
