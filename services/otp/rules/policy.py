"""What a purpose promises: how long its codes live, how long people wait, how often they may ask.

One purpose is one row of the policy file. `deadline` (D in the design) is what the queue may use of the patience; the
rest is kept for the relay, the inbox and typing. NIST SP 800-63B and OWASP ASVS 6.5.5 cap an out-of-band code at ten
minutes; `max_life` keeps to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

GRACE = timedelta(seconds=45)
"""After the deadline, before a letter that nobody has heard of is presumed dropped: an event may be on its way."""
MAX_HANDLES = 4
"""Handles of one challenge: one person rarely has more open pages than that."""
MAX_LIVE = 2
"""Codes of one challenge that can be right at the same time: each doubles the chance of a guess."""


class AdviceKind(StrEnum):
    """What a citizen should do now."""

    WAIT = "wait"
    CHECK_SPAM = "check_spam"
    TYPE_IT = "type_it"
    OTHER_CHANNEL = "other_channel"


@dataclass(frozen=True, slots=True)
class Purpose:
    """One row of the policy."""

    name: str
    digits: int
    """Length of the code, 6–10."""
    life: timedelta
    """How long a code is good after the relay took it."""
    max_life: timedelta
    """Never good longer than this after its body began to leave."""
    challenge_life: timedelta
    """The end of everything about the challenge, from its first request."""
    patience: timedelta
    """How long a letter is still wanted after it was last asked for."""
    reserve: timedelta
    """Kept of the patience for relay, inbox and typing."""
    cooldown: timedelta
    """After a hand-over, before the same subject may ask again."""
    attempts_per_handle: int
    attempts: int
    """Of the whole challenge, over all handles."""
    spam_after: timedelta
    """How long after the hand-over the advice becomes "look in the spam folder"."""
    default_locale: str
    alternatives: tuple[str, ...]
    """What else there is when mail does not work, such as `hotline`."""
    advice: Mapping[AdviceKind, Mapping[str, str]]
    """Words for each advice, by language."""

    @property
    def deadline(self) -> timedelta:
        """How long a letter may wait in our queue."""
        return self.patience - self.reserve


@dataclass(frozen=True, slots=True)
class Policy:
    """Every purpose, by name."""

    purposes: Mapping[str, Purpose]

    def find(self, name: str) -> Purpose | None:
        """Return the purpose of that name."""
        return self.purposes.get(name)
