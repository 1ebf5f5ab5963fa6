"""What only the challenge store on Redis can break: ends of keys, slots, and a server that is away, slow or full."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from deploy.dev.valkey_server import ValkeyServer
from services.otp.metrics import OtpMetrics
from services.otp.outbound.redis_calls import APART_AT_ONCE
from services.otp.outbound.redis_store import (
    RedisChallengeStore,
    challenge_key,
    claim_key,
    outbox_key,
    redis_client,
    subject_key,
)
from services.otp.ports import Notes, OutboxEntry, Position, StoreUnavailable
from services.otp.rules.code_fate import HandOver
from services.otp.rules.generation import CodeFate
from services.otp.rules.subject import ROW_KEPT
from tests.contract.challenge_stores import (
    DATABASE,
    PATIENT,
    PURPOSE,
    SUBJECT_KEY,
    Server,
    World,
    claim,
    encode,
    letter_of,
    redis_store,
    subject_of,
)
from tests.fakes.clock import NOON

HOUR, DAY = timedelta(hours=1), timedelta(hours=24)
TOLERANCE_MS = 5_000  # between the commit and our look at its end
STANDS = Position(3, 41)


@pytest.fixture
async def redis(redis_server: Server) -> AsyncIterator[Redis]:
    """A client of the suite's server, on a database that is empty."""
    async with redis_client(f"redis://{redis_server.address}/{DATABASE}?{PATIENT}") as client:
        await client.flushdb()
        yield client


@pytest.fixture
def world(redis: Redis) -> World:
    """The store on it."""
    return World(redis_store(redis))


def _ms(instant: datetime) -> int:
    return int(instant.timestamp() * 1000)


async def test_each_record_ends_when_it_says_and_the_outbox_never(redis: Redis, world: World) -> None:
    made = await world.challenge()
    shard = world.shard(made)
    for version, failures in ((1, 0), (2, 1)):  # a row of failures outlives the challenge
        subject = subject_of(made, version, failures=failures, counted_at=made.made_at)
        await world.commit(replace(made, version=version), subject=subject, announcements=[letter_of(made)])

        assert await redis.pexpiretime(challenge_key(shard, made.id)) == _ms(made.ends_at + HOUR)
        ends = made.made_at + ROW_KEPT if failures else made.ends_at + HOUR
        assert await redis.pexpiretime(subject_key(shard, SUBJECT_KEY)) == _ms(ends) == _ms(subject.kept_until)
        assert await redis.pttl(outbox_key(shard)) == -1


async def test_notes_move_no_end_and_make_no_key(redis: Redis, world: World) -> None:
    made = await world.challenge()
    (letter,) = await world.told(made, letter_of(made))
    gone = replace(letter, letter=f"{world.store.mint_id(PURPOSE, 'citizen-7')}.1")
    keys = await redis.keys()
    before = await redis.pexpiretime(challenge_key(world.shard(made), made.id))

    await world.store.note_watched(made.id, made.ends_at)
    await world.store.note_watched(gone.letter.partition(".")[0], made.ends_at)
    for entry in (gone, letter):
        await world.store.published([(replace(entry, id="1-0"), STANDS)])

    assert await redis.pexpiretime(challenge_key(world.shard(made), made.id)) == before
    assert sorted(await redis.keys()) == sorted(keys)


async def test_a_later_commit_keeps_the_end(redis: Redis, world: World) -> None:
    made = await world.challenge()
    await world.commit(made)
    before = await redis.pexpiretime(challenge_key(world.shard(made), made.id))

    await world.commit(replace(made, version=2))

    assert await redis.pexpiretime(challenge_key(world.shard(made), made.id)) == before


async def test_a_claim_ends_after_24_hours_and_neither_a_repeat_nor_settling_moves_that(
    redis: Redis, world: World
) -> None:
    await world.store.claim("key", claim("c00a"))
    ends = await redis.pexpiretime(claim_key("key"))
    assert DAY.total_seconds() * 1000 - TOLERANCE_MS < await redis.pttl(claim_key("key")) <= DAY.total_seconds() * 1000

    await world.store.claim("key", claim("c00b"))
    await world.store.settle_claim("key", claim("c00b"))

    assert await redis.pexpiretime(claim_key("key")) == ends


async def test_a_claim_that_ended_is_not_brought_back_by_settling_it(redis: Redis, world: World) -> None:
    await world.store.claim("key", claim("c00a"))
    await redis.delete(claim_key("key"))

    await world.store.settle_claim("key", claim("c00b"))

    assert await redis.exists(claim_key("key")) == 0


