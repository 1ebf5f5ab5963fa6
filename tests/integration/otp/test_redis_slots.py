"""otp's batches on a real cluster, while a slot moves and while a server is silent."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator

import pytest
from prometheus_client import CollectorRegistry

from services.chassis.redis_servers import ClusterServers
from services.otp.metrics import OtpMetrics
from services.otp.outbound.redis_calls import RedisCalls
from services.otp.outbound.redis_store import redis_client
from services.otp.ports import StoreUnavailable
from tests.servers.valkey_cluster import ValkeyCluster

TAG = "{moving}"
BOUND_S = 3.0  # its turn, its batch, and going elsewhere: a second each
SLACK_S = 3.0  # for a machine that is busy with others


@pytest.fixture
async def calls(redis_cluster: ValkeyCluster) -> AsyncIterator[RedisCalls]:
    """Calls to an empty cluster."""
    redis_cluster.flush()
    async with ClusterServers(redis_cluster.url, redis_client) as servers:
        await servers.check()
        yield RedisCalls(servers, OtpMetrics(CollectorRegistry(), []), replicas=1)


@pytest.mark.parametrize("kept", [False, True])
async def test_batches_follow_a_slot_that_moves(calls: RedisCalls, redis_cluster: ValkeyCluster, *, kept: bool) -> None:
    async def counted(times: int) -> list[int]:
        return sorted(await asyncio.gather(*(calls.ask("claim", "INCR", f"{TAG}new", kept=kept) for _ in range(times))))

    with redis_cluster.moving(TAG) as move:
        move.begin()
        assert await counted(150) == list(range(1, 151))  # more than a batch
        assert move.target.ask("CLUSTER", "COUNTKEYSINSLOT", move.slot) == 1

        move.end()

        assert await counted(50) == list(range(151, 201))


async def test_a_server_that_is_silent_is_unavailable_in_time_and_in_nobody_elses_way(
    calls: RedisCalls, redis_cluster: ValkeyCluster
) -> None:
    silent = redis_cluster.primary_of(TAG)
    elsewhere = next(f"{number}" for number in range(99) if redis_cluster.primary_of(f"{number}") is not silent)
    await calls.ask("claim", "GET", TAG)
    os.kill(silent.pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        waiting = [asyncio.create_task(calls.ask("claim", "GET", TAG)) for _ in range(20)]
        assert await calls.ask("claim", "GET", elsewhere) is None
        told = await asyncio.gather(*waiting, return_exceptions=True)
    finally:
        os.kill(silent.pid, signal.SIGCONT)

    assert {type(each) for each in told} == {StoreUnavailable}
    assert time.monotonic() - started < BOUND_S + SLACK_S
