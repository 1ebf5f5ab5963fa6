"""Restrain the machine: say whether a letter that it would make by itself may be made.

First the brake. A letter made because the last one was late is as late as that one where the channel is slow, and adds
to what makes it slow; so the machine has a budget, per recipient domain and for all, that codes which come in time fill
up (`rules/quota`). Each process counts those and tells the store once a second: the way of a code asks for nothing.
Then what any letter needs: the queue's length and all limits on mails.

What is stored if the process dies: what was taken, by a token that its repeat brings again; and codes in time of a
second are lost, so that the budget is smaller than it might be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum

from services.chassis.clock import Clock
from services.chassis.keyring import Keyring, SealBroken, UnknownKey, pseudonym
from services.otp.ports import Admit, KeysUnknown, Mint, QuotaStore
from services.otp.rules.address import mailbox_of
from services.otp.rules.challenge import Challenge, Stall
from services.otp.rules.code_fate import Milestone
from services.otp.rules.generation import CodeFate
from services.otp.rules.policy import Purpose
from services.otp.rules.quota import LetterAsked, Limits, Quota, Reissues, ReissuesBy


class HeldBackBy(StrEnum):
    """What held a letter back."""

    DOMAIN = "domain"
    """The brake of its recipient domain."""
    SYSTEM = "system"
    """The brake of all."""
    QUOTA = "quota"
    OVERLOAD = "overload"


class RestrainReissue:
    """Verb: say whether a letter that the service would make by itself may be made. Implements `Restraint`."""

    def __init__(
        self, admit: Admit, quotas: QuotaStore, mint: Mint, limits: Limits, clock: Clock, *, index_keys: Keyring
    ) -> None:
        """Ask `admit`; keep the budget in the store; `clock` is this host's, and chooses keys only."""
        self._admit = admit
        self._quotas = quotas
        self._mint = mint
        self._limits = limits
        self._clock = clock
        self._index_keys = index_keys
        self._in_time: Counter[str] = Counter()
        """Codes that came in time, by domain, since the store was told."""
        self.on_held_back: list[Callable[[HeldBackBy], None]] = []
        """Called for each thing that holds a letter back."""

    async def __call__(self, challenge: Challenge, purpose: Purpose) -> Stall | None:
        """Implements `Restraint`; the letter is named by its generation, so that it is paid once."""
        letter = LetterAsked(
            token=f"{challenge.id}.{challenge.newest.number}",
            subject_key=challenge.subject_key,
            email=self._mint.part(challenge).email,
            challenge_id=challenge.id,
            deadline=purpose.deadline,
        )
        now = self._clock()
        budget = self._budget(self._domain_of(letter.email), now)
        waits = dict(zip(budget, await self._quotas.take(letter.token, list(budget.values())), strict=True))
        spent = [by for by, wait in waits.items() if wait > timedelta(0)]
        refused = None if spent else await self._admit(now).settle(letter)
        if not spent and refused is None:
            return None
        await self._quotas.give_back(letter.token, [quota for by, quota in budget.items() if by not in spent])
        if refused is None:
            return self._held_back(Stall.CHANNEL_SLOW, *(HeldBackBy(by) for by in spent))
        if refused.is_overload:
            return self._held_back(Stall.OVERLOAD, HeldBackBy.OVERLOAD)
        return self._held_back(Stall.QUOTA, HeldBackBy.QUOTA)

    def heard(self, challenge: Challenge, reached: Sequence[Milestone]) -> None:
        """Implements `Restraint`."""
        in_time = reached.count(CodeFate.IN_TIME)
        if not in_time or self._limits.reissues is None:
            return
        try:
            email = self._mint.part(challenge).email
        except (KeysUnknown, SealBroken):
            return  # then it speaks for no domain
        self._in_time[self._domain_of(email)] += in_time

    async def tell_in_time(self) -> None:
        """Tell the store what was heard since the last call; what cannot be told is lost.

        Raises:
            StoreUnavailable: nobody knows what was told.
        """
        reissues = self._limits.reissues
        if reissues is None or not self._in_time:
            return
        in_time, self._in_time = self._in_time, Counter()
        now = self._clock()
        per_domain = {domain: self._quota(reissues, ReissuesBy.DOMAIN, domain, now) for domain in in_time}
        system = self._quota(reissues, ReissuesBy.SYSTEM, "", now)
        await self._quotas.refill(
            [
                (system, reissues.earned(ReissuesBy.SYSTEM, in_time.total())),
                *((quota, reissues.earned(ReissuesBy.DOMAIN, in_time[domain])) for domain, quota in per_domain.items()),
            ]
        )

    def _held_back(self, stall: Stall, *by: HeldBackBy) -> Stall:
        for each in by:
            for call in self.on_held_back:
                call(each)
        return stall

    def _domain_of(self, email: str) -> str:
        return mailbox_of(email, self._limits.foldings).rpartition("@")[2]

    def _budget(self, domain: str, now: datetime) -> Mapping[ReissuesBy, Quota]:
        if self._limits.reissues is None:
            return {}
        names = {ReissuesBy.DOMAIN: domain, ReissuesBy.SYSTEM: ""}
        return {by: self._quota(self._limits.reissues, by, name, now) for by, name in names.items()}

    def _quota(self, reissues: Reissues, by: ReissuesBy, name: str, now: datetime) -> Quota:
        try:
            named = pseudonym(self._index_keys.minting(now), "reissues", by, name) if name else "all"
        except UnknownKey as error:
            raise KeysUnknown from error
        return Quota(f"reissues_{by}:{named}", reissues.limits[by])
