"""Draws and keys what a new generation needs: a reference, the key of its code, its part sealed for the mailer."""

from __future__ import annotations

import secrets

from services.chassis.clock import Clock
from services.chassis.keyring import Keyring, UnknownKey
from services.otp.outbound.sealed_parts import KeyringSealer
from services.otp.ports import KeysUnknown, Part
from services.otp.rules.challenge import Challenge, Fresh

REFERENCE_CHARACTERS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford base32
REFERENCE_LENGTH = 5


class KeyringMint:
    """Implements `Mint` with the rings code and seal-code; the clock of this host chooses among their keys."""

    def __init__(self, sealer: KeyringSealer, code_keys: Keyring, clock: Clock) -> None:
        """Mint with these rings."""
        self._sealer = sealer
        self._code_keys = code_keys
        self._clock = clock

    def first(self, challenge_id: str, number: int, part: Part) -> Fresh:
        """Implements `Mint`."""
        now = self._clock()
        try:
            return Fresh(
                reference="".join(REFERENCE_CHARACTERS[octet & 31] for octet in secrets.token_bytes(REFERENCE_LENGTH)),
                code_kid=self._code_keys.minting(now).kid,
                sealed=self._sealer.seal(challenge_id, number, part, now),
            )
        except UnknownKey as error:
            raise KeysUnknown from error

    def again(self, challenge: Challenge, number: int) -> Fresh:
        """Implements `Mint`."""
        return self.first(challenge.id, number, self.part(challenge))

    def part(self, challenge: Challenge) -> Part:
        """Implements `Mint`."""
        try:
            return self._sealer.open(challenge.id, challenge.newest.number, challenge.sealed)
        except UnknownKey as error:
            raise KeysUnknown from error
