"""Sealed parts: protobuf inside AES-GCM, bound to challenge and generation."""

from __future__ import annotations

from datetime import datetime

from kip.otp.v1 import otp_events_pb2

from services.chassis.keyring import Keyring, Seal
from services.otp.ports import Part
from services.otp.rules.challenge import SealedPart


class KeyringSealer:
    """Implements `Sealer` with the ring seal-code, which the mailer shares."""

    def __init__(self, ring: Keyring) -> None:
        """Seal with the ring's minting key."""
        self._ring = ring

    def seal(self, challenge_id: str, generation: int, part: Part, now: datetime) -> SealedPart:
        """Implements `Sealer`."""
        plain = otp_events_pb2.SealedPart(email=part.email, context=part.context, decoy=part.decoy)
        seal = self._ring.seal(plain.SerializeToString(), about=_about(challenge_id, generation), now=now)
        return SealedPart(seal.kid, seal.nonce, seal.ciphertext)

    def open(self, challenge_id: str, generation: int, sealed: SealedPart) -> Part:
        """Implements `Sealer`."""
        seal = Seal(sealed.kid, sealed.nonce, sealed.ciphertext)
        plain = otp_events_pb2.SealedPart.FromString(self._ring.open(seal, about=_about(challenge_id, generation)))
        return Part(email=plain.email, context=plain.context, decoy=plain.decoy)


def _about(challenge_id: str, generation: int) -> tuple[str, str, str]:
    return ("kip.otp.v1.SealedPart", challenge_id, str(generation))