def test_the_shard_of_a_subject_is_the_one_of_yesterday(world: World) -> None:
    """A changed hash would look for every stored challenge in the wrong place."""
    expected = {"citizen-7": "d5", "Nguyễn Thị Lan": "e3", "": "5b"}

    assert {subject: world.store.mint_id(PURPOSE, subject)[1:3] for subject in expected} == expected


async def test_a_server_that_forgot_its_scripts_is_taught_them_again(redis: Redis, world: World) -> None:
    made = await world.challenge()
    await world.commit(made)

    await redis.script_flush()

    assert (await world.load(made)).challenges == {made.id: made}
    await redis.script_flush()
    (letter,) = await world.told(replace(made, version=2), letter_of(made))
    await redis.script_flush()
    await world.store.published([(letter, STANDS)])
    await redis.script_flush()
    await world.store.note_watched(made.id, NOON)
    assert await world.notes(made) == Notes(NOON, STANDS)


class Rig:
    """A store whose server a test may stop, and one call of each of its methods."""

    def __init__(self, url: str) -> None:
        self.registry = CollectorRegistry()
        self.redis = redis_client(url)
        self.store = RedisChallengeStore(self.redis, encode, OtpMetrics(self.registry, []))
        self.world = World(self.store)

    def calls(self) -> dict[str, Callable[[], Awaitable[object]]]:
        """Return a call of each method, by name."""
        store, entry = self.store, OutboxEntry(0, "1-0", {})
        return {
            "load": lambda: store.load(0, subject_key=SUBJECT_KEY, challenge_ids=["c00x"]),
            "note_watched": lambda: store.note_watched(store.mint_id(PURPOSE, "citizen-7"), NOON),
            "claim": lambda: store.claim("key", claim()),
            "find_claim": lambda: store.find_claim("key"),
            "settle_claim": lambda: store.settle_claim("key", claim()),
            "unpublished": lambda: store.unpublished(older_than=timedelta(0), most=9),
            "published": lambda: store.published([(entry, STANDS)]),
            "outbox_size": store.outbox_size,
            "outbox_oldest": store.outbox_oldest,
            "over": lambda: store.over(longer_than=timedelta(0), most=9),
            "forget_end": lambda: store.forget_end([store.mint_id(PURPOSE, "citizen-7")]),
            "ping": store.ping,
        }

    def errors(self) -> float:
        """Return how many failed calls were counted."""
        return self.registry.get_sample_value("redis_client_errors_total") or 0


async def _seconds_until_unavailable(call: Callable[[], Awaitable[object]]) -> float:
    started = time.monotonic()
    with pytest.raises(StoreUnavailable):
        await call()
    return time.monotonic() - started


@contextmanager
def _paused(server: ValkeyServer) -> Iterator[None]:
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """A server that tests may pause; each leaves it running."""
    server = ValkeyServer(tmp_path_factory.mktemp("own-redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def rig(own_server: ValkeyServer) -> AsyncIterator[Rig]:
    """A store on the server that may be paused, connected, with one challenge in it."""
    made = Rig(own_server.url)
    await made.redis.flushall()
    yield made
    await made.redis.aclose()


async def test_without_a_server_every_method_says_so_at_once() -> None:
    with socket.socket() as taken:  # bound and never listening: nobody else gets the port meanwhile
        taken.bind(("127.0.0.1", 0))
        rig = Rig(f"redis://127.0.0.1:{taken.getsockname()[1]}/0")

        took = {name: await _seconds_until_unavailable(call) for name, call in rig.calls().items()}

    assert max(took.values()) < 1.5, took
    assert rig.errors() == len(took)
    await rig.redis.aclose()


async def test_a_server_that_answers_no_more_is_unavailable_within_a_second_or_so(
    rig: Rig, own_server: ValkeyServer
) -> None:
    made = await rig.world.challenge()
    calls = {**rig.calls(), "commit": lambda: rig.world.commit(made)}
    await asyncio.gather(*(call() for call in rig.calls().values()))  # connections that the pause finds open

    with _paused(own_server):
        took = dict(
            zip(
                calls, await asyncio.gather(*(_seconds_until_unavailable(call) for call in calls.values())), strict=True
            )
        )

    assert all(0.5 < seconds < 3 for seconds in took.values()), took


async def test_after_a_pause_answers_belong_to_their_questions_again(rig: Rig, own_server: ValkeyServer) -> None:
    made = [await rig.world.challenge(f"citizen-{number}") for number in range(8)]
    for one in made:
        await rig.world.commit(one)
    with _paused(own_server):
        await asyncio.gather(*(_seconds_until_unavailable(partial(rig.world.load, one)) for one in made))

    for _ in range(3):
        loaded = await asyncio.gather(*(rig.world.load(one) for one in made))

        assert [one.challenges for one in loaded] == [{one.id: one} for one in made]


async def test_a_call_that_was_cancelled_leaves_no_answer_to_the_next(rig: Rig, own_server: ValkeyServer) -> None:
    """A caller's deadline cancels calls in the middle; the late answer must not be taken for another's."""
    made = [await rig.world.challenge(f"citizen-{number}") for number in range(8)]
    for one in made:
        await rig.world.commit(one)
    with _paused(own_server):
        for one in made:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.03):
                    await rig.world.load(one)

    for one in made:
        assert (await rig.world.load(one)).challenges == {one.id: one}


async def test_cancelled_calls_give_their_turns_back(rig: Rig, own_server: ValkeyServer) -> None:
    made = await rig.world.challenge()
    with _paused(own_server):
        calls = [asyncio.create_task(rig.world.load(made)) for _ in range(100)]
        await asyncio.sleep(0)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)

    loaded = await asyncio.gather(*(rig.world.load(made) for _ in range(40)))

    assert len(loaded) == 40


