"""Follow a letter: merge what the mailer says happened. A hand-over starts the clock of the code.

A letter that came or will come too late, or was dropped while it was still wanted, is replaced in the same commit,
within the budget of its challenge and as far as limits allow. Safe to repeat and in any order. What is stored if the
process dies: the challenge with the event and all that follows from it, or without and then the event comes again,
because its record is acknowledged only after the commit.
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum, auto

from services.chassis.keyring import SealBroken
from services.otp.ports import (
    ANNOUNCE_WITHIN,
    COMMIT_TRIES,
    Announce,
    ChallengeStore,
    KeysUnknown,
    Loaded,
    Mint,
    Restraint,
    StoreUnavailable,
)
from services.otp.rules.announcement import announcements
from services.otp.rules.challenge import Challenge, Stall, with_delivery
from services.otp.rules.code_fate import milestones, with_news_judged
from services.otp.rules.generation import Delivery
from services.otp.rules.policy import Policy, Purpose
from services.otp.rules.renewal import has_another, healed
from services.otp.rules.view import counted_if_unseen


class Unfollowed(Enum):
    """Why an event changed nothing."""

    UNKNOWN = auto()
    """No challenge of that id: it ended long ago, or was never ours."""
    NOTHING_NEW = auto()
    """Merged before."""


class FollowDelivery:
    """Verb: merge one delivery event into its challenge."""

    def __init__(
        self, store: ChallengeStore, mint: Mint, announce: Announce, policy: Policy, *, restraint: Restraint
    ) -> None:
        """Write to the store; make letters with the mint, as far as `restraint` allows."""
        self._store = store
        self._mint = mint
        self._announce = announce
        self._policy = policy
        self._restraint = restraint

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
            purpose = self._policy.find(challenge.purpose) if challenge else None
            if challenge is None or purpose is None:
                return Unfollowed.UNKNOWN
            merged = with_delivery(challenge, generation, delivery, loaded.now)
            if merged is None:
                return Unfollowed.NOTHING_NEW
            merged = with_news_judged(merged, purpose)
            changed = await self._healed(merged, purpose, loaded) if merged.newest.number == generation else merged
            changed = counted_if_unseen(challenge, changed, purpose)
            told = announcements(challenge, changed, purpose, loaded.now)
            reached = milestones(challenge, changed, purpose)
            entries = await self._store.commit(shard, challenge=changed, announcements=told, milestones=reached)
            if entries is not None:
                self._restraint.heard(changed, reached)
                await self._announce(entries, within=ANNOUNCE_WITHIN)
                return changed
        raise StoreUnavailable

    async def _healed(self, merged: Challenge, purpose: Purpose, loaded: Loaded) -> Challenge:
        notes = loaded.notes.get(merged.id)
        is_watched = notes is not None and notes.watched_until is not None and notes.watched_until > loaded.now

        def heal(forbidden: Stall | None = None) -> Challenge | None:
            return healed(merged, self._mint.again, purpose, loaded.now, is_watched=is_watched, forbidden=forbidden)

        try:
            better = heal()
        except (KeysUnknown, SealBroken):
            return merged  # no letter can be made here; a click may still try
        if better is not None and has_another(merged, better):
            forbidden = await self._restraint(better, purpose)
            better = better if forbidden is None else heal(forbidden)
        return replace(better or merged, version=merged.version)  # one commit with the event
