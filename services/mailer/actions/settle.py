"""Settle a receipt: what it says of a letter is told to its owner, once.

What is stored if the process dies: before the announcement nothing, so whoever told it tells it again; between
announcement and note the announcement, and the repeat is announced once more, which its owner merges without a trace;
after the note nothing more is done.
"""

from __future__ import annotations

from services.mailer.ports import EventSink, Letter, ReceiptBook
from services.mailer.rules.receipt import News, Receipt, news_of


class SettleReceipt:
    """Verb: take in one receipt."""

    def __init__(self, book: ReceiptBook, events: EventSink) -> None:
        """Remember in the book; announce to the sink."""
        self._book = book
        self._events = events

    async def __call__(self, letter: Letter, receipt: Receipt) -> News:
        """Announce what is news; return whether it was.

        Raises:
            LedgerAway, TryAgain: not known to be done; tell it again.
        """
        news = news_of(receipt, await self._book.told(letter.id))
        if news is News.NEWS:
            await self._events.announce(letter, receipt)
            await self._book.note(letter.id, receipt)
        return news
