"""Challenge stores under test: a world to act in, and made-up records to put there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Protocol

import pytest
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from services.chassis.redis_servers import ClusterServers, RedisServers, servers_of
from services.otp.metrics import OtpMetrics
from services.otp.outbound.redis_changes import RedisChanges, hint_channel
from services.otp.outbound.redis_store import RedisChallengeStore, redis_client
from services.otp.ports import ChallengeStore, Changes, Claim, Loaded, Notes, OutboxEntry
from services.otp.rules.announcement import Announcement, LetterWanted, WishChanged
from services.otp.rules.challenge import Challenge, Handle, SealedPart, Stall
from services.otp.rules.entry import Answer, Attempt, Entry
from services.otp.rules.generation import Cause, CodeFate, Generation
from services.otp.rules.subject import Subject, Wished
from tests.conditions import eventually
from tests.fakes.otp import InMemoryChallengeStore
from tests.servers.valkey_cluster import ValkeyCluster

PURPOSE = "confirm-email"
SUBJECT_KEY = "ab" * 32
KEPT_AFTER_END = timedelta(hours=1)
MS = timedelta(milliseconds=1)
DATABASE = 9  # nobody else's, and emptied before each test
PATIENT = "socket_timeout=60&socket_connect_timeout=60"  # a busy machine is no fault of the store
HEARD_WITHIN = timedelta(seconds=60)  # far longer than any hint takes: who returns before has heard one


class Server(Protocol):
    """The suite's Redis."""

    @property
    def address(self) -> str:
        """HOST:PORT."""


def encode(announcement: Announcement) -> Mapping[bytes, bytes]:
    """Encode an event as two fields that are no text."""
    name = f"{announcement.challenge.id}.{announcement.generation.number}"
    if isinstance(announcement, WishChanged):
        name += f" {announcement.withdrawn} {announcement.at}"
    return {b"\x00e": name.encode(), b"\xff": b"\x00\xff\r\n"}


def redis_store(redis: Redis | RedisServers, changes: RedisChanges | None = None) -> RedisChallengeStore:
    """Return a store that a busy machine does not turn away."""
    metrics = OtpMetrics(CollectorRegistry(), [])
    return RedisChallengeStore(redis, encode, metrics, changes=changes, within=timedelta(minutes=1))


@asynccontextmanager
async def listening(changes: RedisChanges) -> AsyncIterator[None]:
    """Hear of changes while the context lasts, as `__main__` does while otp serves."""
    listening = asyncio.create_task(changes.listen())
    try:
        yield
    finally:
        listening.cancel()
        with suppress(asyncio.CancelledError):
            await listening


STORES = ("memory", "redis", "cluster")


