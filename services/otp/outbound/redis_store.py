"""Challenges in Redis: one shard, one slot, one script.

| key | type | what | ends | written by |
|---|---|---|---|---|
| `otp:{s<nn>}:challenge:<id>` | hash v, d | a `Challenge` | an hour after its end | commit |
| `otp:{s<nn>}:subject:<hmac>` | hash v, d | a `Subject` | with its challenge | commit |
| `otp:{s<nn>}:outbox` | stream | events not yet published | when published | commit, published |
| `otp:{claim:<hmac>}` | string | a `Claim` | after 24 h | claim |

`v` is the version, `d` MessagePack of the dataclass. Keys hold HMACs, values hold sealed parts: a dump yields no
address and no code.
Scripts: `scripts/load.lua` reads, `scripts/commit.lua` writes; neither knows a rule. The client's own retries are off:
a call answers within the socket timeout or raises, and the caller's key makes its repeat safe.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import msgspec
from kafka.partitioner.default import murmur2
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from services.otp.metrics import OtpMetrics
from services.otp.ports import SHARDS, Claim, LetterWanted, Loaded, OutboxEntry, StoreUnavailable
from services.otp.rules.challenge import Challenge
from services.otp.rules.request import Subject

T = TypeVar("T")

SCRIPTS = Path(__file__).with_name("scripts")
CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"
ID_PATTERN = re.compile(r"c([0-9a-f]{2})[0-9a-hjkmnp-tv-z]{26}")  # c, shard, 26 Crockford characters ≥ 128 bits
ID_CHARACTERS = 26
CLAIM_LIFE = timedelta(hours=24)
KEPT_AFTER_END = timedelta(hours=1)  # so that a code typed long after is told "too late", not "never heard of it"
SOCKET_TIMEOUT_S = 1.0
CALLS_AT_ONCE = 32  # each holds a connection; a crowd beyond waits its turn for milliseconds and is not turned away
TURN_WITHIN = timedelta(seconds=1)


def redis_client(url: str) -> Redis:
    """Return a client that fails within a second and never repeats by itself."""
    return Redis.from_url(
        url,
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=SOCKET_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
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


def claim_key(key: str) -> str:
    """Return the key of a claim, in a slot of its own."""
    return f"otp:{{claim:{key}}}"


class RedisChallengeStore:
    """Implements `ChallengeStore`."""

    def __init__(
        self,
        redis: Redis,
        encode: Callable[[LetterWanted], Mapping[bytes, bytes]],
        metrics: OtpMetrics,
        *,
        turn_within: timedelta = TURN_WITHIN,
    ) -> None:
        """Use a client made by `redis_client`.

        Args:
            redis: the client.
            encode: turns an event into the fields of an outbox entry.
            metrics: gets times and errors.
            turn_within: how long a call waits for its turn before the store counts as unavailable.
        """
        self._redis = redis
        self._encode = encode
        self._metrics = metrics
        self._room = asyncio.Semaphore(CALLS_AT_ONCE)
        self._turn_within = turn_within
        self._load = redis.register_script((SCRIPTS / "load.lua").read_text())
        self._commit = redis.register_script((SCRIPTS / "commit.lua").read_text())

    def mint_id(self, purpose: str, subject: str) -> str:
        """Implements `ChallengeStore`."""
        shard = (murmur2(f"{purpose}\0{subject}".encode()) & 0x7FFFFFFF) % SHARDS
        return f"c{shard:02x}" + "".join(secrets.choice(CROCKFORD) for _ in range(ID_CHARACTERS))

    def shard_of(self, challenge_id: str) -> int | None:
        """Implements `ChallengeStore`."""
        match = ID_PATTERN.fullmatch(challenge_id)
        return int(match.group(1), 16) if match else None

    async def load(self, shard: int, *, subject_key: str | None = None, challenge_ids: Sequence[str] = ()) -> Loaded:
        """Implements `ChallengeStore`."""
        keys = [_subject_key(shard, subject_key)] if subject_key is not None else []
        keys += [challenge_key(shard, challenge_id) for challenge_id in challenge_ids]
        async with self._call("load"):
            seconds, micros, *records = await self._load(keys=keys)
        data = [bytes(d) if d else None for d in records[1::2]]
        subject = msgspec.msgpack.decode(data[0], type=Subject) if subject_key is not None and data[0] else None
        found = data[1:] if subject_key is not None else data
        return Loaded(
            now=datetime.fromtimestamp(int(seconds), UTC) + timedelta(microseconds=int(micros)),
            subject=subject,
            challenges={
                challenge_id: msgspec.msgpack.decode(packed, type=Challenge)
                for challenge_id, packed in zip(challenge_ids, found, strict=True)
                if packed
            },
        )

    async def commit(
        self, shard: int, *, challenge: Challenge, subject: Subject | None = None, letters: Sequence[LetterWanted] = ()
    ) -> list[OutboxEntry] | None:
        """Implements `ChallengeStore`."""
        expires = _unix_ms(challenge.ends_at + KEPT_AFTER_END)
        keys = [outbox_key(shard), challenge_key(shard, challenge.id)]
        arguments: list[Any] = [challenge.version, msgspec.msgpack.encode(challenge), expires]
        if subject is not None:
            keys.append(_subject_key(shard, subject.key))
            arguments += [subject.version, msgspec.msgpack.encode(subject), expires]
        entries = [self._encode(letter) for letter in letters]
        for entry in entries:
            arguments += [2 * len(entry), *(part for pair in entry.items() for part in pair)]
        async with self._call("commit"):
            ids = await self._commit(keys=keys, args=arguments)
        if ids is None:
            return None
        return [OutboxEntry(shard, id_.decode(), entry) for id_, entry in zip(ids, entries, strict=True)]

    async def claim(self, key: str, claim: Claim) -> Claim:
        """Implements `ChallengeStore`."""
        async with self._call("claim"):
            standing = await self._redis.set(
                claim_key(key), msgspec.msgpack.encode(claim), nx=True, px=CLAIM_LIFE, get=True
            )
        return msgspec.msgpack.decode(standing, type=Claim) if isinstance(standing, bytes) else claim

    async def settle_claim(self, key: str, claim: Claim) -> None:
        """Implements `ChallengeStore`."""
        async with self._call("claim"):
            await self._redis.set(claim_key(key), msgspec.msgpack.encode(claim), xx=True, keepttl=True)

    async def unpublished(self, *, older_than: timedelta, most: int) -> list[OutboxEntry]:
        """Implements `ChallengeStore`."""
        async with self._call("sweep"):
            seconds, micros = await self._redis.time()
            last = int(seconds) * 1000 + int(micros) // 1000 - int(older_than.total_seconds() * 1000)
            pipeline = self._redis.pipeline(transaction=False)
            for shard in range(SHARDS):
                pipeline.xrange(outbox_key(shard), "-", str(last), count=most)
            shards = await pipeline.execute()
        found = [
            OutboxEntry(shard, id_.decode(), record) for shard, entries in enumerate(shards) for id_, record in entries
        ]
        return sorted(found, key=lambda entry: _age_order(entry.id))[:most]

    async def published(self, entry: OutboxEntry) -> None:
        """Implements `ChallengeStore`."""
        async with self._call("sweep"):
            await self._redis.xdel(outbox_key(entry.shard), entry.id)

    async def outbox_size(self) -> int:
        """Implements `ChallengeStore`."""
        async with self._call("sweep"):
            pipeline = self._redis.pipeline(transaction=False)
            for shard in range(SHARDS):
                pipeline.xlen(outbox_key(shard))
            return sum(await pipeline.execute())

    async def ping(self) -> None:
        """Ask whether the store is there; raises `StoreUnavailable`."""
        async with self._call("ping"):
            await self._redis.time()

    @asynccontextmanager
    async def _call(self, command_class: str) -> AsyncIterator[None]:
        started = perf_counter()
        try:
            async with asyncio.timeout(self._turn_within.total_seconds()):
                await self._room.acquire()
            try:
                yield
            finally:
                self._room.release()
        except (RedisError, OSError, TimeoutError) as error:
            self._metrics.redis_errors.inc()
            raise StoreUnavailable from error
        finally:
            self._metrics.redis_seconds.labels(command_class).observe(perf_counter() - started)


_subject_key = subject_key  # the methods have an argument of that name


def _age_order(entry_id: str) -> tuple[int, int]:
    milliseconds, _, serial = entry_id.partition("-")
    return int(milliseconds), int(serial)


def _unix_ms(instant: datetime) -> int:
    return int(instant.timestamp() * 1000)
