"""Bury a letter: its order is in the dead letters, and its owner is told that it was dropped.

Nothing is written into the ledger: a person may put the order back, and then it must not look settled. For the same
reason the owner hears `exposed`: nobody may count on it that the letter never arrives, so its code stays good, and what
comes later (handed over) outranks this in any order. What is stored if the process dies: the dead letter; the record
was not acknowledged, so it comes again, is buried again, and its owner is told again.
"""

from __future__ import annotations

from services.chassis.clock import Clock
from services.mailer.ports import EventSink, Letter
from services.mailer.rules.outcome import Dropped, DropReason


class BuryLetter:
    """Verb: tell the owner of a letter that its order became a dead letter."""

    def __init__(self, events: EventSink, *, clock: Clock) -> None:
        """Tell on the lane of the letter."""
        self._events = events
        self._clock = clock

    async def __call__(self, letter: Letter) -> None:
        """Tell it.

        Raises:
            TryAgain: not told; bury it again.
        """
        await self._events.announce(letter, Dropped(self._clock(), DropReason.DEAD_LETTERED, exposed=True))
