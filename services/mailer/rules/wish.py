"""What the owner says of a letter after it was ordered: it is wanted for longer, or it is not to be sent.

Wishes may come twice, late, out of order, and before the order itself. Merged, none of that matters: the latest time
stays, and a withdrawal wins over any time and stays too.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from services.mailer.rules.letter import Order
from services.mailer.rules.outcome import DropReason

LATEST = datetime(2200, 1, 1, tzinfo=UTC)  # that can be wished: nobody waits so long, and every sum with it is a time
UNDER_WAY = timedelta(seconds=10)  # of the minute that is kept for relay, inbox and typing


class News(StrEnum):
    """What a wish changes."""

    EXTENDED = "extended"
    WITHDRAWN = "withdrawn"
    STALE = "stale"
    """Nothing: it was known, something later was, or the letter is withdrawn."""


@dataclass(frozen=True, slots=True)
class Wish:
    """All that was said of one letter so far; at first, nothing."""

    wanted_until: datetime | None = None
    """At most `LATEST`."""
    withdrawn: bool = False

    def merged(self, other: Wish) -> Wish:
        """Return what holds when both were said, in either order."""
        times = [until for until in (self.wanted_until, other.wanted_until) if until is not None]
        return Wish(max(times, default=None), withdrawn=self.withdrawn or other.withdrawn)

    def news_in(self, other: Wish) -> News:
        """Return what `other` changes for one to whom this is known."""
        if self.withdrawn or self.merged(other) == self:
            return News.STALE
        return News.WITHDRAWN if other.withdrawn else News.EXTENDED


def deadline_of(order: Order, wish: Wish) -> datetime:
    """Return until when the letter is wanted: no wish shortens that, none reaches beyond what the letter is about."""
    if wish.wanted_until is None:
        return order.deadline
    return max(order.deadline, min(wish.wanted_until, order.useless_at))


def why_not(order: Order, wish: Wish, now: datetime, begun_at: datetime | None = None) -> DropReason | None:
    """Return why the letter must not be sent any more; None = it is wanted.

    What was in time when its transaction began (`begun_at`) is in time for `UNDER_WAY`. Else, in a queue whose head is
    at its deadline, every letter would get its slot just in time and lose it a reply later, and none would leave.
    """
    if wish.withdrawn:
        return DropReason.WITHDRAWN
    counted = now if begun_at is None else max(begun_at, now - UNDER_WAY)
    return DropReason.DEADLINE if counted > deadline_of(order, wish) else None
