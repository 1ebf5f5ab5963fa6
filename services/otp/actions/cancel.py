"""Cancel: a caller gives its handle back; with the last one the challenge is over and its waiting letter withdrawn.

What is stored if the process dies: the handle given back and the withdrawal in the outbox, together, or neither.
"""

from __future__ import annotations

from services.otp.ports import (
    ANNOUNCE_WITHIN,
    COMMIT_TRIES,
    NOWHERE,
    Announce,
    ChallengeStore,
    StoreUnavailable,
)
from services.otp.rules.announcement import announcements
from services.otp.rules.challenge import without_handle
from services.otp.rules.handle import parse_handle
from services.otp.rules.policy import Policy


class CancelChallenge:
    """Verb: give a handle back."""

    def __init__(self, store: ChallengeStore, announce: Announce, policy: Policy) -> None:
        """Take the ports."""
        self._store = store
        self._announce = announce
        self._policy = policy

    async def __call__(self, caller: str, handle: str) -> bool:
        """Give it back; say whether it opened anything. Safe to repeat.

        Raises:
            StoreUnavailable: not known; repeat.
        """
        parsed = parse_handle(caller, handle)
        shard = self._store.shard_of(parsed.challenge_id)
        for _ in range(COMMIT_TRIES):
            loaded = await self._store.load(NOWHERE if shard is None else shard, challenge_ids=[parsed.challenge_id])
            opened = parsed.opens(loaded.challenges.get(parsed.challenge_id), self._policy)
            if opened is None or shard is None:
                return False
            after = without_handle(opened.challenge, opened.place)
            told = announcements(opened.challenge, after, opened.purpose, loaded.now)
            entries = await self._store.commit(shard, challenge=after, announcements=told)
            if entries is not None:
                await self._announce(entries, within=ANNOUNCE_WITHIN)
                return True
        raise StoreUnavailable
