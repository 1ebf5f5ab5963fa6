"""A handle, `challenge id . secret`: it opens a challenge for the caller that got it, and for nobody else."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from services.otp.rules.challenge import Challenge
from services.otp.rules.policy import Policy, Purpose


@dataclass(frozen=True, slots=True)
class ParsedHandle:
    """What a caller showed; may be nonsense."""

    caller: str
    challenge_id: str
    secret_sha256: bytes

    def opens(self, challenge: Challenge | None, policy: Policy) -> Opened | None:
        """Return what it opens, or `None` for an unknown, foreign or mistyped handle."""
        if challenge is None:
            return None
        place = challenge.handle_of(self.caller, self.secret_sha256)
        purpose = policy.find(challenge.purpose)
        return Opened(challenge, place, purpose) if place is not None and purpose is not None else None


@dataclass(frozen=True, slots=True)
class Opened:
    """A challenge, as the holder of one of its handles."""

    challenge: Challenge
    place: int
    """Which handle of the challenge."""
    purpose: Purpose


def parse_handle(caller: str, text: str) -> ParsedHandle:
    """Take a handle apart; nonsense gives one that opens nothing."""
    challenge_id, _, secret = text.partition(".")
    try:
        octets = bytes.fromhex(secret)
    except ValueError:
        octets = b""
    return ParsedHandle(caller, challenge_id, hashlib.sha256(octets).digest())


def handle_text(challenge_id: str, secret: bytes) -> str:
    """Return the handle as a caller gets it."""
    return f"{challenge_id}.{secret.hex()}"
