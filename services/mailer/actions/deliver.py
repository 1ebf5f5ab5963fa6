"""Deliver a letter: seen before? still wanted? then render, slot, wanted again, send, record, announce.

Wanted is what is neither withdrawn nor past its deadline, which a wish may have put off. The ledger tells wishes with
the claim, and is asked again before `MAIL` and before `DATA`, because a letter may wait long for its slot and for a
slow relay. When the ledger does not answer, a code goes on as if nobody had wished; but giving it up is for good, so
that is not done upon one answer that was missed.

What is stored if the process dies: before the body, a claim that says nothing; from `handing_over` on, that the outcome
is unknown, and whoever gets the record next sends the same bytes again; after a clear no to the body, the claim again;
after `settle`, the outcome, which is announced again instead of sending. The record is acknowledged only after the
announcement.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from weakref import WeakValueDictionary

from services.chassis.clock import Clock
from services.chassis.dead_letter import DeadKind
from services.chassis.keyring import Keyring, SealBroken, UnknownKey, digits
from services.chassis.retry import patiently
from services.mailer.ports import (
    EventSink,
    Ledger,
    LedgerAway,
    MailGateway,
    NoLongerWanted,
    Owner,
    Seen,
    Texts,
    TryAgain,
    Unreadable,
)
from services.mailer.rules.letter import Lane, Order, PrivatePart, Sender, compose
from services.mailer.rules.outcome import Dropped, DropReason, HandedOver, NoReply, Outcome, Refused
from services.mailer.rules.wish import Wish, why_not

CODE_LABEL = "kip-code-v1"
KEPT_AFTER_DEADLINE = timedelta(hours=24)  # a record can come again as long as the broker keeps it


class DeliverLetter:
    """Verb: mail one letter of one lane."""

    def __init__(
        self,
        gateway: MailGateway,
        ledger: Ledger,
        events: EventSink,
        texts: Texts,
        *,
        clock: Clock,
        sender: Sender,
        code_keys: Keyring,
    ) -> None:
        """Take the ports of the lane."""
        self._gateway = gateway
        self._ledger = ledger
        self._events = events
        self._texts = texts
        self._clock = clock
        self._sender = sender
        self._code_keys = code_keys
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def __call__(self, order: Order, owner: Owner) -> Outcome:
        """Deliver, record, announce; return what became of it.

        Raises:
            TryAgain: it did not leave, or nobody knows; deliver it again, later.
            MovedOn, TakenOver: somebody later than this owner has it; nothing more has left.
            Unreadable: it can never leave.
        """
        # A record and its repeat, side by side in the partition, would both be news to the ledger.
        async with self._turns.setdefault(order.id, asyncio.Lock()):
            outcome = await self._settled(order, owner)
        # Held here until the broker is back: a letter that has left must not leave again because its owner cannot be
        # told.
        await patiently(
            lambda: self._events.announce(order, outcome), what="announcing a delivery", on=(TryAgain,), within=None
        )
        return outcome

    async def _settled(self, order: Order, owner: Owner) -> Outcome:
        seen = await self._claim(order, owner)
        if seen.outcome is not None:
            return seen.outcome
        outcome = await self._outcome(order, owner, seen)
        await self._settle(order, outcome)
        return outcome

    async def _outcome(self, order: Order, owner: Owner, seen: Seen) -> Outcome:
        steps = _Steps(order, owner, self._ledger, self._clock, seen.wish)
        try:
            await steps.begun(seen)
            result = await self._send(order, self._opened(order), steps)
        except NoLongerWanted as stop:
            return _given_up(seen, self._clock(), stop.reason)
        except TryAgain:
            await steps.not_taken()
            raise
        if isinstance(result, NoReply):
            await steps.note(result.body_started_at)  # again: the ledger may have missed it
            raise TryAgain("the relay took the body and gave no reply")
        return _after_an_earlier_body(seen.body_started_at, result)

    async def _send(self, order: Order, private: PrivatePart, steps: _Steps) -> HandedOver | NoReply | Outcome:
        if private.decoy:
            return await self._gateway.imitate(steps)
        parameters = {**order.parameters, **private.parameters, **self._code_parameters(order)}
        words = self._texts.render(order.letter, parameters)
        try:
            message = compose(order, private.email, words, self._sender)
        except ValueError as error:
            raise Unreadable(str(error)) from error
        return await self._gateway.send(message, steps)

    def _opened(self, order: Order) -> PrivatePart:
        try:
            return order.open()
        except UnknownKey as error:
            raise TryAgain(f"seal key {error.kid!r} is not rolled out to the mailer") from error
        except SealBroken as error:
            why = "the sealed part does not open: sealed for another letter, or changed on the way"
            raise Unreadable(why, DeadKind.SEAL_BROKEN) from error

    def _code_parameters(self, order: Order) -> dict[str, str]:
        recipe = order.code
        if recipe is None:
            return {}
        try:
            key = self._code_keys.named(recipe.kid)
        except UnknownKey as error:
            raise TryAgain(f"code key {error.kid!r} is not rolled out to the mailer") from error
        parts = (CODE_LABEL, recipe.purpose, order.owner_id, str(order.generation), recipe.context_sha256)
        return {"code": digits(key, *parts, count=recipe.length)}

    async def _claim(self, order: Order, owner: Owner) -> Seen:
        try:
            return await self._ledger.claim(order.id, owner, order.deadline + KEPT_AFTER_DEADLINE)
        except LedgerAway as error:
            if order.lane is Lane.OTP:
                return Seen(certain=False)  # a code that comes twice is harmless, one that does not come is not
            raise TryAgain("the ledger is away, and a notice can wait") from error

    async def _settle(self, order: Order, outcome: Outcome) -> None:
        try:
            await self._ledger.settle(order.id, outcome)
        except LedgerAway:
            return  # the announcement says it too; only a crash before it would send the same bytes again


@dataclass(slots=True)
class _Steps:
    """Implements `Checkpoints` for one try of one order."""

    order: Order
    owner: Owner
    ledger: Ledger
    clock: Clock
    wish: Wish
    begun_at: datetime | None = None
    """When the transaction was allowed to begin."""
    body_started_at: datetime | None = None

    async def begun(self, seen: Seen) -> None:
        """Look at what the claim told; if it told nothing, ask before the letter is given up."""
        reason = self._why_not()
        if reason is not None and seen.certain:
            raise NoLongerWanted(reason)
        if reason is not None:
            await self._ask()

    async def still_wanted(self) -> None:
        await self._ask()
        self.begun_at = self.begun_at or self.clock()

    async def _ask(self) -> None:
        if self.order.lane is Lane.OTP:  # nobody takes back a notice
            with suppress(LedgerAway):  # then what the claim told counts
                self.wish = self.wish.merged(await self.ledger.wish(self.order.id))
        reason = self._why_not()
        if reason is not None:
            raise NoLongerWanted(reason)

    def _why_not(self) -> DropReason | None:
        return why_not(self.order, self.wish, self.clock(), self.begun_at)

    async def handing_over(self, body_started_at: datetime) -> None:
        self.body_started_at = body_started_at
        if not await self.note(body_started_at) and self.order.lane is not Lane.OTP:
            raise TryAgain("the ledger is away, and a notice can wait")

    async def note(self, body_started_at: datetime) -> bool:
        """Say whether the ledger has it."""
        try:
            await self.ledger.handing_over(self.order.id, self.owner, body_started_at)
        except LedgerAway:
            return False
        return True

    async def not_taken(self) -> None:
        """After a clear no to the body of this try nothing of it can arrive; a body of an earlier try still may."""
        if self.body_started_at is not None:
            with suppress(LedgerAway):  # then the letter stays unknown, and is never called dropped
                await self.ledger.not_taken(self.order.id, self.body_started_at)


def _after_an_earlier_body(began: datetime | None, result: Outcome) -> Outcome:
    """Return the outcome of this try, with what a body of an earlier one, that got no reply, adds to it."""
    if began is not None and isinstance(result, Refused):
        return replace(result, exposed=True)
    if began is not None and isinstance(result, HandedOver):
        return replace(result, body_started_at=min(result.body_started_at, began))
    return result


def _given_up(seen: Seen, now: datetime, reason: DropReason) -> Outcome:
    """No longer wanted: dropped, unless a body may have left; then it is handed over, uncertainly."""
    if seen.body_started_at is None:
        return Dropped(now, reason, exposed=not seen.certain)
    began = seen.body_started_at
    return HandedOver(at=began, body_started_at=began, route="", relay_id="", uncertain=True)
