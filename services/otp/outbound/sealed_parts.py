"""Sealed parts: protobuf inside AES-GCM, bound to challenge and generation, and padded.

AES-GCM hides what is inside and not how long it is, and protobuf writes a true flag and leaves a false one out. So a
part is padded to a multiple of `BLOCK` octets, counted as if it were a decoy: whoever sees ciphertexts cannot tell
decoys by their length, nor one usual address from another.
"""

from __future__ import annotations

from datetime import datetime

from kip.otp.v1 import otp_events_pb2

from services.chassis.keyring import Keyring, Seal
from services.otp.ports import Part
from services.otp.rules.challenge import SealedPart

BLOCK = 64
"""Octets: an address of usual length and no context is one block, and a context makes it two or three."""
FLAG_OCTETS = 2
"""What protobuf writes for a true flag: its tag and a one."""
PADDING_HEAD_OCTETS = 2
"""Tag and length of the padding field; a length below 128 is one octet."""


class KeyringSealer:
    """Seals parts with the ring seal-code, which the mailer shares."""

    def __init__(self, ring: Keyring) -> None:
        """Seal with the ring's minting key."""
        self._ring = ring

    def seal(self, challenge_id: str, generation: int, part: Part, now: datetime) -> SealedPart:
        """Seal a part for one letter, with the key that mints at `now`.

        Raises:
            UnknownKey: no key may be used now.
        """
        plain = otp_events_pb2.SealedPart(email=part.email, context=part.context, decoy=part.decoy)
        plain.padding = bytes(_missing(plain.ByteSize() + PADDING_HEAD_OCTETS, decoy=part.decoy))
        seal = self._ring.seal(plain.SerializeToString(), about=_about(challenge_id, generation), now=now)
        return SealedPart(seal.kid, seal.nonce, seal.ciphertext)

    def open(self, challenge_id: str, generation: int, sealed: SealedPart) -> Part:
        """Open the part of a letter.

        Raises:
            UnknownKey: it was sealed with a key that is not in the ring.
            SealBroken: it was sealed for another letter, or changed.
        """
        seal = Seal(sealed.kid, sealed.nonce, sealed.ciphertext)
        plain = otp_events_pb2.SealedPart.FromString(self._ring.open(seal, about=_about(challenge_id, generation)))
        return Part(email=plain.email, context=plain.context, decoy=plain.decoy)


def _missing(octets: int, *, decoy: bool) -> int:
    """Return how many octets a part of that many lacks, so that a decoy and a real part end up alike."""
    as_decoy = octets if decoy else octets + FLAG_OCTETS
    blocks = -(-as_decoy // BLOCK)
    return blocks * BLOCK - octets


def _about(challenge_id: str, generation: int) -> tuple[str, str, str]:
    return ("kip.otp.v1.SealedPart", challenge_id, str(generation))
