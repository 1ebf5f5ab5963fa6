"""What standards allow of a mailed code, and what no reason lifts.

A mailed code is no NIST authenticator (`SECURITY.md`), yet its numbers keep to what NIST SP 800-63B and OWASP ASVS ask
of an out-of-band code. A purpose that has to go beyond one says why, and stands in the file with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any


@dataclass(frozen=True, slots=True)
class Cap:
    """One limit of a field of a purpose."""

    words: str
    """What is refused, as in "longer than 10 min"."""
    is_passed: Callable[[Any], bool]
    """Whether a value of the field's type is beyond it."""
    source: str
    """Who says so."""


TEN_MINUTES = Cap(
    "longer than 10 min",
    lambda life: life > timedelta(minutes=10),
    "NIST SP 800-63B-4 §3.1.3.2 and OWASP ASVS 5.0 6.5.5",
)

CAPS: Mapping[str, Cap] = {
    "digits": Cap(
        "fewer than 6",
        lambda digits: digits < 6,
        "NIST SP 800-63B-4 §3.1.3.2 and the 20 bits of OWASP ASVS 5.0 6.5.4",
    ),
    "life": TEN_MINUTES,
    "max_life": TEN_MINUTES,
    # Nobody answers for a request that was made an hour ago.
    "challenge_life": Cap(
        "longer than 1 h",
        lambda life: life > timedelta(hours=1),
        "OWASP ASVS 5.0 6.6.2, which binds a code to the request it was made for",
    ),
    # 10 guesses at two live codes of 6 digits: 2 in 100 000.
    "attempts_per_handle": Cap(
        "more than 10",
        lambda attempts: attempts > 10,
        "RFC 4226 §7.3, a lock after a small number of attempts",
    ),
    # A fifth of the row, so that one challenge alone locks nobody out for a day.
    "attempts": Cap(
        "more than 20",
        lambda attempts: attempts > 20,
        "RFC 4226 §7.3 and the 100 failures in a row of NIST SP 800-63B-4 §3.2.2",
    ),
}

NEVER_IN_SUBJECT = frozenset({"password-reset", "approval"})
"""Purposes whose code opens or signs something: NIST SP 800-63B rev 3 §5.1.3.1 keeps it off a locked screen."""


def beyond(field: str, value: object) -> str | None:
    """Return which standard a value of a purpose's field is beyond, in words; `None` when it keeps to all."""
    cap = CAPS[field]
    return f"{cap.words} is beyond {cap.source}" if cap.is_passed(value) else None
