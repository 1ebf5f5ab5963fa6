"""Keys by name (`kid`), with a time to start and a time to end; digits from an HMAC; sealing.

A ring is rolled without a pause: the new key goes to every reader first, `not_before` lets the writers start to use it,
and `until` ends the old one when nothing made with it can matter any more. A reader that does not know a kid has not
been rolled out to yet (`UnknownKey`): it waits, it never throws the record away.

*Digits.* HMAC-SHA-256 gives 256 bits; each 64-bit word below the largest multiple of 10ⁿ gives n uniform digits, other
words are rejected (RFC 4226 §5.3 takes a remainder instead, which is not uniform). Four words are rejected together
with a chance below 10⁻⁴⁰ for n = 8; then the HMAC of the HMAC goes on.

*Seals.* AES-256-GCM (NIST SP 800-38D) with a random 96-bit nonce: fewer than 2³² seals per key keep a repeat below
2⁻³², so a key is rolled long before. The additional data binds a seal to what it is about; moved to another owner or
generation, it does not open.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from base64 import b64decode
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

SECRET_OCTETS = 32
NONCE_OCTETS = 12
WORD_OCTETS = 8
PSEUDONYM_OCTETS = 16
MOST_DIGITS = 18  # the largest power of ten that leaves most 64-bit words


class UnknownKey(LookupError):
    """No key of that name here: keys are not rolled out yet, or are gone for good."""

    def __init__(self, kid: str) -> None:
        """Name the key."""
        super().__init__(f"key {kid!r} is not in the ring")
        self.kid = kid


class SealBroken(ValueError):
    """The seal does not open: wrong key, wrong owner, or changed on the way."""


@dataclass(frozen=True, slots=True)
class Key:
    """One secret and when it may be used."""

    kid: str
    secret: bytes = field(repr=False)
    """32 octets."""
    not_before: datetime
    """From when it may make something new."""
    until: datetime | None = None
    """Until when what it made must be accepted; `None` = no end yet."""


@dataclass(frozen=True, slots=True)
class Seal:
    """What `Keyring.seal` makes."""

    kid: str
    nonce: bytes
    """12 octets."""
    ciphertext: bytes
    """Ciphertext and 16 octets of tag."""


class Keyring:
    """The keys of one ring."""

    def __init__(self, keys: Iterable[Key]) -> None:
        """Take the keys; refuse an empty ring, a repeated kid and a secret of another size.

        Raises:
            ValueError: says which key and why.
        """
        self._keys: dict[str, Key] = {}
        for key in keys:
            if key.kid in self._keys:
                raise ValueError(f"key {key.kid!r} is there twice")
            if len(key.secret) != SECRET_OCTETS:
                raise ValueError(f"key {key.kid!r} has {len(key.secret)} octets, not {SECRET_OCTETS}")
            self._keys[key.kid] = key
        if not self._keys:
            raise ValueError("the ring is empty")
        self.on_unknown: list[Callable[[], None]] = []
        """Told each time something names a key that is not in the ring."""

    def minting(self, now: datetime) -> Key:
        """Return the newest key that may make something new at `now`.

        Raises:
            UnknownKey: no key has started yet, or every one has ended.
        """
        usable = [
            key for key in self._keys.values() if key.not_before <= now and (key.until is None or now < key.until)
        ]
        if not usable:
            raise UnknownKey("(any that is valid now)")
        return max(usable, key=lambda key: (key.not_before, key.kid))

    def accepting(self, now: datetime) -> list[Key]:
        """Return the keys that name things at `now`: the minting one, then every other that has not ended.

        One that has not started here yet may have on another host, whose clock is ahead.

        Raises:
            UnknownKey: no key may make something new.
        """
        minting = self.minting(now)
        others = [key for key in self._keys.values() if key is not minting and (key.until is None or now < key.until)]
        return [minting, *sorted(others, key=lambda key: (key.not_before, key.kid), reverse=True)]

    def named(self, kid: str) -> Key:
        """Return the key of that name, also after its time: who made the thing judges its age.

        Raises:
            UnknownKey: not in the ring.
        """
        try:
            return self._keys[kid]
        except KeyError as missing:
            for tell in self.on_unknown:
                tell()
            raise UnknownKey(kid) from missing

    def seal(self, plain: bytes, *, about: Sequence[str], now: datetime) -> Seal:
        """Encrypt `plain` for whoever shares the ring, bound to what it is `about`.

        Raises:
            UnknownKey: no key may be used now.
        """
        key = self.minting(now)
        nonce = secrets.token_bytes(NONCE_OCTETS)
        return Seal(key.kid, nonce, AESGCM(key.secret).encrypt(nonce, plain, length_prefixed(*about)))

    def open(self, seal: Seal, *, about: Sequence[str]) -> bytes:
        """Decrypt a seal.

        Raises:
            UnknownKey: its key is not in the ring.
            SealBroken: it does not open for this `about`.
        """
        key = self.named(seal.kid)
        try:
            return AESGCM(key.secret).decrypt(seal.nonce, seal.ciphertext, length_prefixed(*about))
        except (InvalidTag, ValueError) as broken:
            raise SealBroken("the seal does not open") from broken


def mac(key: Key, *parts: str | bytes) -> bytes:
    """Return HMAC-SHA-256 over the length-prefixed parts; 32 octets."""
    return hmac.digest(key.secret, length_prefixed(*parts), hashlib.sha256)


def pseudonym(key: Key, *parts: str | bytes) -> str:
    """Return 32 hexadecimal digits that stand for the parts: half a MAC, so that names stay short; no two meet."""
    return mac(key, *parts)[:PSEUDONYM_OCTETS].hex()


def digits(key: Key, *parts: str | bytes, count: int) -> str:
    """Return `count` uniform decimal digits that only a holder of the key can make from the parts.

    Raises:
        ValueError: `count` is not 1 to 18.
    """
    if not 1 <= count <= MOST_DIGITS:
        raise ValueError(f"{count} digits cannot be made at once; 1 to {MOST_DIGITS} can")
    span = 10**count
    limit = 2**64 - 2**64 % span
    block = mac(key, *parts)
    while True:
        for start in range(0, len(block), WORD_OCTETS):
            word = int.from_bytes(block[start : start + WORD_OCTETS])
            if word < limit:
                return f"{word % span:0{count}d}"
        block = hmac.digest(key.secret, block, hashlib.sha256)


def length_prefixed(*parts: str | bytes) -> bytes:
    """Join parts so that no two lists give the same octets: each with its length in front, 4 octets big-endian."""
    encoded = (part.encode() if isinstance(part, str) else part for part in parts)
    return b"".join(len(part).to_bytes(4) + part for part in encoded)


def read_keyring(path: Path) -> Keyring:
    """Read a ring from a JSON file: `{"keys": [{"kid", "secret" (base64), "not_before", "until" (or null)}]}`.

    Raises:
        ValueError: says what is wrong with the file, never what a secret is.
    """
    try:
        keys = [_key(entry) for entry in json.loads(path.read_bytes())["keys"]]
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a key ring: {type(error).__name__}") from None  # the cause may quote the file
    try:
        return Keyring(keys)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _key(entry: dict[str, str | None]) -> Key:
    until = entry.get("until")
    return Key(
        kid=str(entry["kid"]),
        secret=b64decode(str(entry["secret"]), validate=True),
        not_before=_utc(str(entry["not_before"])),
        until=_utc(until) if until else None,
    )


def _utc(text: str) -> datetime:
    instant = datetime.fromisoformat(text)
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
