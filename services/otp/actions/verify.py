"""Verify a typed code: count the attempt, then compare, then commit the outcome.

Counting comes first and is committed, so that no crash and no race gives a free guess; the outcome is decided again
over what is stored by then, so that of any number of right entries exactly one is accepted. What is stored if the
process dies between the two commits: one attempt spent, and under an idempotency key the entry, so that its repeat
goes on from there and costs nothing more.

A handle that is unknown, foreign, malformed or given back walks the same steps over nobody's challenge, so its answer
takes the same time.
"""

from __future__ import annotations

import asyncio
import hmac
from dataclasses import dataclass, replace
from datetime import datetime
from weakref import WeakValueDictionary

from services.chassis.keyring import Keyring, SealBroken, UnknownKey, digits
from services.otp.ports import (
    ANNOUNCE_WITHIN,
    COMMIT_TRIES,
    NOWHERE,
    Announce,
    ChallengeStore,
    IdempotencyKeyReused,
    KeysUnknown,
    Mint,
    Queue,
    Restraint,
    StoreUnavailable,
)
from services.otp.rules.announcement import announcements
from services.otp.rules.challenge import Challenge, Stall
from services.otp.rules.code_fate import milestones
from services.otp.rules.entry import Attempt, EntryName, entry_named
from services.otp.rules.handle import ParsedHandle, parse_handle
from services.otp.rules.nobody import NOBODYS, nobody
from services.otp.rules.policy import Policy
from services.otp.rules.renewal import has_another
from services.otp.rules.subject import Subject
from services.otp.rules.verdict import (
    Accepted,
    Case,
    Expired,
    Judged,
    Locked,
    Unknown,
    Verdict,
    cleaned,
    counted,
    judged,
    uncounted,
    verdict_of,
)

CODE_LABEL = "kip-code-v1"


@dataclass(frozen=True, slots=True)
class _Entry:
    """A typed code on its way through the steps."""

    handle: ParsedHandle
    shard: int
    code: str
    name: EntryName | None


