"""Look at a challenge: where its letters are, and what to do now."""

from __future__ import annotations

from services.otp.ports import ChallengeStore
from services.otp.rules.handle import parse_handle
from services.otp.rules.policy import Policy
from services.otp.rules.view import ChallengeView, seen_by

NOWHERE = 0  # the shard where what is no challenge id is looked for


class GetChallenge:
    """Verb: show a challenge once."""

    def __init__(self, store: ChallengeStore, policy: Policy) -> None:
        """Read from the store."""
        self._store = store
        self._policy = policy

    async def __call__(self, caller: str, handle: str) -> ChallengeView | None:
        """Return what the handle opens; `None` for an unknown, foreign or mistyped one.

        Raises:
            StoreUnavailable: not known.
        """
        parsed = parse_handle(caller, handle)
        shard = self._store.shard_of(parsed.challenge_id)
        loaded = await self._store.load(NOWHERE if shard is None else shard, challenge_ids=[parsed.challenge_id])
        opened = parsed.opens(loaded.challenges.get(parsed.challenge_id), self._policy)
        return seen_by(opened.challenge, opened.place, opened.purpose, loaded.now) if opened else None
