"""In-memory twins of otp's ports, and the policy and key rings that its tests run on.

The store passes the same suite as the one in Redis (`tests/contract/test_challenge_store.py`). It gives the event loop
away at each call, as a real one does, so races between writers happen here too.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import zlib
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, auto

from services.chassis.keyring import Key, Keyring, SealBroken, UnknownKey
from services.otp.ports import (
    SHARDS,
    Claim,
    LetterWanted,
    Loaded,
    OutboxEntry,
    Part,
    PublishFailed,
    StoreUnavailable,
)
from services.otp.rules.challenge import Challenge, SealedPart
from services.otp.rules.policy import AdviceKind, Policy, Purpose
from services.otp.rules.request import Subject
from tests.fakes.clock import NOON, FakeClock

ID_PATTERN = re.compile(r"c([0-9a-f]{2})[0-9a-f]{32}")
CLAIM_LIFE = timedelta(hours=24)
KEPT_AFTER_END = timedelta(hours=1)

# No two durations are alike, so that a rule which takes the wrong one is found out.
PURPOSE = Purpose(
    name="confirm-email",
    digits=6,
    life=timedelta(minutes=4),
    max_life=timedelta(minutes=9),
    challenge_life=timedelta(minutes=33),
    patience=timedelta(minutes=13),
    reserve=timedelta(seconds=70),
    cooldown=timedelta(seconds=50),
    attempts_per_handle=3,
    attempts=7,
    spam_after=timedelta(seconds=40),
    default_locale="vi",
    alternatives=("hotline", "counter"),
    advice={kind: {"vi": f"{kind} (tiếng Việt)", "en": f"{kind} (English)"} for kind in AdviceKind},
)
POLICY = Policy({PURPOSE.name: PURPOSE})


def ring(kid: str, octet: int, *, not_before: datetime = NOON - timedelta(days=1)) -> Keyring:
    """Return a ring of one made-up key."""
    return Keyring([Key(kid, bytes([octet]) * 32, not_before)])


class Breaks(Enum):
    """When a call of the store fails."""

    BEFORE = auto()
    """Nothing was written."""
    AFTER = auto()
    """Everything was written; only the answer is lost."""


@dataclass(frozen=True, slots=True)
class _Kept:
    record: Challenge | Subject
    until: datetime


def named(letter: LetterWanted) -> Mapping[bytes, bytes]:
    """Encode an event as its name."""
    return {b"e": f"{letter.challenge.id}.{letter.generation.number}".encode()}


class InMemoryChallengeStore:
    """Implements `ChallengeStore` in dictionaries, under a clock that the test turns."""

    def __init__(
        self, clock: FakeClock | None = None, encode: Callable[[LetterWanted], Mapping[bytes, bytes]] = named
    ) -> None:
        self.clock = clock or FakeClock()
        self.calls: list[str] = []
        """Names of the methods that were called and do I/O."""
        self.is_away = False
        self._encode = encode
        self._breaks: dict[str, deque[Breaks | None]] = defaultdict(deque)
        self._records: dict[tuple[int, type, str], _Kept] = {}
        self._claims: dict[str, tuple[Claim, datetime]] = {}
        self._outbox: list[tuple[datetime, OutboxEntry]] = []
        self._serial = 0

    def breaks_next(self, method: str, when: Breaks | None = Breaks.BEFORE) -> None:
        """Let the next call of a method raise `StoreUnavailable`, once; `None` lets one call pass, before the next."""
        self._breaks[method].append(when)

    def outbox(self) -> list[str]:
        """Return the names of what waits, oldest first."""
        return [entry.record[b"e"].decode() for _, entry in self._outbox]

    def challenges(self) -> list[Challenge]:
        """Return every challenge that is kept, oldest first."""
        return [kept.record for kept in self._records.values() if isinstance(kept.record, Challenge)]

    def mint_id(self, purpose: str, subject: str) -> str:
        """Implements `ChallengeStore`."""
        shard = zlib.crc32(f"{purpose}\0{subject}".encode()) % SHARDS
        return f"c{shard:02x}{secrets.token_hex(16)}"

    def shard_of(self, challenge_id: str) -> int | None:
        """Implements `ChallengeStore`."""
        match = ID_PATTERN.fullmatch(challenge_id)
        return int(match.group(1), 16) if match else None

    async def load(self, shard: int, *, subject_key: str | None = None, challenge_ids: Sequence[str] = ()) -> Loaded:
        """Implements `ChallengeStore`."""
        lost = await self._called("load")
        subject = self._find(shard, Subject, subject_key) if subject_key is not None else None
        found = {name: self._find(shard, Challenge, name) for name in challenge_ids}
        self._lose(lost)
        return Loaded(
            now=self.clock(),
            subject=subject if isinstance(subject, Subject) else None,
            challenges={name: record for name, record in found.items() if isinstance(record, Challenge)},
        )

    async def commit(
        self, shard: int, *, challenge: Challenge, subject: Subject | None = None, letters: Sequence[LetterWanted] = ()
    ) -> list[OutboxEntry] | None:
        """Implements `ChallengeStore`."""
        lost = await self._called("commit")
        records: list[tuple[str, Challenge | Subject]] = [(challenge.id, challenge)]
        if subject is not None:
            records.append((subject.key, subject))
        for name, record in records:
            stored = self._find(shard, type(record), name)
            if (stored.version if stored else 0) != record.version - 1:
                return None
        until = challenge.ends_at + KEPT_AFTER_END
        for name, record in records:
            self._records[shard, type(record), name] = _Kept(record, until)
        entries = [OutboxEntry(shard, self._next_id(), self._encode(letter)) for letter in letters]
        self._outbox += [(self.clock(), entry) for entry in entries]
        self._lose(lost)
        return entries

    async def claim(self, key: str, claim: Claim) -> Claim:
        """Implements `ChallengeStore`."""
        lost = await self._called("claim")
        standing, until = self._claims.get(key, (claim, self.clock()))
        if until <= self.clock():
            standing = claim
            self._claims[key] = (claim, self.clock() + CLAIM_LIFE)
        self._lose(lost)
        return standing

    async def settle_claim(self, key: str, claim: Claim) -> None:
        """Implements `ChallengeStore`."""
        lost = await self._called("settle_claim")
        if key in self._claims and self._claims[key][1] > self.clock():
            self._claims[key] = (claim, self._claims[key][1])
        self._lose(lost)

    async def unpublished(self, *, older_than: timedelta, most: int) -> list[OutboxEntry]:
        """Implements `ChallengeStore`."""
        self._lose(await self._called("unpublished"))
        return [entry for made_at, entry in self._outbox if made_at <= self.clock() - older_than][:most]

    async def published(self, entry: OutboxEntry) -> None:
        """Implements `ChallengeStore`."""
        lost = await self._called("published")
        self._outbox = [(at, kept) for at, kept in self._outbox if (kept.shard, kept.id) != (entry.shard, entry.id)]
        self._lose(lost)

    async def outbox_size(self) -> int:
        """Implements `ChallengeStore`."""
        self._lose(await self._called("outbox_size"))
        return len(self._outbox)

    def _find(self, shard: int, kind: type, name: str) -> Challenge | Subject | None:
        kept = self._records.get((shard, kind, name))
        return kept.record if kept is not None and kept.until > self.clock() else None

    def _next_id(self) -> str:
        self._serial += 1
        return f"{int(self.clock().timestamp() * 1000)}-{self._serial}"

    async def _called(self, method: str) -> Breaks | None:
        """Count the call; return how it is to fail, if it is to fail after it wrote."""
        self.calls.append(method)
        await asyncio.sleep(0)
        breaks = self._breaks[method].popleft() if self._breaks[method] else None
        if self.is_away or breaks is Breaks.BEFORE:
            raise StoreUnavailable
        return breaks

    @staticmethod
    def _lose(breaks: Breaks | None) -> None:
        if breaks is Breaks.AFTER:
            raise StoreUnavailable


class EventList:
    """Implements `EventSink`: a road that remembers everything, unless it is away."""

    def __init__(self) -> None:
        self.is_away = False
        self.entries: list[OutboxEntry] = []

    @property
    def published(self) -> list[str]:
        """Names of what was published, in order."""
        return [entry.record[b"e"].decode() for entry in self.entries]

    async def publish(self, entry: OutboxEntry, *, within: timedelta) -> None:
        """Implements `EventSink`."""
        assert within > timedelta(0)
        await asyncio.sleep(0)
        if self.is_away:
            raise PublishFailed("the broker is away")
        self.entries.append(entry)


class LeavesIt:
    """Implements `Announce` as a process that dies after its commit: what was promised stays in the outbox."""

    def __init__(self) -> None:
        self.entries: list[OutboxEntry] = []

    async def __call__(self, entries: Sequence[OutboxEntry], *, within: timedelta) -> None:
        """Implements `Announce`."""
        assert within > timedelta(0)
        self.entries += entries


class Drawer:
    """Implements `Sealer`: puts parts away under numbers; only the number is in the seal."""

    def __init__(self, kid: str = "s1") -> None:
        self._kid = kid
        self._parts: list[tuple[str, int, Part]] = []
        self.is_locked = False
        """The key of what was sealed is gone."""

    def seal(self, challenge_id: str, generation: int, part: Part, now: datetime) -> SealedPart:
        """Implements `Sealer`."""
        del now
        self._parts.append((challenge_id, generation, part))
        return SealedPart(self._kid, nonce=len(self._parts).to_bytes(12), ciphertext=b"put away")

    def open(self, challenge_id: str, generation: int, sealed: SealedPart) -> Part:
        """Implements `Sealer`."""
        if self.is_locked or sealed.kid != self._kid:
            raise UnknownKey(sealed.kid)
        place = int.from_bytes(sealed.nonce) - 1
        if sealed.ciphertext != b"put away" or not 0 <= place < len(self._parts):
            raise SealBroken("the seal does not open")
        owner, number, part = self._parts[place]
        if (owner, number) != (challenge_id, generation):
            raise SealBroken("the seal does not open")
        return part
