"""A typed code under an idempotency key: so that the repeat of a lost answer is no second entry.

An entry is written with the attempt that it costs, before anything is compared, and gets its answer with the outcome.
A repeat within `REPEATED_WITHIN` finds the answer, or goes on where whoever judged it died; it never counts again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

REPEATED_WITHIN = timedelta(seconds=60)
MOST_ENTRIES = 24
"""Kept at once: all the wrong ones that a challenge can have by the standards (20), and some that cost nothing."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What counting an entry changed, so that it can be taken back exactly."""

    counted_at: datetime
    row_before: datetime | None
    """When the entry before it was counted, of the same row of failures."""


@dataclass(frozen=True, slots=True)
class EntryName:
    """What a repeat is known by; neither the key nor the digits can be read from it."""

    key: bytes
    """HMAC of the caller's key under the handle's secret, which is stored nowhere; 16 octets."""
    typed: bytes
    """HMAC of the digits under the same secret; 16 octets."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A verdict, as it is kept for a repeat."""

    word: str
    attempts_left: int = 0
    at: datetime | None = None
    reference: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """One typed code."""

    name: EntryName
    attempt: Attempt
    answer: Answer | None = None
    """None while it is being judged, or for good when whoever judged it died."""


def entry_named(entries: Sequence[Entry], key: bytes, now: datetime) -> Entry | None:
    """Return the entry of that key, if it is young enough to be repeated."""
    for entry in entries:
        if entry.name.key == key and now - entry.attempt.counted_at <= REPEATED_WITHIN:
            return entry
    return None


def with_entry(entries: Sequence[Entry], entry: Entry, now: datetime) -> tuple[Entry, ...]:
    """Return the entries worth keeping and a new one.

    Above the limit those go first whose repeat would be judged the same again: used and expired.
    """
    young = [each for each in entries if now - each.attempt.counted_at <= REPEATED_WITHIN]
    while len(young) >= MOST_ENTRIES:
        costless = [each for each in young if each.answer and each.answer.word in {"used", "expired"}]
        young.remove((costless or young)[0])
    return (*young, entry)


def with_answer(entries: Sequence[Entry], key: bytes, answer: Answer) -> tuple[Entry, ...]:
    """Return the entries with an answer to one of them."""
    return tuple(replace(each, answer=answer) if each.name.key == key else each for each in entries)
