"""Heed a wish about a letter: merge it into the ledger, where `deliver` looks before each step of the letter.

A wish overtakes its letter: it has a topic and a group of its own, and may be here before the order is. What is stored
if the process dies: the wish or nothing, and then the record comes again. Merging it twice changes nothing.
"""

from __future__ import annotations

from datetime import timedelta

from services.chassis.clock import Clock
from services.mailer.ports import Ledger, LedgerAway, TryAgain
from services.mailer.rules.wish import News, Wish

KEPT_AFTER_WANTED = timedelta(hours=24)  # as a claim: longer than the broker keeps the order, so none comes without it


class HeedWish:
    """Verb: let a letter be wanted for longer, or not at all."""

    def __init__(self, ledger: Ledger, *, clock: Clock) -> None:
        """Write into the ledger that the lane of codes reads."""
        self._ledger = ledger
        self._clock = clock

    async def __call__(self, letter_id: str, wish: Wish) -> News:
        """Merge it; return what it changed.

        Raises:
            TryAgain: the ledger is away; heed it again.
        """
        now = self._clock()
        # A withdrawal tells no time; whoever withdraws does it before the end of what the letter is about.
        keep_until = max(now, wish.wanted_until or now) + KEPT_AFTER_WANTED
        try:
            known = await self._ledger.heed(letter_id, wish, keep_until)
        except LedgerAway as error:
            raise TryAgain("the ledger is away, and a wish can wait") from error
        return known.news_in(wish)
