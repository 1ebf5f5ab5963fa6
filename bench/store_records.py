"""Records that a run needs and that calls alone would take too long to make, written by otp's own store adapter.

Records of real calls are the patterns, so that what is made here has every field that the service writes, whatever its
version: only ids, hashes and what is sealed are drawn anew, each as long as the real one.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TypeVar

import msgspec
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from services.chassis.keyring import PSEUDONYM_OCTETS
from services.otp.metrics import OtpMetrics
from services.otp.outbound.kafka_events import KafkaEncoder
from services.otp.outbound.redis_store import RedisChallengeStore, claim_key, redis_client, subject_key
from services.otp.outbound.yaml_policy import read_policy
from services.otp.ports import Claim, Position
from services.otp.rules.announcement import LetterWanted
from services.otp.rules.challenge import Challenge
from services.otp.rules.subject import Subject
from services.otp.settings import PACKAGED_POLICY

T = TypeVar("T")

AT_ONCE = 16
PATIENCE = timedelta(seconds=60)  # for a turn at the store: it is meant to be busy here
HMAC_OCTETS = 32


@dataclass(frozen=True, slots=True)
class _Pattern:
    """What one real call left in the store."""

    challenge: Challenge
    subject: Subject
    claim: Claim


async def with_second_generations(url: str, challenge_ids: Iterable[str]) -> None:
    """Give each challenge a second generation, both handed over and alive: the most that a guess is compared with."""
    async with _store_at(url) as (_, store):

        async def add(challenge_id: str) -> None:
            challenge = await _challenge(store, challenge_id)
            first = replace(challenge.newest, handed_over_at=challenge.made_at, body_started_at=challenge.made_at)
            generations = (first, replace(first, number=2))
            changed = replace(challenge, version=challenge.version + 1, generations=generations)
            await store.commit(_shard(challenge_id), challenge=changed)

        await _some_at_a_time(add, challenge_ids)


async def octets_per_challenge(url: str, count: int) -> float:
    """Return the octets of Redis memory that each of `count` live challenges takes: its record, subject and claim.

    Their events pass through the outbox and leave it, as they do when they are published. The challenges stay until
    they end. Real calls must have been made before, for patterns; no other content may change meanwhile.
    """
    async with _store_at(url) as (redis, store):
        pattern = await _pattern(redis, store)
        before = await _used(redis)
        await _some_at_a_time(lambda number: _live(store, pattern, number), range(count))
        return (await _used(redis) - before) / count


async def used_octets(url: str) -> int:
    """Return the octets that the server has allocated."""
    async with redis_client(url) as redis:
        return await _used(redis)


async def server_version(url: str) -> str:
    """Return the name and version of the server."""
    async with redis_client(url) as redis:
        told = await redis.info("server")
    return f"{told.get('server_name', 'redis')} {told.get('valkey_version', told['redis_version'])}"


async def _used(redis: Redis) -> int:
    return int((await redis.info("memory"))["used_memory"])


@asynccontextmanager
async def _store_at(url: str) -> AsyncIterator[tuple[Redis, RedisChallengeStore]]:
    async with redis_client(url) as redis:
        metrics = OtpMetrics(CollectorRegistry(), [])
        yield redis, RedisChallengeStore(redis, KafkaEncoder(read_policy(PACKAGED_POLICY)), metrics, within=PATIENCE)


async def _pattern(redis: Redis, store: RedisChallengeStore) -> _Pattern:
    async for found in redis.scan_iter(match=claim_key("*")):
        stored = await redis.get(found)
        if not isinstance(stored, bytes):
            continue  # it has ended meanwhile
        claim = msgspec.msgpack.decode(stored, type=Claim)
        shard = _shard(claim.challenge_id)
        async for named in redis.scan_iter(match=subject_key(shard, "*")):
            subject = (await store.load(shard, subject_key=named.decode().rpartition(":")[2])).subject
            if subject is not None and subject.latest_id == claim.challenge_id:
                return _Pattern(await _challenge(store, claim.challenge_id), subject, claim)
    raise LookupError("no call has been made yet")


async def _challenge(store: RedisChallengeStore, challenge_id: str) -> Challenge:
    return (await store.load(_shard(challenge_id), challenge_ids=[challenge_id])).challenges[challenge_id]


def _shard(challenge_id: str) -> int:
    return int(challenge_id[1:3], 16)


async def _live(store: RedisChallengeStore, pattern: _Pattern, number: int) -> None:
    """Write what RequestCode writes: the claim, then challenge, subject and event in one commit; then publish it."""
    challenge_id = store.mint_id(pattern.challenge.purpose, f"live-{number}")
    fingerprint = secrets.token_bytes(len(pattern.claim.fingerprint))
    claim = replace(pattern.claim, challenge_id=challenge_id, fingerprint=fingerprint)
    await store.claim(secrets.token_hex(PSEUDONYM_OCTETS), claim)
    sealed = replace(
        pattern.challenge.sealed,
        nonce=secrets.token_bytes(len(pattern.challenge.sealed.nonce)),
        ciphertext=secrets.token_bytes(len(pattern.challenge.sealed.ciphertext)),
    )
    handle = replace(pattern.challenge.handles[0], attempts=0, secret_sha256=secrets.token_bytes(HMAC_OCTETS))
    challenge = replace(
        pattern.challenge,
        id=challenge_id,
        version=1,
        subject_key=secrets.token_hex(PSEUDONYM_OCTETS),
        same_wish=secrets.token_hex(PSEUDONYM_OCTETS),
        sealed=sealed,
        generations=pattern.challenge.generations[:1],
        handles=(handle,),
        attempts=0,
        verified_at=None,
    )
    subject = Subject(challenge.subject_key, version=0).with_challenge(challenge)
    queued = [LetterWanted(challenge, challenge.newest)]
    shard = _shard(challenge_id)
    entries = await store.commit(shard, challenge=challenge, subject=subject, announcements=queued)
    await store.published([(entry, Position(0, number)) for entry in entries or ()])


async def _some_at_a_time(work: Callable[[T], Awaitable[None]], of: Iterable[T]) -> None:
    waiting = iter(of)

    async def one_after_another() -> None:
        for what in waiting:
            await work(what)

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(one_after_another())
