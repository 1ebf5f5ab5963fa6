"""What a typed code is worth.

The attempt is counted before anything is compared; a right entry is no guess and gives it back.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime

from services.otp.rules.challenge import Challenge
from services.otp.rules.policy import Purpose

PARTING_CATEGORIES = frozenset({"Pd", "Cf"})  # Unicode's dashes, and the marks nobody sees that come with a paste
PARTING = frozenset(".\u2212")  # the full stop, and the minus sign


@dataclass(frozen=True, slots=True)
class Accepted:
    """The right code, now used up; once per challenge."""

    verified_at: datetime
    context: str = ""


@dataclass(frozen=True, slots=True)
class Wrong:
    """Not the code."""

    attempts_left: int


@dataclass(frozen=True, slots=True)
class Expired:
    """The right code, too late."""


@dataclass(frozen=True, slots=True)
class Locked:
    """Nothing is compared until then."""

    retry_at: datetime


@dataclass(frozen=True, slots=True)
class Used:
    """A second right entry."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """No such challenge, as far as this caller is told."""


Verdict = Accepted | Wrong | Expired | Locked | Used | Unknown


def cleaned(typed: str) -> str:
    """Return the digits that were meant: full-width ones made plain, without spaces, dashes and what nobody sees."""
    plain = unicodedata.normalize("NFKC", typed)
    return "".join(char for char in plain if not _parts_digits(char))


def _parts_digits(char: str) -> bool:
    return char.isspace() or char in PARTING or unicodedata.category(char) in PARTING_CATEGORIES


def attempts_left(challenge: Challenge, place: int, purpose: Purpose) -> int:
    """Return how many guesses the handle still has."""
    return max(
        min(purpose.attempts_per_handle - challenge.handles[place].attempts, purpose.attempts - challenge.attempts), 0
    )


def counted(challenge: Challenge, place: int, purpose: Purpose) -> Challenge | Locked:
    """Return the challenge with one more attempt spent by the handle, or `Locked` when none is left."""
    if attempts_left(challenge, place, purpose) == 0:
        return Locked(challenge.ends_at)
    return _with_attempts(challenge, place, by=1)


def judged(
    challenge: Challenge, place: int, right: Collection[int], purpose: Purpose, now: datetime
) -> tuple[Verdict, Challenge | None]:
    """Judge an attempt that has been counted; `right` are the generations whose code was typed.

    Returns:
        the verdict, and the challenge to commit with it (`None`: nothing changes).
    """
    if not right:
        return Wrong(attempts_left(challenge, place, purpose)), None
    refunded = _with_attempts(challenge, place, by=-1)
    if challenge.verified_at is not None:
        return Used(), refunded
    good = [g for g in challenge.generations if g.number in right and g.is_good(challenge.ends_at, now)]
    if good:
        return Accepted(now), replace(refunded, verified_at=now)
    told = tuple(replace(g, told_expired=True) if g.number in right else g for g in challenge.generations)
    return Expired(), replace(refunded, generations=told)


def _with_attempts(challenge: Challenge, place: int, *, by: int) -> Challenge:
    handle = challenge.handles[place]
    handles = list(challenge.handles)
    handles[place] = replace(handle, attempts=handle.attempts + by)
    return replace(challenge, version=challenge.version + 1, handles=tuple(handles), attempts=challenge.attempts + by)