async def test_a_crowd_that_waits_its_turn_is_no_server_that_is_away(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    within = timedelta(seconds=3)
    store = RedisChallengeStore(rig.redis, encode, OtpMetrics(CollectorRegistry(), []), within=within)
    connect = rig.redis.connection_pool.get_connection

    async def slowly() -> Any:
        await asyncio.sleep(0.6 * within.total_seconds())
        return await connect()  # type: ignore[no-untyped-call]

    monkeypatch.setattr(rig.redis.connection_pool, "get_connection", slowly)
    started = time.monotonic()

    await asyncio.gather(*(store.outbox_size() for _ in range(2 * APART_AT_ONCE)))

    assert time.monotonic() - started > within.total_seconds(), "the second half waited and was answered"


async def test_milestones_are_counted_once_by_who_committed(rig: Rig) -> None:
    made = await rig.world.challenge()
    reached = [HandOver(is_prompt=True), CodeFate.LATE]

    for _ in range(2):  # the second loses its race
        await rig.world.commit(made, milestones=reached)

    assert rig.registry.get_sample_value("otp_hand_overs_total", {"prompt": "yes"}) == 1
    assert rig.registry.get_sample_value("otp_hand_overs_total", {"prompt": "no"}) == 0
    assert rig.registry.get_sample_value("otp_code_fates_total", {"fate": "late"}) == 1
    assert rig.registry.get_sample_value("otp_code_fates_total", {"fate": "in_time"}) == 0


async def test_the_offset_of_the_stores_clock_is_measured(rig: Rig) -> None:
    rig.store._metrics.store_clock_offset.set(99)  # noqa: SLF001 - what a test sees that nobody measured

    await rig.store.unpublished(older_than=timedelta(0), most=1)

    assert abs(rig.registry.get_sample_value("otp_store_clock_offset_seconds") or 0) < 1


async def test_a_commit_whose_answer_was_lost_is_found_by_the_repeat(rig: Rig, own_server: ValkeyServer) -> None:
    made = await rig.world.challenge()
    letter = letter_of(made)
    with _paused(own_server), pytest.raises(StoreUnavailable):
        await rig.world.commit(made, announcements=[letter])  # it lies in the server's socket and will be carried out

    assert await rig.world.commit(made, announcements=[letter]) is None
    assert await rig.store.outbox_size() == 1


async def test_a_full_server_refuses_a_commit_whole(rig: Rig) -> None:
    made = await rig.world.challenge()
    await rig.redis.config_set("maxmemory", 1)
    try:
        with pytest.raises(StoreUnavailable):
            await rig.world.commit(made, subject=subject_of(made), announcements=[letter_of(made)])
    finally:
        await rig.redis.config_set("maxmemory", "512mb")

    assert [key async for key in rig.redis.scan_iter()] == []


async def test_what_was_committed_survives_a_kill_of_the_server_within_its_sync(tmp_path: Path) -> None:
    server = ValkeyServer(tmp_path)
    server.start()
    try:
        rig = Rig(server.url)
        await rig.redis.config_set("appendfsync", "always")
        made = await rig.world.challenge()
        await rig.world.commit(made, subject=subject_of(made), announcements=[letter_of(made)])
        server.kill()
        await _seconds_until_unavailable(rig.store.ping)
        server.start()

        loaded = await rig.world.load(made, subject_key=SUBJECT_KEY)

        assert (loaded.subject, loaded.challenges) == (subject_of(made), {made.id: made})
        assert await rig.store.outbox_size() == 1
        await rig.redis.aclose()
    finally:
        server.stop()
