"""Guard guesses over all challenges: count an entry against its network and its caller, then let it be judged.

What a challenge and a subject allow is judged with them, in `verify`; here is what no challenge sees. An entry is
counted before it is compared, and given back when it was no failed guess. Each call counts for itself, a repeat too: a
repeat that could give back what its first entry took would be a way around. What is stored if the process dies in
between: an entry that counts as failed.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import datetime, timedelta

from services.chassis.errors import ServiceError
from services.chassis.keyring import Keyring, UnknownKey, pseudonym
from services.otp.ports import GuessTally, Judge, KeysUnknown, QuotaStore, StoreUnavailable
from services.otp.rules.guesses import Tally, is_guessing
from services.otp.rules.policy import Strictness
from services.otp.rules.quota import GuessesBy, Limits, Quota
from services.otp.rules.verdict import Locked, Unknown, Verdict, Wrong

FAILED = (Wrong, Unknown)


class GuardGuesses:
    """Verb: judge what the citizen typed, unless too many guesses failed from there."""

    def __init__(self, judge: Judge, quotas: QuotaStore, limits: Limits, *, index_keys: Keyring) -> None:
        """Let `judge` judge; count in the store, and name buckets with the ring."""
        self._judge = judge
        self._quotas = quotas
        self._limits = limits
        self._index_keys = index_keys
        self._failed = self._right = 0
        self.on_full: list[Callable[[GuessesBy], None]] = []
        """Called for each limit that refuses an entry."""

    async def __call__(
        self, caller: str, handle: str, typed: str, idempotency_key: str, now: datetime, *, client: str = ""
    ) -> Verdict:
        """Judge as `Judge` does; `Locked` while a limit on failed guesses has no room.

        `client` is the network of the citizen's device, of `network_of`.
        """
        token = secrets.token_hex(16)
        counted = self._counted(caller, client, now)
        waits = dict(zip(counted, await self._quotas.take(token, list(counted.values())), strict=True))
        full = [by for by, wait in waits.items() if wait > timedelta(0)]
        if full:
            await self._quotas.give_back(token, [counted[by] for by in counted if by not in full])
            for by in full:
                for call in self.on_full:
                    call(by)
            return Locked(now + max(waits.values()))
        try:
            verdict = await self._judge(caller, handle, typed, idempotency_key, now)
        except StoreUnavailable:
            raise  # nobody knows what was compared
        except ServiceError:
            await self._quotas.give_back(token, list(counted.values()))
            raise
        return await self._noted(verdict, token, list(counted.values()))

    def drained(self) -> Tally:
        """Return what was compared here since the last call."""
        tally, self._failed, self._right = Tally(self._failed, self._right), 0, 0
        return tally

    async def _noted(self, verdict: Verdict, token: str, counted: list[Quota]) -> Verdict:
        if isinstance(verdict, FAILED):
            self._failed += 1
            return verdict
        self._right += not isinstance(verdict, Locked)
        await self._quotas.give_back(token, counted)
        return verdict

    def _counted(self, caller: str, client: str, now: datetime) -> dict[GuessesBy, Quota]:
        names = {GuessesBy.CALLER: caller, GuessesBy.CLIENT: client}
        return {
            by: Quota(f"{by}:{self._named(now, by, name)}", self._limits.guesses[by])
            for by, name in names.items()
            if name and by in self._limits.guesses
        }

    def _named(self, now: datetime, by: GuessesBy, name: str) -> str:
        try:
            return pseudonym(self._index_keys.minting(now), "guesses", by, name)
        except UnknownKey as error:
            raise KeysUnknown from error


class WatchGuesses:
    """Verb: halve attempts while the share of failures says that somebody is guessing."""

    def __init__(self, guard: GuardGuesses, tally: GuessTally, threshold: float, strictness: Strictness) -> None:
        """Add what the guard saw to the tally, and turn the strictness on above the threshold."""
        self._guard = guard
        self._tally = tally
        self._threshold = threshold
        self._strictness = strictness

    async def __call__(self) -> Tally:
        """Look once; return what all processes saw in the last minutes.

        Raises:
            StoreUnavailable: not known; what was seen here is not counted, and everything stays as strict as it is.
        """
        tally = await self._tally.add(self._guard.drained())
        self._strictness.is_on = is_guessing(self._strictness.is_on, tally, self._threshold)
        return tally
