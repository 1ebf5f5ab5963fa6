"""A challenge that nobody has: what is judged when a handle opens nothing, so that its answer takes the same time.

It is as large as a usual one. No store ever keeps it.
"""

from __future__ import annotations

from datetime import datetime

from services.otp.rules.challenge import Challenge, Fresh, Handle, SealedPart, first_generation
from services.otp.rules.policy import Purpose
from services.otp.rules.subject import Subject
from services.otp.rules.verdict import Case

NOBODYS = 1
"""The number of its one generation, whose code is never right."""


def nobody(purpose: Purpose, code_kid: str, now: datetime) -> Case:
    """Return what to judge."""
    ends_at = now + purpose.challenge_life
    fresh = Fresh("00000", code_kid, SealedPart(code_kid, bytes(12), bytes(80)))
    challenge = Challenge(
        id="nobody",
        version=0,
        purpose=purpose.name,
        subject_key="0" * 32,
        same_wish="0" * 32,
        locale=purpose.default_locale,
        code_length=purpose.digits,
        context_sha256=bytes(32),
        sealed=fresh.sealed,
        made_at=now,
        ends_at=ends_at,
        generations=(first_generation(purpose, fresh, now, ends_at),),
        handles=(Handle("", bytes(32)),),
    )
    return Case(challenge, Subject("0" * 32, 0).with_challenge(challenge), 0, purpose, now)
