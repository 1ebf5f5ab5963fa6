"""The verbs of otp over in-memory ports, as `__main__` joins them over the real ones."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import timedelta

from services.chassis.keyring import Keyring, digits
from services.otp.actions.admit import AdmitLetter
from services.otp.actions.cancel import CancelChallenge
from services.otp.actions.conclude import ConcludeChallenges
from services.otp.actions.follow import FollowDelivery
from services.otp.actions.guard import GuardGuesses
from services.otp.actions.issue import IssueCode, Issued, RequestCode
from services.otp.actions.resend import ResendAnswer, ResendCode
from services.otp.actions.sweep import AnnounceEntries, SweepOutbox
from services.otp.actions.unlock import UnlockSubject
from services.otp.actions.verify import VerifyCode
from services.otp.actions.watch import GetChallenge, WatchChallenge
from services.otp.ports import Announce
from services.otp.rules.challenge import Challenge
from services.otp.rules.generation import Delivery, Fate
from services.otp.rules.policy import Policy
from services.otp.rules.verdict import Verdict
from tests.fakes.clock import FakeClock
from tests.fakes.otp import POLICY, PURPOSE, Drawer, EventList, InMemoryChallengeStore, InMemoryQueue, ring
from tests.fakes.otp_quotas import InMemoryQuotas
from tests.fakes.otp_restraint import InMemoryRestraint

REQUEST = RequestCode(
    caller="portal",
    idempotency_key="key-1",
    purpose=PURPOSE.name,
    subject="citizen-7",
    email="lan@example.vn",
    locale="en",
    context="Nộp hồ sơ 608",
    decoy=False,
)
NO_HANDLE = "c00" + "0" * 32 + "." + "0" * 64


class Desk:
    """One replica of otp; a second one on the same store is `Desk(store=first.store)`."""

    def __init__(
        self,
        *,
        store: InMemoryChallengeStore | None = None,
        announce: Announce | None = None,
        policy: Policy = POLICY,
        code_keys: Keyring | None = None,
        handle_keys: Keyring | None = None,
        index_keys: Keyring | None = None,
        mint: Drawer | None = None,
        quotas: InMemoryQuotas | None = None,
        admission: bool = True,
    ) -> None:
        self.store = store or InMemoryChallengeStore()
        self.clock: FakeClock = self.store.clock
        self.events = EventList()
        self.mint = mint or Drawer()
        self.queue = InMemoryQueue()
        self.code_keys = code_keys or ring("c1", 1)
        index = index_keys or ring("i1", 3)
        self.policy = policy
        announcing = AnnounceEntries(self.store, self.events)
        announce = announce or announcing
        self.quotas = quotas or InMemoryQuotas(self.clock)
        gate = self.queue if admission else None
        self.admit = AdmitLetter(self.quotas, gate, policy.limits, index_keys=index, draw=lambda low, _: low)
        self.issue = IssueCode(
            self.store,
            self.mint,
            announce,
            self.queue,
            policy,
            admit=self.admit,
            handle_keys=handle_keys or ring("h1", 2),
            index_keys=index,
        )
        self.resend = ResendCode(self.store, self.mint, announce, self.queue, policy, admit=self.admit)
        self.restraint = restraint = InMemoryRestraint()
        self.verify = VerifyCode(
            self.store, self.mint, announce, self.queue, policy, code_keys=self.code_keys, restraint=restraint
        )
        self.guard = GuardGuesses(self.verify, self.quotas, policy.limits, index_keys=index)
        self.follow = FollowDelivery(self.store, self.mint, announce, policy, restraint=restraint)
        self.cancel = CancelChallenge(self.store, announce, policy)
        self.unlock = UnlockSubject(self.store, index_keys=index)
        self.conclude = ConcludeChallenges(self.store, policy)
        self.sweep = SweepOutbox(self.store, announcing)
        self.get = GetChallenge(self.store, self.queue, policy)
        self.watch = WatchChallenge(self.store, self.queue, announce, policy)

    async def ask(self, key: str = "key-1", **changes: object) -> Issued:
        """Ask for a code; without changes, the same request each time."""
        return await self.issue(replace(REQUEST, idempotency_key=key, **changes), self.clock())  # type: ignore[arg-type] # named by each test

    async def type_in(self, handle: str, code: str, caller: str = "portal", key: str = "") -> Verdict:
        """Type a code, with or without an idempotency key."""
        return await self.verify(caller, handle, code, key, self.clock())

    async def click(self, handle: str, key: str = "click-1", caller: str = "portal") -> ResendAnswer:
        """Ask for another letter."""
        return await self.resend(caller, handle, key, self.clock())

    async def hear(self, issued: Issued | str, fate: Fate, number: int = 1, **fields: object) -> None:
        """Let the mailer tell the fate of a letter, now."""
        event = replace(Delivery(fate, self.clock()), **fields)  # type: ignore[arg-type] # named by each test
        assert isinstance(await self.follow(self.stored(issued).id, number, event), Challenge)

    async def hand_over(self, issued: Issued | str, number: int = 1) -> None:
        """Let the relay take a letter now."""
        event = Delivery(Fate.HANDED_OVER, self.clock(), body_started_at=self.clock())
        assert isinstance(await self.follow(self.stored(issued).id, number, event), Challenge)

    def stored(self, issued: Issued | str) -> Challenge:
        """Return the record of an issued challenge, or of a challenge id."""
        challenge_id = issued if isinstance(issued, str) else issued.challenge.id
        (found,) = [kept for kept in self.store.challenges() if kept.id == challenge_id]
        return found

    def code_of(self, issued: Issued | str, number: int = 1) -> str:
        """Return the code that the mailer would print, made from what the event says."""
        known = self.stored(issued)
        kid = known.generations[number - 1].code_kid
        context = hashlib.sha256(REQUEST.context.encode()).digest()
        parts = ("kip-code-v1", known.purpose, known.id, str(number), context)
        return digits(self.code_keys.named(kid), *parts, count=known.code_length)

    def wrong_code(self, issued: Issued | str, guess: int = 0) -> str:
        """Return the code of a guesser: the numbers from 0 on, without the right ones."""
        right = {self.code_of(issued, g.number) for g in self.stored(issued).generations}
        wrong = (f"{number:06}" for number in range(guess, 10**6))
        return next(code for code in wrong if code not in right)

    def later(self, seconds: float) -> Desk:
        """Turn the clock on."""
        self.clock.pass_by(timedelta(seconds=seconds))
        return self
