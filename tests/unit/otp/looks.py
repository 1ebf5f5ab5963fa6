"""What a handle is shown, taken from the service and from the reference model, so that both can be compared."""

from __future__ import annotations

from datetime import datetime, timedelta

from services.otp.rules.view import ChallengeView
from tests.fakes.clock import NOON
from tests.unit.otp.reference_model import ReferenceModel
from tests.unit.otp.reference_records import Challenge, Handle

MS = timedelta(milliseconds=1)

Look = tuple[object, ...]
"""State, attempts, instants and letters; empty when the handle opens nothing."""


def look(seen: ChallengeView | None) -> Look:
    """Return what the service shows."""
    if seen is None:
        return ()
    letters = [
        (
            letter.cause.value,
            letter.fate.value,
            in_ms(letter.queued_at),
            in_ms(letter.wanted_until),
            in_ms(letter.handed_over_at),
            in_ms(letter.delivered_at),
            in_ms(letter.good_until),
        )
        for letter in seen.letters
    ]
    stalled = seen.stalled.value if seen.stalled else None
    instants = (in_ms(seen.resend_allowed_at), in_ms(seen.ends_at), in_ms(seen.verified_at))
    return (seen.state.value, seen.attempts_left, *instants, stalled, letters)


def expected_look(model: ReferenceModel, challenge: Challenge, handle: Handle) -> Look:
    """Return what the model would show."""
    if handle.given_back or model.is_gone(challenge):
        return ()
    letters = [
        (
            letter.cause,
            letter.fate(model.now),
            letter.made,
            letter.wanted,
            letter.heard.get("handed_over"),
            letter.arrived(),
            model.good_until(challenge, letter),
        )
        for letter in reversed(challenge.letters)
    ]
    instants = (int(model.resend_allowed_at(challenge)), challenge.ends, challenge.verified)
    return (
        model.state(challenge),
        model.attempts_left(challenge, handle),
        *instants,
        challenge.stalled,
        letters,
    )


def in_ms(instant: datetime | None) -> int | None:
    """Return an instant as the model writes it."""
    return None if instant is None else (instant - NOON) // MS
