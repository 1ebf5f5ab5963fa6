"""What a change of a challenge is to be told to the mailer: one place, so that no verb forgets it.

Told are a new letter, a letter that is wanted for longer, and a letter that is no longer wanted because its challenge
ended while it waited (verified with an earlier code, given back, or out of attempts). That one is sticky: it wins over
any extension.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from services.otp.rules.challenge import Challenge, State
from services.otp.rules.generation import Generation
from services.otp.rules.policy import Purpose

DONE = frozenset({State.VERIFIED, State.CANCELLED, State.SPENT})


@dataclass(frozen=True, slots=True)
class LetterWanted:
    """This generation of this challenge is to be mailed."""

    challenge: Challenge
    generation: Generation


@dataclass(frozen=True, slots=True)
class WishChanged:
    """A letter that waits is wanted for longer, or not at all any more."""

    challenge: Challenge
    generation: Generation
    withdrawn: bool
    at: datetime


Announcement = LetterWanted | WishChanged


def announcements(before: Challenge | None, after: Challenge, purpose: Purpose, now: datetime) -> list[Announcement]:
    """Return what is new since `before`; `None` when there was no challenge yet."""
    newest = after.newest
    if before is None or before.newest.number != newest.number:
        return [LetterWanted(after, newest)]
    if not newest.waits(now):
        return []
    ended = after.state(purpose, now) in DONE and before.state(purpose, now) not in DONE
    if ended:
        return [WishChanged(after, newest, withdrawn=True, at=now)]
    if newest.wanted_until > before.newest.wanted_until:
        return [WishChanged(after, newest, withdrawn=False, at=now)]
    return []
