"""Challenges in Redis: one shard, one slot, one script.

| key | type | what | ends | written by |
|---|---|---|---|---|
| `otp:{s<nn>}:challenge:<id>` | string | a `Challenge`, its `Notes` | an hour after its end | commit, note |
| `otp:{s<nn>}:subject:<hmac>` | string | a `Subject` | with its challenges, or its failures | commit |
| `otp:{s<nn>}:outbox` | stream | events not yet published | when published | commit, published |
| `otp:{s<nn>}:ends` | sorted set | challenge ids, by their end (Unix ms) | when judged | commit, forget_end |
| `otp:{s<nn>}:confirmed` | string | nothing; its write is what replicas must have | after a second | confirm |
| `otp:{claim:<hmac>}` | string | a `Claim` | after 24 h | claim |

How a record lies in its string: `redis_records`. Keys hold HMACs, values hold sealed parts: a dump yields no address
and no code. Hints of changes go over the sharded channel `otp:{s<nn>}:changed` and hold a challenge id.
Scripts: `scripts/load.lua` reads, `commit.lua`, `note.lua` and `published.lua` beside it write; none knows a rule.
What calls need goes in the batches of `redis_calls`; looks at every shard go on connections of their own, so that no
call waits for them. The client's own retries are off: a call answers within a second or raises, and the caller's key
makes its repeat safe.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import time
from typing import Any, TypeVar

import msgspec
from kafka.partitioner.default import murmur2
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig

from services.chassis.redis_commands import Command, Script, Word, alone
from services.chassis.redis_servers import RedisServers
from services.otp.metrics import OtpMetrics
from services.otp.outbound.redis_batches import WAIT_MS, NotReplicated
from services.otp.outbound.redis_calls import WITHIN, RedisCalls
from services.otp.outbound.redis_changes import RedisChanges, hint_channel
from services.otp.outbound.redis_records import (
    DATA_AT,
    POSITION_AT,
    WATCHED_AT,
    notes_of,
    packed_data,
    packed_position,
    packed_version,
    packed_watch,
    unpacked,
)
from services.otp.ports import SHARDS, Changes, Claim, Loaded, OutboxEntry, Position
from services.otp.rules.announcement import Announcement, LetterWanted
from services.otp.rules.challenge import Challenge
from services.otp.rules.code_fate import HandOver, Milestone
from services.otp.rules.generation import CodeFate
from services.otp.rules.subject import Subject

T = TypeVar("T")

SCRIPTS = Path(__file__).with_name("scripts")
CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"
ID_PATTERN = re.compile(r"c([0-9a-f]{2})[0-9a-hjkmnp-tv-z]{26}")  # c, shard, 26 Crockford characters ≥ 128 bits
ID_CHARACTERS = 26
CLAIM_LIFE_MS = 24 * 3_600_000
CONFIRMED_MS = 1_000
OVER_MS = 1  # the earliest end that Redis takes
LETTER_FIELD = b"l"  # of an outbox entry: which letter it queues; the other fields are the event
SOCKET_TIMEOUT_S = 1.0


def redis_client(url: str) -> Redis:
    """Return a client that fails within a second and never repeats by itself."""
    return Redis.from_url(
        url,
        socket_timeout=None,  # a call as a whole is bounded instead, by one timer
        socket_connect_timeout=SOCKET_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
        # With them on, as they are by default, a connection that its server has closed is not noticed before its use.
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
    )


def challenge_key(shard: int, challenge_id: str) -> str:
    """Return the key of a challenge."""
    return f"otp:{{s{shard:02x}}}:challenge:{challenge_id}"


def subject_key(shard: int, key: str) -> str:
    """Return the key of a subject."""
    return f"otp:{{s{shard:02x}}}:subject:{key}"


def outbox_key(shard: int) -> str:
    """Return the key of a shard's outbox."""
    return f"otp:{{s{shard:02x}}}:outbox"


def ends_key(shard: int) -> str:
    """Return the key of the ends of a shard's challenges."""
    return f"otp:{{s{shard:02x}}}:ends"


