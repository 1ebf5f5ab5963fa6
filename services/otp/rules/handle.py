"""A handle, `challenge id . secret`: it opens a challenge for the caller that got it, and for nobody else."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field

from services.otp.rules.challenge import Challenge
from services.otp.rules.entry import EntryName
from services.otp.rules.policy import Policy, Purpose

NAME_OCTETS = 16


@dataclass(frozen=True, slots=True)
class ParsedHandle:
    """What a caller showed; may be nonsense."""

    caller: str
    challenge_id: str
    secret: bytes = field(repr=False)

    def opens(self, challenge: Challenge | None, policy: Policy) -> Opened | None:
        """Return what it opens, or `None` for an unknown, foreign, mistyped or given back handle."""
        if challenge is None:
            return None
        place = challenge.handle_of(self.caller, hashlib.sha256(self.secret).digest())
        purpose = policy.find(challenge.purpose)
        if place is None or purpose is None or challenge.handles[place].cancelled:
            return None
        return Opened(challenge, place, purpose)

    def click(self, idempotency_key: str) -> bytes:
        """Return the name of a click, for a repeat to be known by; 16 octets that tell neither secret nor key."""
        return hmac.digest(self.secret, b"click" + idempotency_key.encode(), hashlib.sha256)[:NAME_OCTETS]

    def entry(self, idempotency_key: str, digits: str) -> EntryName | None:
        """Return the name of a typed code, for a repeat to be known by; none without a key."""
        if not idempotency_key:
            return None
        key = hmac.digest(self.secret, b"entry" + idempotency_key.encode(), hashlib.sha256)
        typed = hmac.digest(self.secret, b"typed" + digits.encode(), hashlib.sha256)
        return EntryName(key[:NAME_OCTETS], typed[:NAME_OCTETS])


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
    return ParsedHandle(caller, challenge_id, octets)


def handle_text(challenge_id: str, secret: bytes) -> str:
    """Return the handle as a caller gets it."""
    return f"{challenge_id}.{secret.hex()}"
