"""Defer a letter that could not leave: into a tier, and a word to its owner; then its record may be acknowledged.

What is stored if the process dies: before the tier has it, nothing new, and the record comes again; after, the record
comes again *and* waits in the tier. Both are the same letter: the ledger lets the one in the tier have it, as soon as
that is tried, and whoever comes later sends the same bytes at worst. When the tier cannot take it, the letter stays
where it is, and is tried again in its place.
"""

from __future__ import annotations

from contextlib import suppress

from services.chassis.clock import Clock
from services.chassis.retry import patiently
from services.mailer.ports import Carried, EventSink, Ledger, LedgerAway, Retries, TryAgain
from services.mailer.rules.letter import Lane, Order
from services.mailer.rules.outcome import Deferred
from services.mailer.rules.schedule import Retry, Schedule
from services.mailer.rules.wish import Wish, deadline_of


class DeferLetter:
    """Verb: let one letter of one lane wait for its next try."""

    def __init__(
        self, retries: Retries, ledger: Ledger, events: EventSink, *, clock: Clock, schedule: Schedule
    ) -> None:
        """Take the ports of the lane."""
        self._retries = retries
        self._ledger = ledger
        self._events = events
        self._clock = clock
        self._schedule = schedule

    async def __call__(self, order: Order, carried: Carried, attempt: int, why: TryAgain) -> Retry:
        """Write it to the tier that follows a failure of this attempt, announce that, and return where it waits.

        Raises:
            TryAgain: it is in no tier, as far as we know; deliver it again.
        """
        now = self._clock()
        retry = self._schedule.next_try(attempt, now, deadline_of(order, await self._wish(order)))
        await self._retries.put(carried, retry)
        news = Deferred(now, retry.not_before, retry.attempt, why.status)
        # Held here, as for an outcome: trying the letter again would put it into a tier twice.
        await patiently(
            lambda: self._events.announce(order, news), what="announcing a deferral", on=(TryAgain,), within=None
        )
        return retry

    async def _wish(self, order: Order) -> Wish:
        """Return how long it is wanted, as far as the ledger tells; too short a time only makes the next try sooner."""
        if order.lane is Lane.OTP:
            with suppress(LedgerAway):
                return await self._ledger.wish(order.id)
        return Wish()
