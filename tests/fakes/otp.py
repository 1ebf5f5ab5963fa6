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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from enum import Enum, auto

from services.chassis.keyring import Key, Keyring, SealBroken
from services.otp.ports import (
    SHARDS,
    Changes,
    Claim,
    KeysUnknown,
    Loaded,
    Notes,
    OutboxEntry,
    Part,
    Position,
    PublishFailed,
    StoreUnavailable,
)
from services.otp.rules.admission import Load
from services.otp.rules.announcement import Announcement, LetterWanted
from services.otp.rules.challenge import Challenge, Fresh, SealedPart
from services.otp.rules.code_fate import Milestone
from services.otp.rules.hotline import Hotline, OpeningHours
from services.otp.rules.outlook import Outlook, whole_second
from services.otp.rules.policy import AdviceKind, Policy, Purpose
from services.otp.rules.subject import Subject
from tests.fakes.clock import NOON, FakeClock

ID_PATTERN = re.compile(r"c([0-9a-f]{2})[0-9a-f]{32}")
CLAIM_LIFE = timedelta(hours=24)

# No two durations are alike, so that a rule which takes the wrong one is found out.
PURPOSE = Purpose(
    name="confirm-email",
    digits=6,
    life=timedelta(minutes=4),
    max_life=timedelta(minutes=9),
    challenge_life=timedelta(minutes=33),
    patience=timedelta(minutes=13),
    reserve=timedelta(seconds=70),
    prompt=timedelta(seconds=11),
    slow=timedelta(seconds=65),
    cooldowns=(timedelta(seconds=50), timedelta(seconds=95), timedelta(seconds=205)),
    attempts_per_handle=3,
    attempts=7,
    code_in_subject=False,
    enumeration_safe=False,
    spam_after=timedelta(seconds=40),
    default_locale="vi",
    alternatives=("hotline", "counter"),
    hotline=Hotline(
        phone="1900 0000",
        zone=timezone(timedelta(hours=7)),
        open=(OpeningHours(frozenset({0, 1, 2, 3, 4}), timedelta(hours=7.5), timedelta(hours=17)),),
        text={"vi": "Thứ Hai đến thứ Sáu 7:30–17:00", "en": "Monday to Friday 7:30–17:00"},
    ),
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


def named(announcement: Announcement) -> Mapping[bytes, bytes]:
    """Encode an event as its name, such as `c00x.1`, `c00x.1 wanted` or `c00x.1 withdrawn`."""
    name = f"{announcement.challenge.id}.{announcement.generation.number}"
    if not isinstance(announcement, LetterWanted):
        name += " withdrawn" if announcement.withdrawn else " wanted"
    return {b"e": name.encode()}


class Ears:
    """Implements `Changes`: what a test or the store shouts is heard at once."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self._heard = asyncio.Event()

    def hear(self) -> None:
        """Hear of a change."""
        self._heard.set()

    async def next(self, within: timedelta) -> None:
        """Implements `Changes`; the time that passes without a hint is the test's to turn."""
        until = self._clock() + within
        while not self._heard.is_set() and self._clock() < until:  # noqa: ASYNC110 - the clock has no event
            await asyncio.sleep(0)
        self._heard.clear()


class InMemoryChallengeStore:
    """Implements `ChallengeStore` in dictionaries, under a clock that the test turns."""

    def __init__(
        self, clock: FakeClock | None = None, encode: Callable[[Announcement], Mapping[bytes, bytes]] = named
    ) -> None:
        self.clock = clock or FakeClock()
        self.calls: list[str] = []
        """Names of the methods that were called and do I/O."""
        self.is_away = False
        self.loses_hints = False
        """Nobody hears of a commit; a watcher has to look by itself."""
        self.milestones: list[Milestone] = []
        """What was counted, in order, of all who use this store."""
        self._ends: dict[str, datetime] = {}
        self._encode = encode
        self._breaks: dict[str, deque[Breaks | None]] = defaultdict(deque)
        self._records: dict[tuple[int, type, str], _Kept] = {}
        self._claims: dict[str, tuple[Claim, datetime]] = {}
        self._outbox: list[tuple[datetime, OutboxEntry]] = []
        self._serial = 0
        self._watched: dict[str, datetime] = {}
        self._positions: dict[str, tuple[int, Position]] = {}
        self._ears: defaultdict[str, set[Ears]] = defaultdict(set)

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
            notes={name: self._notes(record) for name, record in found.items() if isinstance(record, Challenge)},
        )

    async def commit(
        self,
        shard: int,
        *,
        challenge: Challenge | None = None,
        subject: Subject | None = None,
        announcements: Sequence[Announcement] = (),
        milestones: Sequence[Milestone] = (),
    ) -> list[OutboxEntry] | None:
        """Implements `ChallengeStore`."""
        lost = await self._called("commit")
        records: list[tuple[str, Challenge | Subject]] = []
        if challenge is not None:
            records.append((challenge.id, challenge))
        if subject is not None:
            records.append((subject.key, subject))
        for name, record in records:
            stored = self._find(shard, type(record), name)
            if (stored.version if stored else 0) != record.version - 1:
                return None
        for name, record in records:
            self._keep(shard, name, record)
        entries = [OutboxEntry(shard, self._next_id(), self._encode(each), _letter(each)) for each in announcements]
        self._outbox += [(self.clock(), entry) for entry in entries]
        for ears in self._ears[challenge.id] if challenge and not self.loses_hints else ():
            ears.hear()
        if challenge is not None and challenge.version == 1:
            self._ends[challenge.id] = challenge.ends_at
        self._lose(lost)
        self.milestones += milestones
        return entries

    async def confirm(self, shard: int) -> None:
        """Implements `ChallengeStore`."""
        del shard
        self._lose(await self._called("confirm"))

    async def rehearse(self, shard: int, *, challenge: Challenge, subject: Subject) -> None:
        """Implements `ChallengeStore`."""
        del shard, challenge, subject
        self._lose(await self._called("rehearse"))

    def _keep(self, shard: int, name: str, record: Challenge | Subject) -> None:
        if record.version == 1:  # what was noted before stood beside nothing, or beside what is gone
            self._watched.pop(name, None)
            self._positions.pop(name, None)
        if record.kept_until > self.clock():
            self._records[shard, type(record), name] = _Kept(record, record.kept_until)
        else:
            self._records.pop((shard, type(record), name), None)

    @contextmanager
    def changes(self, challenge_id: str) -> Iterator[Changes]:
        """Implements `ChallengeStore`."""
        ears = Ears(self.clock)
        self._ears[challenge_id].add(ears)
        try:
            yield ears
        finally:
            self._ears[challenge_id].discard(ears)

    async def note_watched(self, challenge_id: str, until: datetime) -> None:
        """Implements `ChallengeStore`."""
        lost = await self._called("note_watched")
        self._watched[challenge_id] = until
        self._lose(lost)

    async def find_claim(self, key: str) -> Claim | None:
        """Implements `ChallengeStore`."""
        self._lose(await self._called("find_claim"))
        claim, until = self._claims.get(key, (None, self.clock()))
        return claim if until > self.clock() else None

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

    async def published(self, entries: Sequence[tuple[OutboxEntry, Position]]) -> None:
        """Implements `ChallengeStore`."""
        lost = await self._called("published")
        for entry, position in entries:
            self._forget(entry, position)
        self._lose(lost)

    def _forget(self, entry: OutboxEntry, position: Position) -> None:
        if entry.letter:
            challenge_id, _, number = entry.letter.partition(".")
            self._positions[challenge_id] = (int(number), position)
        self._outbox = [(at, kept) for at, kept in self._outbox if (kept.shard, kept.id) != (entry.shard, entry.id)]

    async def outbox_size(self) -> int:
        """Implements `ChallengeStore`."""
        self._lose(await self._called("outbox_size"))
        return len(self._outbox)

    async def outbox_oldest(self) -> datetime | None:
        """Implements `ChallengeStore`."""
        self._lose(await self._called("outbox_oldest"))
        return min((made_at for made_at, _ in self._outbox), default=None)

    async def over(self, *, longer_than: timedelta, most: int) -> list[str]:
        """Implements `ChallengeStore`."""
        self._lose(await self._called("over"))
        by_end = sorted(self._ends, key=lambda challenge_id: self._ends[challenge_id])
        return [each for each in by_end if self._ends[each] <= self.clock() - longer_than][:most]

    async def forget_end(self, challenge_ids: Sequence[str]) -> None:
        """Implements `ChallengeStore`."""
        lost = await self._called("forget_end")
        for challenge_id in challenge_ids:
            self._ends.pop(challenge_id, None)
        self._lose(lost)

    def _find(self, shard: int, kind: type, name: str) -> Challenge | Subject | None:
        kept = self._records.get((shard, kind, name))
        return kept.record if kept is not None and kept.until > self.clock() else None

    def _notes(self, challenge: Challenge) -> Notes:
        number, position = self._positions.get(challenge.id, (0, None))
        return Notes(self._watched.get(challenge.id), position if number == challenge.newest.number else None)

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


