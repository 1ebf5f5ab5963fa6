"""Conclude: judge what is still open of each code once its challenge is over, so that no code goes without a fate.

The store remembers the end of each challenge. What is stored if the process dies: a challenge that is judged, or one
that the next round finds again. Several replicas may work at once; the versions of their commits decide who counts.
"""

from __future__ import annotations

from services.otp.ports import COMMIT_TRIES, ChallengeStore, StoreUnavailable
from services.otp.rules.code_fate import concluded, milestones
from services.otp.rules.policy import GRACE, Policy
from services.otp.rules.view import counted_if_unseen

BATCH = 500


class ConcludeChallenges:
    """Verb: judge the codes of challenges that are over."""

    def __init__(self, store: ChallengeStore, policy: Policy) -> None:
        """Read from the store and write to it."""
        self._store = store
        self._policy = policy

    async def __call__(self) -> int:
        """Judge a batch, the longest over first; return how many challenges it was.

        Raises:
            StoreUnavailable: not judged; the next round does.
        """
        over = await self._store.over(longer_than=GRACE, most=BATCH)
        for challenge_id in over:
            await self._conclude(challenge_id)
        await self._store.forget_end(over)
        return len(over)

    async def _conclude(self, challenge_id: str) -> None:
        shard = self._store.shard_of(challenge_id)
        if shard is None:
            return
        for _ in range(COMMIT_TRIES):
            loaded = await self._store.load(shard, challenge_ids=[challenge_id])
            challenge = loaded.challenges.get(challenge_id)
            purpose = self._policy.find(challenge.purpose) if challenge else None
            if challenge is None or purpose is None:
                return  # gone, or of a purpose that is: there is nothing to judge it by
            after = concluded(challenge, purpose)
            if after is None:
                return
            reached = milestones(challenge, after, purpose)
            after = counted_if_unseen(challenge, after, purpose)
            if await self._store.commit(shard, challenge=after, milestones=reached) is not None:
                return
        raise StoreUnavailable
