"""What a caller is shown of a challenge: no code, no address, and always what the citizen should do now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from services.otp.rules.challenge import Cause, Challenge, Fate, Generation, State
from services.otp.rules.policy import AdviceKind, Purpose
from services.otp.rules.verdict import attempts_left


@dataclass(frozen=True, slots=True)
class Advice:
    """What to do now, in words a page can show as they are."""

    kind: AdviceKind
    text: Mapping[str, str]
    until: datetime | None = None
    alternatives: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LetterView:
    """One letter of the challenge."""

    reference: str
    fate: Fate
    cause: Cause
    queued_at: datetime
    handed_over_at: datetime | None
    delivered_at: datetime | None
    good_until: datetime


@dataclass(frozen=True, slots=True)
class ChallengeView:
    """A challenge, as one of its handles sees it."""

    id: str
    version: int
    purpose: str
    state: State
    code_length: int
    attempts_left: int
    resend_allowed_at: datetime
    ends_at: datetime
    verified_at: datetime | None
    letters: tuple[LetterView, ...]
    """Newest first."""
    advice: Advice


def seen_by(challenge: Challenge, place: int, purpose: Purpose, now: datetime) -> ChallengeView:
    """Return the challenge as the handle at `place` sees it at `now`."""
    return ChallengeView(
        id=challenge.id,
        version=challenge.version,
        purpose=challenge.purpose,
        state=challenge.state(purpose, now),
        code_length=challenge.code_length,
        attempts_left=attempts_left(challenge, place, purpose),
        resend_allowed_at=challenge.resend_allowed_at(purpose, now),
        ends_at=challenge.ends_at,
        verified_at=challenge.verified_at,
        letters=tuple(_letter(generation, challenge.ends_at, now) for generation in reversed(challenge.generations)),
        advice=_advice(challenge.newest, purpose, now),
    )


def _letter(generation: Generation, challenge_ends_at: datetime, now: datetime) -> LetterView:
    return LetterView(
        reference=generation.reference,
        fate=Fate.DROPPED if generation.is_presumed_dropped(now) else generation.fate,
        cause=generation.cause,
        queued_at=generation.made_at,
        handed_over_at=generation.handed_over_at,
        delivered_at=generation.delivered_at,
        good_until=generation.good_until(challenge_ends_at),
    )


def _advice(newest: Generation, purpose: Purpose, now: datetime) -> Advice:
    kind, until = AdviceKind.OTHER_CHANNEL, None
    if newest.waits(now):
        kind, until = AdviceKind.WAIT, newest.deadline
    elif newest.fate is Fate.DELIVERED:
        kind = AdviceKind.TYPE_IT
    elif newest.handed_over_at is not None and newest.fate is not Fate.BOUNCED:
        is_late = now > newest.handed_over_at + purpose.spam_after
        kind = AdviceKind.CHECK_SPAM if is_late else AdviceKind.TYPE_IT
    alternatives = purpose.alternatives if kind is AdviceKind.OTHER_CHANNEL else ()
    return Advice(kind, purpose.advice[kind], until, alternatives)
