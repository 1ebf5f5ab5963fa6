"""Waiting for replicas: what no replica acknowledges is told to nobody, and is found by the repeat once one has."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from services.chassis.redis_servers import ClusterServers, RedisServers
from services.otp.metrics import OtpMetrics
from services.otp.outbound.redis_store import RedisChallengeStore, confirmed_key, redis_client
from services.otp.ports import StoreUnavailable
from tests.contract.challenge_stores import DATABASE, PATIENT, SUBJECT_KEY, Server, World, encode, subject_of
from tests.servers.valkey_cluster import ValkeyCluster

SHARD = 7
GONE = -2  # as PTTL says; a busy machine may look later than the mark lasts


def careful_store(redis: Redis | RedisServers, replicas: int = 1) -> RedisChallengeStore:
    metrics = OtpMetrics(CollectorRegistry(), [])
    return RedisChallengeStore(redis, encode, metrics, within=timedelta(minutes=1), replicas=replicas)


@pytest.fixture
async def alone(redis_server: Server) -> AsyncIterator[Redis]:
    """A server without a replica, and without a key."""
    async with redis_client(f"redis://{redis_server.address}/{DATABASE}?{PATIENT}") as client:
        await client.flushdb()
        yield client


@pytest.fixture
async def cluster(redis_cluster: ValkeyCluster) -> AsyncIterator[ClusterServers]:
    """Servers with a replica each."""
    redis_cluster.flush()
    async with ClusterServers(f"{redis_cluster.url}?{PATIENT}", redis_client) as servers:
        await servers.check()
        yield servers


async def test_without_a_replica_nothing_is_told_and_what_was_written_is_found(alone: Redis) -> None:
    store = careful_store(alone)
    world = World(store)
    made = await world.challenge()
    await alone.script_flush()  # so that the script is refused first

    with pytest.raises(StoreUnavailable):
        await world.commit(made)
    with pytest.raises(StoreUnavailable):
        await store.confirm(world.shard(made))
    with pytest.raises(StoreUnavailable):
        await store.rehearse(world.shard(made), challenge=made, subject=subject_of(made))

    assert (await world.load(made)).challenges == {made.id: made}


async def test_a_process_does_not_begin_to_serve_without_the_replicas_that_it_waits_for(
    alone: Redis, cluster: ClusterServers
) -> None:
    with pytest.raises(StoreUnavailable) as refused:
        await careful_store(alone).ping()
    assert "OTP_REDIS_REPLICAS is 1, and a server has 0" in str(refused.value.__cause__)
    with pytest.raises(StoreUnavailable):
        await careful_store(cluster, replicas=2).ping()

    await careful_store(cluster).ping()
    await careful_store(alone, replicas=0).ping()


async def test_with_a_replica_everything_is_told_and_the_mark_ends(
    cluster: ClusterServers, redis_cluster: ValkeyCluster
) -> None:
    store = careful_store(cluster)
    world = World(store)
    made = await world.challenge()

    assert await world.commit(made, subject=subject_of(made)) == []
    await store.confirm(SHARD)

    assert (await world.load(made, subject_key=SUBJECT_KEY)).subject == subject_of(made)
    left_ms = int(redis_cluster.primary_of(confirmed_key(SHARD)).ask("PTTL", confirmed_key(SHARD)))
    assert left_ms == GONE or 0 < left_ms <= 1_000


async def test_where_no_replica_is_waited_for_a_repeat_asks_nothing(alone: Redis) -> None:
    await careful_store(alone, replicas=0).confirm(SHARD)

    assert await alone.keys() == []


async def test_a_rehearsal_is_something_to_wait_for_as_a_commit_is(
    cluster: ClusterServers, redis_cluster: ValkeyCluster
) -> None:
    """Else a handle that opens nothing would be answered sooner than a wrong code."""
    store = careful_store(cluster)
    world = World(store)
    made = await world.challenge()
    primary = redis_cluster.primary_of(confirmed_key(world.shard(made)))
    before = int(primary.told("replication")["master_repl_offset"])

    await store.rehearse(world.shard(made), challenge=made, subject=subject_of(made))

    assert int(primary.told("replication")["master_repl_offset"]) > before