def confirmed_key(shard: int) -> str:
    """Return the key that is written to find out whether replicas have what a shard had before."""
    return f"otp:{{s{shard:02x}}}:confirmed"


def claim_key(key: str) -> str:
    """Return the key of a claim, in a slot of its own."""
    return f"otp:{{claim:{key}}}"


class RedisChallengeStore:
    """Implements `ChallengeStore`."""

    def __init__(
        self,
        redis: Redis | RedisServers,
        encode: Callable[[Announcement], Mapping[bytes, bytes]],
        metrics: OtpMetrics,
        *,
        changes: RedisChanges | None = None,
        within: timedelta = WITHIN,
        replicas: int = 0,
    ) -> None:
        """Use what `redis_client` makes.

        Args:
            redis: the client of one server, or the servers of many clients.
            encode: turns an event into the fields of an outbox entry.
            metrics: gets times and errors.
            changes: where hints are heard; without it watchers look again by themselves.
            within: how long a call may take.
            replicas: how many replicas must have a commit before it is told.
        """
        self._encode = encode
        self._metrics = metrics
        self._calls = RedisCalls(redis, metrics, within, replicas=replicas)
        self._servers = self._calls.servers
        self._replicas = replicas
        self._changes = changes or RedisChanges(redis)
        self._load = Script((SCRIPTS / "load.lua").read_text())
        self._note = Script((SCRIPTS / "note.lua").read_text())
        self._commit = Script((SCRIPTS / "commit.lua").read_text())
        self._published = Script((SCRIPTS / "published.lua").read_text())

    def mint_id(self, purpose: str, subject: str) -> str:
        """Implements `ChallengeStore`."""
        shard = (murmur2(f"{purpose}\0{subject}".encode()) & 0x7FFFFFFF) % SHARDS
        return f"c{shard:02x}" + "".join(CROCKFORD[octet & 31] for octet in secrets.token_bytes(ID_CHARACTERS))

    def shard_of(self, challenge_id: str) -> int | None:
        """Implements `ChallengeStore`."""
        match = ID_PATTERN.fullmatch(challenge_id)
        return int(match.group(1), 16) if match else None

    async def load(self, shard: int, *, subject_key: str | None = None, challenge_ids: Sequence[str] = ()) -> Loaded:
        """Implements `ChallengeStore`."""
        keys = [challenge_key(shard, challenge_id) for challenge_id in challenge_ids]
        if subject_key is not None:
            keys.append(_subject_key(shard, subject_key))
        seconds, micros, *stored = await self._calls.script("load", self._load, keys)
        known = {name: record for name, record in zip(challenge_ids, stored, strict=False) if record}
        challenges = {name: unpacked(record, Challenge) for name, record in known.items()}
        has_subject = subject_key is not None and stored[-1]
        return Loaded(
            now=datetime.fromtimestamp(int(seconds), UTC) + timedelta(microseconds=int(micros)),
            subject=unpacked(stored[-1], Subject) if has_subject else None,
            challenges=challenges,
            notes={name: notes_of(known[name], each.newest.number) for name, each in challenges.items()},
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
        is_new = challenge is not None and challenge.version == 1
        keys = [outbox_key(shard), ends_key(shard)]
        ends_ms = _milliseconds(challenge.ends_at) if challenge and is_new else ""
        arguments: list[Any] = [challenge.id if challenge else "", hint_channel(shard), ends_ms]
        if challenge is not None:
            keys.append(challenge_key(shard, challenge.id))
            arguments += _written(challenge)
        if subject is not None:
            keys.append(_subject_key(shard, subject.key))
            arguments += _written(subject)
        entries = [(self._encode(each), _letter(each)) for each in announcements]
        for record, letter in entries:
            fields = {**record, LETTER_FIELD: letter.encode()}
            arguments += [2 * len(fields), *(part for pair in fields.items() for part in pair)]
        ids = await self._calls.script("commit", self._commit, keys, arguments, kept=True)
        if ids is None:
            return None
        self._count(announcements, milestones)
        return [OutboxEntry(shard, at.decode(), *entry) for at, entry in zip(ids, entries, strict=True)]

    async def rehearse(self, shard: int, *, challenge: Challenge, subject: Subject) -> None:
        """Implements `ChallengeStore`: the records are written with an end that lies behind."""
        keys = [
            outbox_key(shard),
            ends_key(shard),
            challenge_key(shard, challenge.id),
            _subject_key(shard, subject.key),
        ]
        arguments: list[Any] = [challenge.id, hint_channel(shard), ""]
        for record in (challenge, subject):
            written = _written(record)
            unpacked(bytes(DATA_AT) + bytes(written[2]), type(record))
            arguments += [b"", *written[1:3], OVER_MS]
        rehearsed = self._calls.script("commit", self._commit, keys, arguments, kept=True)
        if self._replicas:  # it leaves nothing that a replica must have, and would be told sooner than a commit
            await asyncio.gather(rehearsed, self.confirm(shard))
        else:
            await rehearsed

    async def confirm(self, shard: int) -> None:
        """Implements `ChallengeStore`: whoever has a later write of the shard has all earlier ones."""
        if self._replicas:
            await self._calls.ask("confirm", "SET", confirmed_key(shard), b"", "PX", CONFIRMED_MS, kept=True)

    def changes(self, challenge_id: str) -> AbstractContextManager[Changes]:
        """Implements `ChallengeStore`."""
        return self._changes.of(challenge_id, self.shard_of(challenge_id))

    async def note_watched(self, challenge_id: str, until: datetime) -> None:
        """Implements `ChallengeStore`."""
        shard = self.shard_of(challenge_id)
        if shard is not None:
            key = challenge_key(shard, challenge_id)
            await self._calls.script("note", self._note, [key], [WATCHED_AT, packed_watch(until)])

    async def claim(self, key: str, claim: Claim) -> Claim:
        """Implements `ChallengeStore`."""
        name, written = claim_key(key), msgspec.msgpack.encode(claim)
        standing = await self._calls.ask("claim", "SET", name, written, "NX", "GET", "PX", CLAIM_LIFE_MS)
        return msgspec.msgpack.decode(standing, type=Claim) if isinstance(standing, bytes) else claim

    async def find_claim(self, key: str) -> Claim | None:
        """Implements `ChallengeStore`."""
        standing = await self._calls.ask("claim", "GET", claim_key(key))
        return msgspec.msgpack.decode(standing, type=Claim) if isinstance(standing, bytes) else None

    async def settle_claim(self, key: str, claim: Claim) -> None:
        """Implements `ChallengeStore`."""
        await self._calls.ask("claim", "SET", claim_key(key), msgspec.msgpack.encode(claim), "XX", "KEEPTTL")

    async def unpublished(self, *, older_than: timedelta, most: int) -> list[OutboxEntry]:
        """Implements `ChallengeStore`."""
        async with self._calls.apart("sweep"):
            last = await self._now_ms() - int(older_than.total_seconds() * 1000)
            shards = await self._of_every_shard(lambda shard: ("XRANGE", outbox_key(shard), "-", last, "COUNT", most))
        found = [_entry(shard, *entry) for shard, entries in enumerate(shards) for entry in entries]
        return sorted(found, key=lambda entry: _age_order(entry.id))[:most]

    async def published(self, entries: Sequence[tuple[OutboxEntry, Position]]) -> None:
        """Implements `ChallengeStore`."""
        await asyncio.gather(*(self._forget(entry, position) for entry, position in entries))

    async def _forget(self, entry: OutboxEntry, position: Position) -> None:
        keys: list[str] = [outbox_key(entry.shard)]
        args: list[Word] = [entry.id]
        if entry.letter:
            challenge_id, _, number = entry.letter.partition(".")
            keys.append(challenge_key(entry.shard, challenge_id))
            args += [POSITION_AT, packed_position(int(number), position)]
        await self._calls.script("published", self._published, keys, args)

    async def outbox_size(self) -> int:
        """Implements `ChallengeStore`."""
        async with self._calls.apart("sweep"):
            return sum(await self._of_every_shard(lambda shard: ("XLEN", outbox_key(shard))))

    async def outbox_oldest(self) -> datetime | None:
        """Implements `ChallengeStore`."""
        async with self._calls.apart("sweep"):
            shards = await self._of_every_shard(lambda shard: ("XRANGE", outbox_key(shard), "-", "+", "COUNT", 1))
        oldest = min((_age_order(entry_id.decode()) for entries in shards for entry_id, _ in entries), default=None)
        return None if oldest is None else datetime.fromtimestamp(oldest[0] / 1000, UTC)

    async def over(self, *, longer_than: timedelta, most: int) -> list[str]:
        """Implements `ChallengeStore`."""
        async with self._calls.apart("sweep"):
            last = await self._now_ms() - int(longer_than.total_seconds() * 1000)
            look = ("-inf", last, "BYSCORE", "LIMIT", 0, most, "WITHSCORES")
            shards = await self._of_every_shard(lambda shard: ("ZRANGE", ends_key(shard), *look))
        found = sorted((ended, challenge_id) for ends in shards for challenge_id, ended in ends)
        return [challenge_id.decode() for _, challenge_id in found[:most]]

    async def forget_end(self, challenge_ids: Sequence[str]) -> None:
        """Implements `ChallengeStore`."""
        shards = [(challenge_id, self.shard_of(challenge_id)) for challenge_id in challenge_ids]
        async with self._calls.apart("sweep"):
            await self._servers.ask_each(
                [("ZREM", ends_key(shard), challenge_id) for challenge_id, shard in shards if shard is not None]
            )

    async def _of_every_shard(self, look: Callable[[int], Command]) -> list[Any]:
        return await self._servers.ask_each([look(shard) for shard in range(SHARDS)])

    async def _now_ms(self) -> int:
        """Return what a server's clock shows; of many servers that of the first, for they differ by milliseconds."""
        seconds, micros = await alone(self._servers.every()[0], ("TIME",))
        self._metrics.store_clock_offset.set(int(seconds) + int(micros) / 1_000_000 - time())
        return int(seconds) * 1000 + int(micros) // 1000

    def _count(self, announcements: Sequence[Announcement], milestones: Sequence[Milestone]) -> None:
        for announcement in announcements:
            if isinstance(announcement, LetterWanted):
                self._metrics.letters.labels(announcement.generation.cause.value).inc()
        for milestone in milestones:
            match milestone:
                case HandOver(is_prompt):
                    self._metrics.hand_overs.labels("yes" if is_prompt else "no").inc()
                case CodeFate():
                    self._metrics.code_fates.labels(milestone.value).inc()

    async def ping(self) -> None:
        """Ask whether the store is there, and as the settings say.

        Raises:
            StoreUnavailable: it is not, or has fewer replicas than are to be waited for.
            WrongServer: it is something else.
        """
        async with self._calls.apart("ping"):
            await self._servers.check()
            for redis in self._servers.every():
                reached = await alone(redis, ("WAIT", self._replicas, WAIT_MS))
                if reached < self._replicas:
                    raise NotReplicated(f"OTP_REDIS_REPLICAS is {self._replicas}, and a server has {reached}")


_subject_key = subject_key  # the methods have an argument of that name


def _letter(announcement: Announcement) -> str:
    if isinstance(announcement, LetterWanted):
        return f"{announcement.challenge.id}.{announcement.generation.number}"
    return ""


def _entry(shard: int, entry_id: bytes, fields: Sequence[bytes]) -> OutboxEntry:
    record = dict(zip(fields[::2], fields[1::2], strict=True))
    letter = record.pop(LETTER_FIELD, b"")
    return OutboxEntry(shard, entry_id.decode(), record, letter.decode())


def _written(record: Challenge | Subject) -> list[bytes | int]:
    return [
        packed_version(record.version - 1),
        packed_version(record.version),
        packed_data(record),
        max(_milliseconds(record.kept_until), OVER_MS),  # an end that lies behind ends the record at once
    ]


def _milliseconds(instant: datetime) -> int:
    return int(instant.timestamp() * 1000)


def _age_order(entry_id: str) -> tuple[int, int]:
    milliseconds, _, serial = entry_id.partition("-")
    return int(milliseconds), int(serial)
