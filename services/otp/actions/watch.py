"""Look at a challenge, once or at each change: where its letters are, and what to do now.

A watcher holds nothing: hints of changes come from whichever process made them, a lost hint costs `LOOK_AGAIN`, and a
stream is resumed on any replica with the last version seen. While a stream is open the challenge is noted as watched,
and a waiting letter near its deadline is kept wanted, once.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import datetime, timedelta

from services.otp.ports import ANNOUNCE_WITHIN, NOWHERE, Announce, ChallengeStore, Loaded, Queue
from services.otp.rules.announcement import announcements
from services.otp.rules.challenge import State
from services.otp.rules.handle import Opened, ParsedHandle, parse_handle
from services.otp.rules.policy import Policy
from services.otp.rules.renewal import kept_wanted
from services.otp.rules.view import ChallengeView, is_news, seen_by

LOOK_AGAIN = timedelta(seconds=2)
LEASE = timedelta(seconds=15)
"""A challenge counts as watched this long after a stream was last seen; renewed when half of it is over."""


class _Looking:
    """What looking once and watching share."""

    def __init__(self, store: ChallengeStore, queue: Queue, policy: Policy) -> None:
        self._store = store
        self._queue = queue
        self._policy = policy

    async def _look(self, parsed: ParsedHandle) -> tuple[Opened | None, Loaded]:
        shard = self._store.shard_of(parsed.challenge_id)
        loaded = await self._store.load(NOWHERE if shard is None else shard, challenge_ids=[parsed.challenge_id])
        return parsed.opens(loaded.challenges.get(parsed.challenge_id), self._policy), loaded

    def _seen(self, opened: Opened, loaded: Loaded) -> ChallengeView:
        notes = loaded.notes.get(opened.challenge.id)
        outlook = self._queue.outlook(notes.position if notes else None, loaded.now)
        return seen_by(opened.challenge, opened.place, opened.purpose, loaded.now, outlook)


class GetChallenge(_Looking):
    """Verb: show a challenge once."""

    async def __call__(self, caller: str, handle: str) -> ChallengeView | None:
        """Return what the handle opens; `None` for an unknown, foreign, mistyped or given back one.

        Raises:
            StoreUnavailable: not known.
        """
        opened, loaded = await self._look(parse_handle(caller, handle))
        return self._seen(opened, loaded) if opened else None


class WatchChallenge(_Looking):
    """Verb: show a challenge at each change, until it ends."""

    def __init__(self, store: ChallengeStore, queue: Queue, announce: Announce, policy: Policy) -> None:
        """Read from the store; announce what watching keeps wanted."""
        super().__init__(store, queue, policy)
        self._announce = announce

    async def __call__(self, caller: str, handle: str, after_version: int) -> AsyncGenerator[ChallengeView, None]:
        """Yield what is newer than `after_version`, then each change; place and expected time count as changes too.

        Ends with the challenge, and at once for an unknown handle.

        Raises:
            StoreUnavailable: not known; resume with the last version seen.
        """
        parsed = parse_handle(caller, handle)
        last: ChallengeView | None = None
        renewed_at: datetime | None = None
        with self._store.changes(parsed.challenge_id) as changes:
            while True:
                opened, loaded = await self._look(parsed)
                if opened is None:
                    return
                seen = self._seen(opened, loaded)
                if seen.version > after_version if last is None else is_news(seen, last):
                    yield seen
                    last = seen
                last = last or seen
                if seen.state is not State.OPEN:
                    return
                if renewed_at is None or loaded.now - renewed_at >= LEASE / 2:
                    renewed_at = loaded.now
                    await self._store.note_watched(opened.challenge.id, loaded.now + LEASE)
                await self._keep_wanted(opened, loaded.now)
                await changes.next(within=LOOK_AGAIN)

    async def _keep_wanted(self, opened: Opened, now: datetime) -> None:
        challenge, purpose = opened.challenge, opened.purpose
        after = kept_wanted(challenge, purpose, now)
        shard = self._store.shard_of(challenge.id)
        if after is None or shard is None:
            return
        told = announcements(challenge, after, purpose, now)
        entries = await self._store.commit(shard, challenge=after, announcements=told)
        if entries is not None:  # else somebody was faster, and the next look decides again
            await self._announce(entries, within=ANNOUNCE_WITHIN)
