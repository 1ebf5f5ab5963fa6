"""What is told of a letter after the relay took it: by whom, and what of it is news.

Receipts come twice, late and out of order, and two sources tell of the same thing. Trust falls from the log of a relay
that we run to a DSN (RFC 3464), which anybody on the way may have written. Of a letter whose end is known, nothing less
trusted and no deferral is news. What is left is merged by the owner of the letter, whatever the order.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)
MOST_TOLD = 64
"""Receipts of one letter that are told on: a relay that tries for five days defers it about so often."""


class Source(StrEnum):
    """Who says so."""

    RELAY_LOG = "relay_log"
    """The log of a relay that we run."""
    DSN = "dsn"
    """A delivery status notification with a valid MAC."""


TRUST = (Source.RELAY_LOG, Source.DSN)  # falling


class Told(StrEnum):
    """What happened to the letter."""

    DELIVERED = "delivered"
    """The next hop after the relay, or the mailbox, took it."""
    DEFERRED = "deferred"
    """The relay will try again."""
    BOUNCED = "bounced"
    """It never will."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """One thing that one source says."""

    told: Told
    source: Source
    at: datetime
    status: str = ""
    """RFC 3463, such as 4.7.1; empty when none was told."""
    next_try_at: datetime | None = None
    """Of a deferral, where it is known."""

    @property
    def key(self) -> str:
        """What its repeat is known by."""
        return f"{self.source} {self.told} {(self.at - EPOCH) // MILLISECOND}"


class News(StrEnum):
    """What a receipt is, beside those that were told on before."""

    NEWS = "news"
    REPEATED = "repeated"
    OUTRANKED = "outranked"
    """The end of the letter is known, from somebody who is trusted more, or it is a deferral that comes after it."""
    TOO_MANY = "too_many"


def news_of(receipt: Receipt, known: Collection[str]) -> News:
    """Say what a receipt is; `known` are the keys of those of its letter that were told on."""
    if receipt.key in known:
        return News.REPEATED
    for key in known:
        source, told, _at = key.split(" ")
        if told != Told.DEFERRED and _outranks(Source(source), receipt):
            return News.OUTRANKED
    return News.TOO_MANY if len(known) >= MOST_TOLD else News.NEWS


def _outranks(source: Source, receipt: Receipt) -> bool:
    """Say whether an end that `source` told of makes the receipt worth nothing."""
    ahead = TRUST.index(source) - TRUST.index(receipt.source)
    return ahead < 0 or (ahead == 0 and receipt.told is Told.DEFERRED)


@dataclass(frozen=True, slots=True)
class Backoff:
    """When a Postfix relay tries again: after the age of the mail, bounded, so that ages double (qmgr(8)).

    It looks once each `queue_run_delay`, so the try may come that much later; the earliest possible time is told,
    because a letter is called late only when it is.
    """

    least: timedelta
    """`minimal_backoff_time`."""
    most: timedelta
    """`maximal_backoff_time`."""

    def next_try_at(self, at: datetime, age: timedelta) -> datetime:
        """Return the earliest time of the next try after one that failed at `at`."""
        return at + min(max(age, self.least), self.most)
