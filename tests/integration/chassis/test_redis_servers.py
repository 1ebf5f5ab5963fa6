"""Where keys are, on a real cluster: slots that move, servers that are away, and servers that are something else."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from pydantic import SecretStr
from pydantic_settings import SettingsConfigDict
from redis.asyncio import Redis
from redis.exceptions import AskError, RedisError

from deploy.dev.ports import FreePort
from services.chassis.redis_commands import Script, alone
from services.chassis.redis_servers import ELSEWHERE_WITHIN, MOST_HOPS, ClusterServers, redis_servers
from services.chassis.settings import Profile, RedisSettings
from tests.conditions import eventually
from tests.servers.valkey_cluster import ClusterNode, Move, ValkeyCluster

TAG = "{moving}"
BOTH = Script("return redis.call('MGET', KEYS[1], KEYS[2])")
COUNT = Script("return redis.call('INCR', KEYS[1])")
SOON_S = 1.0


class TinySettings(RedisSettings):
    """A made-up service."""

    model_config = SettingsConfigDict(env_prefix="TINY_")


def connect(url: str) -> Redis:
    return Redis.from_url(url, socket_connect_timeout=SOON_S)


@pytest.fixture
async def servers(redis_cluster: ValkeyCluster) -> AsyncIterator[ClusterServers]:
    """Servers that have seen the map, of an empty cluster."""
    redis_cluster.flush()
    async with ClusterServers(redis_cluster.url, connect) as made:
        await made.check()
        yield made


@pytest.fixture
def move(redis_cluster: ValkeyCluster) -> Iterator[Move]:
    """The slot of `TAG`, to the next node; it goes back afterwards."""
    with redis_cluster.moving(TAG) as made:
        yield made


def is_at(redis: Redis, node: ClusterNode) -> bool:
    return int(redis.connection_pool.connection_kwargs["port"]) == node.port("redis")


async def test_keys_are_spread_over_all_servers_and_found_again(
    servers: ClusterServers, redis_cluster: ValkeyCluster
) -> None:
    keys = [f"key:{number}" for number in range(100)]

    await servers.ask_each([("SET", key, key) for key in keys])

    assert await servers.ask_each([("GET", key) for key in keys]) == [key.encode() for key in keys]
    sizes = [int(node.ask("DBSIZE")) for node in redis_cluster.primaries()]
    assert sum(sizes) == 100
    assert min(sizes) > 10


async def test_while_a_slot_moves_each_key_is_found_where_it_is(servers: ClusterServers, move: Move) -> None:
    await servers.ask_each([("SET", f"{TAG}{number}", number) for number in range(40)])
    move.begin()
    move.take(*(f"{TAG}{number}" for number in range(20)))

    found = await asyncio.gather(*(servers.ask("GET", f"{TAG}{number}") for number in range(40)))
    together = await servers.ask_each([("GET", f"{TAG}{number}") for number in range(40)])
    counted = await asyncio.gather(*(servers.run(COUNT, [f"{TAG}new"]) for _ in range(20)))

    assert found == together == [str(number).encode() for number in range(40)]
    assert sorted(counted) == list(range(1, 21))
    assert move.target.ask("CLUSTER", "COUNTKEYSINSLOT", move.slot) == 21, "a new key is made where the slot goes"
    assert is_at(servers.of(TAG), move.source), "the slot has not moved yet"


async def test_a_slot_that_has_moved_is_asked_for_once_at_its_old_server(servers: ClusterServers, move: Move) -> None:
    await servers.ask("SET", f"{TAG}a", "kept")
    move.begin()
    move.end()
    assert is_at(servers.of(TAG), move.source), "nobody has told"
    before = move.source.refusals("MOVED")

    told = [await servers.ask("GET", f"{TAG}a") for _ in range(10)]

    assert told == [b"kept"] * 10
    assert is_at(servers.of(TAG), move.target)
    assert move.source.refusals("MOVED") == before + 1


async def test_servers_that_send_a_call_in_a_circle_are_asked_a_few_times(servers: ClusterServers, move: Move) -> None:
    target_id = move.target.ask("CLUSTER", "MYID").decode()
    move.source.ask("CLUSTER", "SETSLOT", move.slot, "MIGRATING", target_id)  # and the target knows of nothing
    before = move.source.refusals("ASK")

    with pytest.raises(AskError):
        await servers.ask("GET", f"{TAG}new")

    assert 0 < move.source.refusals("ASK") - before <= MOST_HOPS


async def test_a_script_over_keys_on_two_servers_is_tried_until_they_are_on_one_and_not_for_ever(
    servers: ClusterServers, move: Move
) -> None:
    keys = [f"{TAG}a", f"{TAG}b"]
    await servers.ask_each([("SET", key, key) for key in keys])
    move.begin()
    move.take(keys[0])

    started = time.monotonic()
    with pytest.raises(TimeoutError):
        await servers.run(BOTH, keys)
    assert time.monotonic() - started < ELSEWHERE_WITHIN.total_seconds() + SOON_S

    before = move.source.refusals("TRYAGAIN")
    assert before > 1
    waiting = asyncio.create_task(servers.run(BOTH, keys))
    await eventually(lambda: move.source.refusals("TRYAGAIN") > before, what="one more of them")
    move.take(keys[1])
    assert await waiting == [key.encode() for key in keys]


@pytest.mark.parametrize("look", [lambda servers: servers.every(), lambda servers: servers.of("a")])
async def test_who_knows_one_node_that_is_away_finds_the_cluster_by_another(
    redis_cluster: ValkeyCluster, look: Callable[[ClusterServers], object]
) -> None:
    away = FreePort()
    url = f"redis://127.0.0.1:{away.number},{redis_cluster.nodes[4].address}/0"

    def is_known() -> bool:
        with suppress(RedisError):  # nobody has looked yet
            return look(made) is not None
        return False

    async with ClusterServers(url, connect) as made:
        assert not is_known()

        await eventually(is_known, what="the map")

        assert await made.ask("SET", "a", "1") == b"OK"
        assert len(made.every()) == 3
    away.give_back()


async def test_a_server_that_answers_no_more_is_in_nobody_elses_way(
    servers: ClusterServers, redis_cluster: ValkeyCluster
) -> None:
    silent = redis_cluster.primary_of(TAG)
    elsewhere = next(f"{number}" for number in range(99) if redis_cluster.primary_of(f"{number}") is not silent)
    os.kill(silent.pid, signal.SIGSTOP)
    try:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await servers.ask("GET", TAG)

        async with asyncio.timeout(5):
            assert await servers.ask("GET", elsewhere) is None
    finally:
        os.kill(silent.pid, signal.SIGCONT)
    assert await servers.ask("GET", TAG) is None


@contextmanager
def _cannot_start(capsys: pytest.CaptureFixture[str], why: str) -> Iterator[None]:
    with pytest.raises(SystemExit) as end:
        yield
    assert end.value.code == 2
    assert why in capsys.readouterr().err


def _settings(url: str, *, is_cluster: bool) -> RedisSettings:
    return TinySettings(profile=Profile.LAPTOP, redis_url=SecretStr(url), redis_cluster=is_cluster)


async def test_a_server_that_is_no_cluster_ends_the_start(
    redis_server: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with _cannot_start(capsys, "redis_cluster is set, and redis_url names servers without one"):
        async with redis_servers(_settings(f"redis://{redis_server.address}/0", is_cluster=True), connect):
            pass


async def test_a_node_of_a_cluster_that_is_taken_for_all_there_is_ends_the_start(
    redis_cluster: ValkeyCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"redis://{redis_cluster.nodes[0].address}/0"
    with _cannot_start(capsys, "redis_url names a node of a Redis Cluster: set redis_cluster"):
        async with redis_servers(_settings(url, is_cluster=False), connect):
            pass


async def test_what_the_settings_name_is_reached(redis_server: Any, redis_cluster: ValkeyCluster) -> None:
    for url, is_cluster, count in ((f"redis://{redis_server.address}/0", False, 1), (redis_cluster.url, True, 3)):
        async with redis_servers(_settings(url, is_cluster=is_cluster), connect) as servers:
            assert [await alone(redis, ("PING",)) for redis in servers.every()] == [b"PONG"] * count


async def test_a_server_that_is_not_there_yet_is_no_reason_to_end() -> None:
    away = FreePort()
    for is_cluster in (False, True):
        async with redis_servers(_settings(f"redis://127.0.0.1:{away.number}", is_cluster=is_cluster), connect) as one:
            with pytest.raises((RedisError, OSError)):
                await one.ask("GET", "a")
    away.give_back()