class VerifyCode:
    """Verb: judge what the citizen typed."""

    def __init__(
        self,
        store: ChallengeStore,
        mint: Mint,
        announce: Announce,
        queue: Queue,
        policy: Policy,
        *,
        code_keys: Keyring,
        restraint: Restraint,
    ) -> None:
        """Take the ports and the ring that codes are derived with."""
        self._store = store
        self._mint = mint
        self._announce = announce
        self._queue = queue
        self._policy = policy
        self._code_keys = code_keys
        self._restraint = restraint
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def __call__(self, caller: str, handle: str, typed: str, idempotency_key: str, now: datetime) -> Verdict:
        """Judge; `now` is this host's time, used to choose a key for nobody. The clock of the code is the store's.

        Raises:
            StoreUnavailable: not known what came of it; type it again.
            KeysUnknown: nothing was counted or compared; type it again.
            IdempotencyKeyReused: the key came with another code a moment ago.
        """
        parsed = parse_handle(caller, handle)
        shard, code = self._store.shard_of(parsed.challenge_id), cleaned(typed)
        entry = _Entry(parsed, NOWHERE if shard is None else shard, code, parsed.entry(idempotency_key, code))
        # In turn, within this process: a crowd on one challenge would lose most of its time in lost races.
        async with self._turns.setdefault(parsed.challenge_id, asyncio.Lock()):
            return await self._judge(entry, now)

    async def _judge(self, entry: _Entry, now: datetime) -> Verdict:
        step = await self._count(entry)
        if step is None:
            await self._walk_over_nobody(entry, now)
            return Unknown()
        if not isinstance(step, tuple):
            return step
        return await self._conclude(entry, *step)

    async def _load(self, entry: _Entry) -> Case | None:
        """Load the challenge, then its subject; for a handle that opens nothing as much is loaded."""
        first = await self._store.load(entry.shard, challenge_ids=[entry.handle.challenge_id])
        opened = entry.handle.opens(first.challenges.get(entry.handle.challenge_id), self._policy)
        key = opened.challenge.subject_key if opened else ""
        second = await self._store.load(entry.shard, subject_key=key)
        if opened is None:
            return None
        subject = second.subject or Subject(key, version=0)
        return Case(opened.challenge, subject, opened.place, opened.purpose, second.now)

    async def _count(self, entry: _Entry) -> Verdict | tuple[Case, Attempt] | None:
        """Count the entry; return what stands then, a verdict when nothing is to be compared, `None` for no handle."""
        for _ in range(COMMIT_TRIES):
            case = await self._load(entry)
            if case is None:
                return None
            before = await self._repeated(entry, case)
            if before is not None and not isinstance(before, tuple):
                return before
            self._demand_keys(case.challenge)
            if before is not None:
                return before
            spent = counted(case, entry.name)
            if isinstance(spent, Locked):
                return spent
            written = await self._store.commit(entry.shard, challenge=spent.challenge, subject=spent.subject)
            if written is not None:
                return replace(case, challenge=spent.challenge, subject=spent.subject), spent.attempt
        raise StoreUnavailable

    async def _repeated(self, entry: _Entry, case: Case) -> Verdict | tuple[Case, Attempt] | None:
        """Return the verdict of this very entry, or the attempt it has cost already; `None` when it is a new one."""
        before = entry_named(case.challenge.entries, entry.name.key, case.now) if entry.name else None
        if entry.name is None or before is None:
            return None
        if not hmac.compare_digest(before.name.typed, entry.name.typed):
            raise IdempotencyKeyReused
        if before.answer is None:
            return case, before.attempt
        await self._store.confirm(entry.shard)
        return self._with_context(verdict_of(before.answer), case.challenge)

    def _demand_keys(self, challenge: Challenge) -> None:
        try:
            for generation in challenge.generations:
                self._code_keys.named(generation.code_kid)
        except UnknownKey as error:
            raise KeysUnknown from error

    async def _walk_over_nobody(self, entry: _Entry, now: datetime) -> None:
        """Do all that a wrong code of a known handle makes us do, over a challenge that nothing is kept of."""
        purpose = next(iter(self._policy.purposes.values()), None)
        if purpose is None:
            return
        try:
            case = nobody(purpose, self._code_keys.minting(now).kid, now)
        except UnknownKey as error:
            raise KeysUnknown from error
        spent = counted(case, entry.name)
        if isinstance(spent, Locked):
            return
        await self._store.rehearse(entry.shard, challenge=spent.challenge, subject=spent.subject)
        right = self._right_generations(spent.challenge, entry.code)
        outcome = judged(case, spent.attempt, entry.name, right - {NOBODYS}, None)
        if outcome.challenge is not None:
            await self._store.rehearse(entry.shard, challenge=outcome.challenge, subject=spent.subject)

    def _right_generations(self, challenge: Challenge, code: str) -> frozenset[int]:
        """Compare with the code of every generation, in constant time. A decoy has no right code."""
        right = frozenset(
            generation.number
            for generation in challenge.generations
            if hmac.compare_digest(
                self._code(challenge, generation.number, generation.code_kid).encode(), code.encode()
            )
        )
        return frozenset() if right and self._is_decoy(challenge) else right

    def _code(self, challenge: Challenge, number: int, kid: str) -> str:
        key = self._code_keys.named(kid)
        parts = (CODE_LABEL, challenge.purpose, challenge.id, str(number), challenge.context_sha256)
        return digits(key, *parts, count=challenge.code_length)

    def _is_decoy(self, challenge: Challenge) -> bool:
        try:
            return self._mint.part(challenge).decoy
        except (KeysUnknown, SealBroken):
            return False  # the key that sealed it is gone for good; whoever has the code had the mail

    async def _conclude(self, entry: _Entry, case: Case, attempt: Attempt) -> Verdict:
        right = self._right_generations(case.challenge, entry.code)
        standing: Case | None = case
        for _ in range(COMMIT_TRIES):
            if standing is None:
                return Unknown()  # given back meanwhile
            before = await self._repeated(entry, standing)
            if before is not None and not isinstance(before, tuple):
                return before
            outcome = await self._judged(entry, standing, attempt, right)
            verdict = await self._committed(entry, standing, outcome)
            if verdict is not None:
                return self._with_context(verdict, standing.challenge)
            standing = await self._load(entry)
        raise StoreUnavailable

    async def _committed(self, entry: _Entry, case: Case, outcome: Judged) -> Verdict | None:
        """Write the outcome and return the verdict; `None` when somebody else was faster."""
        if outcome.challenge is None:
            return outcome.verdict
        before = uncounted(case.challenge, case.place)  # else an attempt that was the last would have ended it before
        reached = milestones(before, outcome.challenge, case.purpose)
        entries = await self._store.commit(
            entry.shard,
            challenge=outcome.challenge,
            subject=outcome.subject,
            announcements=announcements(before, outcome.challenge, case.purpose, case.now),
            milestones=reached,
        )
        if entries is None:
            return None
        self._restraint.heard(outcome.challenge, reached)
        positions = await self._announce(entries, within=ANNOUNCE_WITHIN)
        if not isinstance(outcome.verdict, Expired) or not positions:
            return outcome.verdict
        outlook = self._queue.outlook(next(iter(positions.values())), case.now)
        return replace(outcome.verdict, expected_at=outlook.leaves_at)

    async def _judged(self, entry: _Entry, case: Case, attempt: Attempt, right: frozenset[int]) -> Judged:
        def judge(forbidden: Stall | None = None) -> Judged:
            return judged(case, attempt, entry.name, right, self._mint.again, forbidden=forbidden)

        try:
            outcome = judge()
        except (KeysUnknown, SealBroken):
            return judged(case, attempt, entry.name, right, None)
        if outcome.challenge is None or not has_another(case.challenge, outcome.challenge):
            return outcome
        forbidden = await self._restraint(outcome.challenge, case.purpose)
        return outcome if forbidden is None else judge(forbidden)

    def _with_context(self, verdict: Verdict, challenge: Challenge) -> Verdict:
        if not isinstance(verdict, Accepted):
            return verdict
        try:
            return replace(verdict, context=self._mint.part(challenge).context)
        except (KeysUnknown, SealBroken):
            return verdict  # accepted it is; only the reminder of what for is lost with the key