def _letter(announcement: Announcement) -> str:
    if isinstance(announcement, LetterWanted):
        return f"{announcement.challenge.id}.{announcement.generation.number}"
    return ""


class EventList:
    """Implements `EventSink`: a road of one partition that remembers everything, unless it is away."""

    def __init__(self) -> None:
        self.is_away = False
        self.entries: list[OutboxEntry] = []

    @property
    def published(self) -> list[str]:
        """Names of what was published, in order."""
        return [entry.record[b"e"].decode() for entry in self.entries]

    async def publish(self, entry: OutboxEntry, *, within: timedelta) -> Position:
        """Implements `EventSink`."""
        assert within > timedelta(0)
        await asyncio.sleep(0)
        if self.is_away:
            raise PublishFailed("the broker is away")
        self.entries.append(entry)
        return Position(0, len(self.entries) - 1)


class LeavesIt:
    """Implements `Announce` as a process that dies after its commit: what was promised stays in the outbox."""

    def __init__(self) -> None:
        self.entries: list[OutboxEntry] = []

    async def __call__(self, entries: Sequence[OutboxEntry], *, within: timedelta) -> Mapping[str, Position]:
        """Implements `Announce`."""
        assert within > timedelta(0)
        self.entries += entries
        return {}


class Drawer:
    """Implements `Mint`: puts parts away under numbers; only the number is in the seal. References count up."""

    def __init__(self, kid: str = "s1", code_kid: str = "c1") -> None:
        self._kid = kid
        self.code_kid = code_kid
        """Names the key of the codes that are minted from now on."""
        self._parts: list[tuple[str, int, Part]] = []
        self.is_locked = False
        """The key of what was sealed is gone."""

    def first(self, challenge_id: str, number: int, part: Part) -> Fresh:
        """Implements `Mint`."""
        self._parts.append((challenge_id, number, part))
        drawn = len(self._parts)
        sealed = SealedPart(self._kid, nonce=drawn.to_bytes(12), ciphertext=b"put away")
        return Fresh(f"R{drawn:04}", self.code_kid, sealed)

    def again(self, challenge: Challenge, number: int) -> Fresh:
        """Implements `Mint`."""
        return self.first(challenge.id, number, self.part(challenge))

    def part(self, challenge: Challenge) -> Part:
        """Implements `Mint`."""
        sealed = challenge.sealed
        if self.is_locked or sealed.kid != self._kid:
            raise KeysUnknown
        place = int.from_bytes(sealed.nonce) - 1
        if sealed.ciphertext != b"put away" or not 0 <= place < len(self._parts):
            raise SealBroken("the seal does not open")
        owner, number, part = self._parts[place]
        if (owner, number) != (challenge.id, challenge.newest.number):
            raise SealBroken("the seal does not open")
        return part