@asynccontextmanager
async def world_of(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """Return the world of a fixture that has one of `STORES` as its parameter."""
    if request.param == "memory":
        yield World(InMemoryChallengeStore(encode=encode))
        return
    async with AsyncExitStack() as parts:
        servers = [await parts.enter_async_context(empty_redis(request)) for _ in range(2)]
        yield await parts.enter_async_context(world_on(*servers))


@asynccontextmanager
async def empty_redis(request: pytest.FixtureRequest) -> AsyncIterator[RedisServers]:
    """Return the servers of a fixture whose parameter is `redis` or `cluster`, empty, by clients of their own."""
    if request.param == "cluster":
        cluster: ValkeyCluster = request.getfixturevalue("redis_cluster")
        cluster.flush()
        async with ClusterServers(f"{cluster.url}?{PATIENT}", redis_client) as servers:
            await servers.check()
            yield servers
        return
    server: Server = request.getfixturevalue("redis_server")
    async with redis_client(f"redis://{server.address}/{DATABASE}?{PATIENT}") as client:
        await client.flushdb()
        yield servers_of(client)


@asynccontextmanager
async def redis_world(address: str) -> AsyncIterator[World]:
    """Join two stores on one server as two processes have them, each with a client and ears of its own."""
    async with AsyncExitStack() as parts:
        url = f"redis://{address}/{DATABASE}?{PATIENT}"
        clients = [await parts.enter_async_context(redis_client(url)) for _ in range(2)]
        await clients[0].flushdb()
        yield await parts.enter_async_context(world_on(*map(servers_of, clients)))


@asynccontextmanager
async def world_on(*servers: RedisServers) -> AsyncIterator[World]:
    """Join two stores, with ears of their own."""
    async with AsyncExitStack() as parts:
        ears = [RedisChanges(each) for each in servers]
        for each in ears:
            await parts.enter_async_context(listening(each))
        mine, other = (redis_store(each, heard) for each, heard in zip(servers, ears, strict=True))
        yield World(mine, other, redis=servers[0])


class World:
    """A store, the same store as another process sees it, and what a test needs to know of its time."""

    def __init__(
        self, store: ChallengeStore, other: ChallengeStore | None = None, *, redis: Redis | RedisServers | None = None
    ) -> None:
        self.store = store
        self.other = other or store
        self._servers = servers_of(redis) if redis is not None else None

    async def now(self) -> datetime:
        """Return what the store's clock shows."""
        return (await self.store.load(0)).now

    async def pass_by(self, duration: timedelta) -> None:
        """Return when the store's clock shows that much more; a clock that cannot be turned is waited for."""
        until = await self.now() + duration
        if isinstance(self.store, InMemoryChallengeStore):
            self.store.clock.pass_by(duration)

        async def is_there() -> bool:
            return await self.now() >= until

        look: Callable[[], bool | Awaitable[bool]] = is_there
        await eventually(look, within_s=duration.total_seconds() + 10, what="the store's clock")

    async def listened_to(self, challenge: Challenge, *listeners: Changes) -> None:
        """Return when the hints of a challenge's shard arrive here, and these have heard the one that says so.

        One in memory arrives from the start.
        """
        servers, channel = self._servers, hint_channel(self.shard(challenge))
        if servers is None:
            return

        async def is_subscribed() -> bool:
            return dict(await servers.of(channel).pubsub_shardnumsub(channel))[channel.encode()] > 0

        look: Callable[[], bool | Awaitable[bool]] = is_subscribed
        await eventually(look, within_s=10, what="a subscription")
        for each in listeners:
            await heard(each)

    async def challenge(self, subject: str = "citizen-7", **fields: object) -> Challenge:
        """Return a new challenge of a subject, of now."""
        now = await self.now()
        letter = Generation(
            number=1,
            reference="7KQ2M",
            cause=Cause.REQUESTED,
            code_kid="c1",
            made_at=now,
            wanted_until=now + timedelta(minutes=14),
            life=timedelta(minutes=5),
            max_life=timedelta(minutes=10),
        )
        made = Challenge(
            id=self.store.mint_id(PURPOSE, subject),
            version=1,
            purpose=PURPOSE,
            subject_key=SUBJECT_KEY,
            same_wish="5f" * 32,
            locale="vi",
            code_length=6,
            context_sha256=bytes(32),
            sealed=SealedPart("s1", b"n" * 12, b"sealed\x00\xff"),
            made_at=now,
            ends_at=now + timedelta(minutes=30),
            generations=(letter,),
            handles=(Handle("portal", bytes(range(32))),),
        )
        return replace(made, **fields)  # type: ignore[arg-type] # named by each test

    def shard(self, challenge: Challenge) -> int:
        """Return the shard that a challenge's id carries."""
        shard = self.store.shard_of(challenge.id)
        assert shard is not None
        return shard

    async def commit(self, challenge: Challenge, **more: object) -> list[OutboxEntry] | None:
        """Commit a challenge to its shard."""
        return await self.store.commit(self.shard(challenge), challenge=challenge, **more)  # type: ignore[arg-type] # named by each test

    async def told(self, challenge: Challenge, *announcements: Announcement) -> list[OutboxEntry]:
        """Commit a challenge with announcements; return their entries."""
        entries = await self.commit(challenge, announcements=announcements)
        assert entries is not None
        return entries

    async def commit_elsewhere(self, challenge: Challenge) -> None:
        """Let another process commit a challenge."""
        assert await self.other.commit(self.shard(challenge), challenge=challenge) == []

    async def load(self, *challenges: Challenge, subject_key: str | None = None) -> Loaded:
        """Load challenges of one shard."""
        ids = [challenge.id for challenge in challenges]
        return await self.store.load(self.shard(challenges[0]), subject_key=subject_key, challenge_ids=ids)

    async def notes(self, challenge: Challenge) -> Notes:
        """Return what is noted beside a challenge that is there."""
        return (await self.load(challenge)).notes[challenge.id]

    async def queued(self, subject: str = "citizen-7", letters: int = 1) -> list[OutboxEntry]:
        """Commit a new challenge with letters; return their entries."""
        made = await self.challenge(subject)
        return await self.told(made, *[letter_of(made)] * letters)


async def heard(changes: Changes) -> None:
    """Return at a hint; fail when there is none."""
    async with asyncio.timeout(HEARD_WITHIN.total_seconds() / 2):
        await changes.next(within=HEARD_WITHIN)


def letter_of(challenge: Challenge) -> LetterWanted:
    """Return the wish for a challenge's newest letter."""
    return LetterWanted(challenge, challenge.newest)


def withdrawal_of(challenge: Challenge) -> WishChanged:
    """Return the word that a challenge's newest letter is not wanted any more."""
    return WishChanged(challenge, challenge.newest, withdrawn=True, at=challenge.made_at)


def with_second_letter(challenge: Challenge) -> Challenge:
    """Return a challenge, one version on, with another letter."""
    second = replace(challenge.newest, number=challenge.newest.number + 1)
    return replace(challenge, version=challenge.version + 1, generations=(*challenge.generations, second))


def subject_of(challenge: Challenge, version: int = 1, **fields: object) -> Subject:
    """Return a record that names the challenge as its subject's latest."""
    wished = Wished(challenge.same_wish, challenge.id, challenge.kept_until)
    return replace(Subject(challenge.subject_key, version, (wished,)), **fields)  # type: ignore[arg-type] # named by each test


def claim(challenge_id: str = "c00x") -> Claim:
    """Return a made-up claim."""
    return Claim(b"\x00fingerprint\xff", challenge_id, "h1", datetime(2026, 11, 25, 12, 0, 0, 123456, tzinfo=UTC))


INSTANTS = st.datetimes(datetime(2100, 1, 1), datetime(2150, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - bounds are naive by contract
MAYBE_INSTANTS = st.none() | INSTANTS
DURATIONS = st.timedeltas(timedelta(0), timedelta(days=1))
GENERATIONS = st.builds(
    Generation,
    number=st.integers(1, 99),
    made_at=INSTANTS,
    wanted_until=INSTANTS,
    life=DURATIONS,
    max_life=DURATIONS,
    asked_by=st.binary(max_size=16),
    watch_extended=st.booleans(),
    body_started_at=MAYBE_INSTANTS,
    handed_over_at=MAYBE_INSTANTS,
    delivered_at=MAYBE_INSTANTS,
    deferred_at=MAYBE_INSTANTS,
    bounced_at=MAYBE_INSTANTS,
    refused_at=MAYBE_INSTANTS,
    dropped_at=MAYBE_INSTANTS,
    exposed=st.booleans(),
    told_expired=st.booleans(),
    code_fate=st.none() | st.sampled_from(CodeFate),
)
HANDLES = st.builds(Handle, attempts=st.integers(0, 99), joined=st.booleans(), cancelled=st.booleans())
ANSWERS = st.builds(Answer, attempts_left=st.integers(0, 9), at=MAYBE_INSTANTS, reference=st.text(max_size=5))
ATTEMPTS = st.builds(Attempt, counted_at=INSTANTS, row_before=MAYBE_INSTANTS)
ENTRIES = st.builds(Entry, attempt=ATTEMPTS, answer=st.none() | ANSWERS)
CHALLENGES = st.builds(
    Challenge,
    id=st.just("set by the test"),
    version=st.just(1),
    subject_key=st.just(SUBJECT_KEY),
    code_length=st.integers(0, 18),
    made_at=INSTANTS,
    ends_at=INSTANTS,
    generations=st.lists(GENERATIONS, min_size=1, max_size=3).map(tuple),
    handles=st.lists(HANDLES, max_size=4).map(tuple),
    entries=st.lists(ENTRIES, max_size=2).map(tuple),
    attempts=st.integers(0, 99),
    verified_at=MAYBE_INSTANTS,
    stalled=st.none() | st.sampled_from(Stall),
)
SUBJECTS = st.builds(
    Subject,
    key=st.just(SUBJECT_KEY),
    version=st.just(1),
    wishes=st.lists(st.builds(Wished, kept_until=INSTANTS), min_size=1, max_size=4).map(tuple),
    failures=st.integers(0, 200),
    counted_at=MAYBE_INSTANTS,
)
