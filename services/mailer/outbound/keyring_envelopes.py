"""The envelope id (ENVID, RFC 3461 §4.4) of a letter: says which letter, and that we sent it.

It travels with the mail and comes back in every notification about it. The MAC (the first 80 bits of an HMAC-SHA-256
over lane, owner and generation) keeps whoever never saw a mail of ours from telling us what became of it: a guess is
right once in 2⁸⁰. Nothing in it is secret or names a person. Only letters, digits, `.`, `-` and `_` occur, so xtext
(RFC 3461 §4) leaves it as it is, and relays have been seen to spoil less of that.
"""

from __future__ import annotations

import hmac
import re
from datetime import datetime

from services.chassis.keyring import Key, Keyring, UnknownKey, mac
from services.mailer.rules.letter import Lane, LetterName

LABEL = "kip-envelope-v1"
MAC_OCTETS = 10
ENVELOPE_ID = re.compile(
    r"(otp|notice)\.([0-9a-zA-Z-]{1,60})\.([1-9][0-9]{0,8})\.([0-9a-zA-Z_-]{1,16})\.([0-9a-f]{20})"
)


class NotOurs(ValueError):
    """Not an envelope id, or not one that we made."""


class KeyringEnvelopes:
    """Makes envelope ids and knows its own."""

    def __init__(self, ring: Keyring) -> None:
        """Sign with a ring of receipt keys."""
        self._ring = ring

    def envelope_id(self, letter: LetterName, now: datetime) -> str | None:
        """Return the id of a letter; `None` when no key may be used now, or its name is none that can be carried."""
        try:
            key = self._ring.minting(now)
        except UnknownKey:
            return None
        text = f"{letter.lane}.{letter.owner_id}.{letter.generation}.{key.kid}.{_mac(key, letter)}"
        return text if ENVELOPE_ID.fullmatch(text) else None

    def letter(self, envelope_id: str) -> LetterName:
        """Return the letter of an id.

        Raises:
            NotOurs: no MAC, or a wrong one.
            UnknownKey: made with a key that is not here.
        """
        found = ENVELOPE_ID.fullmatch(envelope_id)
        if found is None:
            raise NotOurs("no envelope id")
        lane, owner_id, generation, kid, told = found.groups()
        letter = LetterName(Lane(lane), owner_id, int(generation))
        if not hmac.compare_digest(_mac(self._ring.named(kid), letter), told):
            raise NotOurs("a wrong MAC")
        return letter


def _mac(key: Key, letter: LetterName) -> str:
    return mac(key, LABEL, letter.lane, letter.owner_id, str(letter.generation))[:MAC_OCTETS].hex()