class InMemoryQueue:
    """Implements `Queue`: the test says how far the mailer is in each partition, and how fast."""

    def __init__(self) -> None:
        self.committed: dict[int, int] = {}
        self.partitions: Sequence[int] = ()
        """More that exist: where nothing was committed, the mailer begins at the beginning."""
        self.per_second: float | None = None
        """Letters that leave a partition in a second; none: nobody knows, and only the next has a time."""
        self.is_blind = False
        """The last sample is too old to tell anything."""
        self.waits: list[timedelta] = []
        """Of a letter asked for now, by partition."""
        self.outbox = 0
        """Letters that wait in the outbox, as last told."""
        self.heard: list[datetime] = []
        """When letters were handed over, as told."""

    def outlook(self, position: Position | None, now: datetime) -> Outlook:
        """Implements `Queue`."""
        there = {*self.committed, *self.partitions}
        if position is None or position.offset < 0 or position.partition not in there or self.is_blind:
            return Outlook()
        place = max(0, position.offset - self.committed.get(position.partition, 0))
        if place and self.per_second is None:
            return Outlook(place)
        return Outlook(place, whole_second(now + timedelta(seconds=place / (self.per_second or 1))))

    def load(self, challenge_id: str) -> Load:
        """Implements `Queue`: the test says the wait of each partition, `waits`; else nothing waits."""
        partition = zlib.crc32(challenge_id.encode()) % len(self.waits) if self.waits else 0
        wait = self.waits[partition] if self.waits else timedelta(0)
        return Load(None if self.is_blind else wait, self.outbox, self.per_second, partition)

    def unpublished(self, letters: int) -> None:
        """Implements `Queue`."""
        self.outbox = letters

    def handed_over(self, at: datetime) -> None:
        """Implements `Queue`."""
        self.heard.append(at)
