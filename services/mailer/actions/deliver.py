"""Deliver a letter: seen before? past its deadline? then slot, deadline again, render, send, record, announce.

What is stored if the process dies: before the body, a claim that says nothing; from `handing_over` on, that the outcome
is unknown, and whoever gets the record next sends the same bytes again; after `settle`, the outcome, which is announced
again instead of sending. The record is acknowledged only after the announcement.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from services.chassis.clock import Clock
from services.chassis.keyring import Keyring, SealBroken, UnknownKey, digits
from services.chassis.retry import patiently
from services.mailer.ports import (
    EventSink,
    Ledger,
    LedgerAway,
    MailGateway,
    NoLongerWanted,
    Seen,
    Texts,
    TryAgain,
    Unreadable,
)
from services.mailer.rules.letter import Lane, Order, PrivatePart, Sender, compose
from services.mailer.rules.outcome import Dropped, DropReason, HandedOver, NoReply, Outcome

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

    async def __call__(self, order: Order) -> Outcome:
        """Deliver, record, announce; return what became of it.

        Raises:
            TryAgain: it did not leave, or nobody knows; deliver it again.
            Unreadable: it can never leave.
        """
        seen = await self._claim(order)
        outcome = seen.outcome or await self._outcome(order, seen)
        if seen.outcome is None:
            await self._settle(order, outcome)
        # Held here until the broker is back: a letter that has left must not leave again because its owner cannot be
        # told.
        await patiently(
            lambda: self._events.announce(order, outcome), what="announcing a delivery", on=(TryAgain,), within=None
        )
        return outcome

    async def _outcome(self, order: Order, seen: Seen) -> Outcome:
        now = self._clock()
        if now > order.deadline:
            return _given_up(seen.body_started_at, now)
        private = self._opened(order)
        steps = _Steps(order, self._ledger, self._clock)
        try:
            result = await self._send(order, private, steps)
        except NoLongerWanted:
            return _given_up(seen.body_started_at, self._clock())
        if isinstance(result, NoReply):
            raise TryAgain("the relay took the body and gave no reply")
        if isinstance(result, HandedOver) and seen.body_started_at is not None:
            return replace(result, body_started_at=min(result.body_started_at, seen.body_started_at))
        return result

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
            raise Unreadable(
                "the sealed part does not open: sealed for another letter, or changed on the way"
            ) from error

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

    async def _claim(self, order: Order) -> Seen:
        try:
            return await self._ledger.claim(order.id, order.deadline + KEPT_AFTER_DEADLINE)
        except LedgerAway as error:
            if order.lane is Lane.OTP:
                return Seen()  # a code that comes twice is harmless, one that does not come is not
            raise TryAgain("the ledger is away, and a notice can wait") from error

    async def _settle(self, order: Order, outcome: Outcome) -> None:
        try:
            await self._ledger.settle(order.id, outcome)
        except LedgerAway:
            return  # the announcement says it too; only a crash before it would send the same bytes again


@dataclass(frozen=True, slots=True)
class _Steps:
    """Implements `Checkpoints` for one order."""

    order: Order
    ledger: Ledger
    clock: Clock

    def still_wanted(self) -> None:
        if self.clock() > self.order.deadline:
            raise NoLongerWanted

    async def handing_over(self, body_started_at: datetime) -> None:
        try:
            await self.ledger.handing_over(self.order.id, body_started_at)
        except LedgerAway as error:
            if self.order.lane is not Lane.OTP:
                raise TryAgain("the ledger is away, and a notice can wait") from error


def _given_up(body_started_at: datetime | None, now: datetime) -> Outcome:
    """Past the deadline: dropped, unless a body may have left; then it is handed over, uncertainly."""
    if body_started_at is None:
        return Dropped(now, DropReason.DEADLINE, exposed=False)
    return HandedOver(at=body_started_at, body_started_at=body_started_at, route="", relay_id="", uncertain=True)
