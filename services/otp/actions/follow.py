"""Follow a letter: merge what the mailer says happened. A hand-over starts the clock of the code.

Safe to repeat and in any order. What is stored if the process dies: the challenge with the event, or without it and
then the event comes again, because its record is acknowledged only after the commit.
"""

from __future__ import annotations

from enum import Enum, auto

from services.otp.ports import ChallengeStore, StoreUnavailable
from services.otp.rules.challenge import Challenge, Delivery, with_delivery

COMMIT_TRIES = 64


class Unfollowed(Enum):
    """Why an event changed nothing."""

    UNKNOWN = auto()
    """No challenge of that id: it ended long ago, or was never ours."""
    NOTHING_NEW = auto()
    """Merged before."""


class FollowDelivery:
    """Verb: merge one delivery event into its challenge."""

    def __init__(self, store: ChallengeStore) -> None:
        """Write to the store."""
        self._store = store

    async def __call__(self, challenge_id: str, generation: int, delivery: Delivery) -> Challenge | Unfollowed:
        """Merge; return the challenge as it is then.

        Raises:
            StoreUnavailable: not merged; try again.
        """
        shard = self._store.shard_of(challenge_id)
        if shard is None:
            return Unfollowed.UNKNOWN
        for _ in range(COMMIT_TRIES):
            loaded = await self._store.load(shard, challenge_ids=[challenge_id])
            challenge = loaded.challenges.get(challenge_id)
            if challenge is None:
                return Unfollowed.UNKNOWN
            changed = with_delivery(challenge, generation, delivery, loaded.now)
            if changed is None:
                return Unfollowed.NOTHING_NEW
            if await self._store.commit(shard, challenge=changed) is not None:
                return changed
        raise StoreUnavailable
