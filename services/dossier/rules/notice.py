"""The mail of a step: which letter it is, what it says, and what became of it.

Letters and their parameters; the mailer's templates name exactly these. Both letters, `dossier-opened` (the first step)
and `dossier-advanced` (each later one), get

* `dossier_number`: what the citizen writes down, such as `K01-261125-7F3K2M`;
* `procedure_vi`, `procedure_en`: the name of the procedure;
* `state_vi`, `state_en`: the name of the state that the step led to;
* `remark`: what the office wants to say, may be empty, may have several lines;
* `at`: when the step was made, RFC 3339 in UTC, such as `2026-11-25T08:30:00Z`.

**Fate.** The mailer tells how a letter fares; its events may come twice, late or out of order. `merge` keeps the
greatest one in a total order (first how far the letter got, then when), and the greatest of a set does not depend on
order or repeats. Something that went out outranks a claim that nothing did, because a second copy may have been sent by
another route; a bounce outranks a delivery, because the next hop takes a mail before the mailbox refuses it. What a
DSN says is hearsay, which anybody on the way may have written: it is shown, and any end that is trusted outranks it.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import NewType

from services.dossier.rules.procedure import STATE_NAMES, Name, State

NoticeId = NewType("NoticeId", str)
"""UUID of a notice, and of its letter."""

LETTER_OPENED = "dossier-opened"
LETTER_ADVANCED = "dossier-advanced"
WORTH_SENDING = timedelta(hours=48)  # two days later the next step has overtaken the news, or the office has phoned


class Fate(StrEnum):
    """Where a letter is."""

    QUEUED = "queued"
    DEFERRED = "deferred"
    DROPPED = "dropped"
    DEAD_LETTERED = "dead_lettered"
    REFUSED = "refused"
    HANDED_OVER = "handed_over"
    DELIVERED = "delivered"
    BOUNCED = "bounced"


RANK: Mapping[Fate, int] = {
    fate: rank for rank, fate in enumerate(Fate)
}  # the order of the words above is the order of merge


ENDS = frozenset({Fate.DELIVERED, Fate.BOUNCED})


@dataclass(frozen=True, slots=True)
class Notice:
    """The mail of one step."""

    id: NoticeId
    asked_at: datetime
    fate: Fate
    at: datetime
    """When that was last heard of."""
    is_hearsay: bool = False
    """A DSN says so, and nobody who is trusted."""


@dataclass(frozen=True, slots=True)
class News:
    """What an event says about a letter."""

    fate: Fate
    at: datetime
    """When it happened, by the clock of whoever saw it."""
    heard_at: datetime
    """When the event was written; the same for every repeat of one record."""
    is_hearsay: bool = False
    """Told by a DSN."""


@dataclass(frozen=True, slots=True)
class Addressee:
    """Who gets the mail: personal data."""

    email: str = field(repr=False)
    name: str = field(repr=False)
    """For the salutation; may be empty."""
    locale: str
    """`vi` or `en`: which language stands first."""


@dataclass(frozen=True, slots=True)
class NoticeWish:
    """A letter that somebody has to mail; holds neither address nor name."""

    notice_id: NoticeId
    letter: str
    parameters: Mapping[str, str] = field(repr=False)
    asked_at: datetime
    trace: Mapping[str, str] = field(default_factory=dict)
    """W3C Trace Context of the call that made the step."""

    @property
    def deadline(self) -> datetime:
        """After this the letter is no longer worth sending."""
        return self.asked_at + WORTH_SENDING


def notice_id_of(dossier_id: str, version: int) -> NoticeId:
    """Return the id of a step's notice: UUIDv5, so a repeat of the same wish is the same letter."""
    return NoticeId(str(uuid.uuid5(uuid.UUID(dossier_id), str(version))))


def letter_parameters(number: str, procedure: Name, state: State, remark: str, at: datetime) -> dict[str, str]:
    """Return what the templates name; see the top of this module."""
    return {
        "dossier_number": number,
        "procedure_vi": procedure.vi,
        "procedure_en": procedure.en,
        "state_vi": STATE_NAMES[state].vi,
        "state_en": STATE_NAMES[state].en,
        "remark": remark,
        "at": at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
    }


def merge(notice: Notice, news: News) -> Notice:
    """Return the notice with the news taken in; idempotent, and the same in any order.

    The time of the news comes from a foreign clock, so it is kept between the wish and the event.
    """
    at = max(notice.asked_at, min(news.at, news.heard_at))
    if (place(news), at) <= (place(notice), notice.at):
        return notice
    return replace(notice, fate=news.fate, at=at, is_hearsay=news.is_hearsay)


def place(told: Notice | News) -> tuple[bool, int, bool]:
    """Return where something stands in the order of merge: the ends that are trusted behind everything else."""
    is_trusted_end = told.fate in ENDS and not told.is_hearsay
    return is_trusted_end, RANK[told.fate], not told.is_hearsay
