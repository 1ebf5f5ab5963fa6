"""Verify a typed code: count the attempt, then compare, then commit the outcome.

Counting comes first and is committed, so that no crash and no race gives a free guess; the outcome is decided again
over what is stored by then, so that of any number of right entries exactly one is accepted. What is stored if the
process dies between the two commits: one attempt spent, nothing else.

A handle that is unknown, foreign or malformed walks the same steps over nothing, so its answer takes the same time.
"""

from __future__ import annotations

import hmac
from dataclasses import replace
from datetime import datetime, timedelta

from services.chassis.errors import Kind, ServiceError, Words
from services.chassis.keyring import Keyring, SealBroken, UnknownKey, digits
from services.otp.ports import ChallengeStore, Sealer, StoreUnavailable
from services.otp.rules.challenge import Challenge
from services.otp.rules.handle import Opened, ParsedHandle, parse_handle
from services.otp.rules.policy import Policy
from services.otp.rules.verdict import Accepted, Locked, Unknown, Verdict, cleaned, counted, judged

COMMIT_TRIES = 64  # lost races in a row; each means that somebody else's entry was judged meanwhile
CODE_LABEL = "kip-code-v1"
NOWHERE = 0  # the shard where what is no challenge id is looked for


class CodeKeysUnknown(ServiceError):
    """A code of this challenge was made with a key that this replica does not have yet; no attempt was spent."""

    kind = Kind.UNAVAILABLE
    reason = "CODE_KEYS_UNKNOWN"

    def __init__(self) -> None:
        """Tell to come back when the keys have been rolled out."""
        super().__init__(
            Words(
                vi="Hệ thống đang cập nhật khóa. Vui lòng nhập lại mã sau giây lát.",
                en="A code key is not rolled out to this replica yet. Type the code again in a moment.",
            ),
            retry_after=timedelta(seconds=5),
        )


class VerifyCode:
    """Verb: judge what the citizen typed."""

    def __init__(self, store: ChallengeStore, sealer: Sealer, policy: Policy, *, code_keys: Keyring) -> None:
        """Take the ports and the ring that codes are derived with."""
        self._store = store
        self._sealer = sealer
        self._policy = policy
        self._code_keys = code_keys

    async def __call__(self, caller: str, handle: str, typed: str, now: datetime) -> Verdict:
        """Judge; `now` is this host's time, used to choose a key for nothing. The clock of the code is the store's.

        Raises:
            StoreUnavailable: not known what came of it; type it again.
            CodeKeysUnknown: nothing was counted or compared; type it again.
        """
        parsed = parse_handle(caller, handle)
        counted_entry = await self._count(parsed)
        if isinstance(counted_entry, Locked):
            return counted_entry
        right = self._right_generations(counted_entry, cleaned(typed), now)
        return await self._conclude(parsed, right)

    async def _open(self, parsed: ParsedHandle) -> tuple[Opened | None, datetime]:
        loaded = await self._store.load(self._shard(parsed), challenge_ids=[parsed.challenge_id])
        return parsed.opens(loaded.challenges.get(parsed.challenge_id), self._policy), loaded.now

    def _shard(self, parsed: ParsedHandle) -> int:
        shard = self._store.shard_of(parsed.challenge_id)
        return NOWHERE if shard is None else shard

    async def _count(self, parsed: ParsedHandle) -> Challenge | Locked | None:
        for _ in range(COMMIT_TRIES):
            opened, _now = await self._open(parsed)
            if opened is None:
                await self._open(parsed)  # takes as long as the commit of a known one
                return None
            self._demand_keys(opened.challenge)
            spent = counted(opened.challenge, opened.place, opened.purpose)
            if isinstance(spent, Locked):
                return spent
            if await self._store.commit(self._shard(parsed), challenge=spent) is not None:
                return spent
        raise StoreUnavailable

    def _demand_keys(self, challenge: Challenge) -> None:
        try:
            for generation in challenge.generations:
                self._code_keys.named(generation.code_kid)
        except UnknownKey as error:
            raise CodeKeysUnknown from error

    def _right_generations(self, challenge: Challenge | None, code: str, now: datetime) -> frozenset[int]:
        """Compare with the code of every generation, in constant time; with one of nothing when there is none."""
        if challenge is None:
            nothing = digits(self._code_keys.minting(now), CODE_LABEL, "", "", "1", b"", count=6)
            hmac.compare_digest(nothing.encode(), code.encode())
            return frozenset()
        return frozenset(
            generation.number
            for generation in challenge.generations
            if hmac.compare_digest(
                self._code(challenge, generation.number, generation.code_kid).encode(), code.encode()
            )
        )

    def _code(self, challenge: Challenge, number: int, kid: str) -> str:
        key = self._code_keys.named(kid)
        parts = (CODE_LABEL, challenge.purpose, challenge.id, str(number), challenge.context_sha256)
        return digits(key, *parts, count=challenge.code_length)

    async def _conclude(self, parsed: ParsedHandle, right: frozenset[int]) -> Verdict:
        for _ in range(COMMIT_TRIES):
            opened, now = await self._open(parsed)
            if opened is None:
                return Unknown()
            verdict, changed = judged(opened.challenge, opened.place, right, opened.purpose, now)
            if changed is None or await self._store.commit(self._shard(parsed), challenge=changed) is not None:
                return self._with_context(verdict, opened.challenge)
        raise StoreUnavailable

    def _with_context(self, verdict: Verdict, challenge: Challenge) -> Verdict:
        if not isinstance(verdict, Accepted):
            return verdict
        try:
            part = self._sealer.open(challenge.id, challenge.newest.number, challenge.sealed)
        except (UnknownKey, SealBroken):
            return verdict  # accepted it is; only the reminder of what for is lost with the key
        return replace(verdict, context=part.context)
