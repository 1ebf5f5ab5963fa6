"""Unlock: somebody with the right to ends the lock of a subject, and forgets its row of wrong codes.

One record of one shard changes; what the process leaves if it dies is the lock, or no lock.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from services.chassis.keyring import Keyring, pseudonym
from services.otp.ports import COMMIT_TRIES, ChallengeStore, StoreUnavailable
from services.otp.rules.subject import subject_parts


@dataclass(frozen=True, slots=True)
class Unlocked:
    """What was done, for the answer and for the audit."""

    was_locked: bool
    subject_key: str
    """HMAC that names the subject: alike in every audit line about it, and no name of a person."""


class UnlockSubject:
    """Verb: end a lock."""

    def __init__(self, store: ChallengeStore, *, index_keys: Keyring) -> None:
        """Take the store and the ring that names subjects."""
        self._store = store
        self._index_keys = index_keys

    async def __call__(self, purpose: str, subject: str, now: datetime) -> Unlocked:
        """Unlock. `now` is this host's time, used to choose keys only. Safe to repeat.

        Raises:
            StoreUnavailable: not known; repeat.
        """
        names = [pseudonym(key, *subject_parts(purpose, subject)) for key in self._index_keys.accepting(now)]
        locks = [await self._unlocked(purpose, subject, name) for name in names]
        return Unlocked(was_locked=any(locks), subject_key=names[0])

    async def _unlocked(self, purpose: str, subject: str, name: str) -> bool:
        shard = self._store.shard_of(self._store.mint_id(purpose, subject))
        if shard is None:
            raise AssertionError("a minted id carries its shard")
        for _ in range(COMMIT_TRIES):
            loaded = await self._store.load(shard, subject_key=name)
            record = loaded.subject
            if record is None or record.failures == 0:
                return False
            if await self._store.commit(shard, subject=record.forgiven()) is not None:
                return record.locked_until(loaded.now) is not None
        raise StoreUnavailable
