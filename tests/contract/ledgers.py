"""Ledgers under test: made-up letters, outcomes and wishes to put there."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Protocol

import pytest

from services.chassis.clock import system_clock
from services.chassis.redis_servers import ClusterServers, RedisServers, servers_of
from services.mailer.outbound.redis_ledger import redis_client
from services.mailer.ports import Owner
from services.mailer.rules.outcome import Dropped, DropReason, HandedOver, Outcome, Refused
from services.mailer.rules.wish import Wish
from tests.conditions import eventually
from tests.servers.valkey_cluster import ValkeyCluster

OWNER = Owner(0, "orders.v1", 7)
PATIENT = timedelta(seconds=10)  # a busy machine must not be taken for a slow Redis
SECOND = timedelta(seconds=1)
LONG_AGO = datetime(1, 1, 1, tzinfo=UTC)
BEGAN = datetime(2026, 11, 25, 8, 0, 0, 123456, tzinfo=UTC)
OUTCOMES: list[Outcome] = [
    HandedOver(BEGAN + SECOND, BEGAN, "relay-1", "4bXyZ1"),
    HandedOver(BEGAN, BEGAN, "", "", uncertain=True),
    Refused(BEGAN, 550, "5.1.1"),
    Dropped(BEGAN, DropReason.DEADLINE, exposed=False),
    Dropped(BEGAN, DropReason.DEADLINE, exposed=True),
    Dropped(BEGAN, DropReason.WITHDRAWN, exposed=False),
]
SOONER, LATER, WITHDRAWN = Wish(BEGAN), Wish(BEGAN + SECOND), Wish(withdrawn=True)


class Server(Protocol):
    """The suite's Redis."""

    @property
    def address(self) -> str:
        """HOST:PORT."""


LEDGERS = ("memory", "redis", "cluster")


@asynccontextmanager
async def redis_of(request: pytest.FixtureRequest) -> AsyncIterator[RedisServers]:
    """Return the servers of a fixture whose parameter is `redis` or `cluster`."""
    if request.param == "cluster":
        cluster: ValkeyCluster = request.getfixturevalue("redis_cluster")
        async with ClusterServers(cluster.url, redis_client) as servers:
            await servers.check()
            yield servers
        return
    server: Server = request.getfixturevalue("redis_server")
    async with redis_client(f"redis://{server.address}/0") as client:
        yield servers_of(client)


def new_letter() -> str:
    return f"{uuid.uuid4()}.1"


def tomorrow() -> datetime:
    return system_clock() + timedelta(days=1)


async def passed(seconds: float) -> None:
    """Let time pass."""
    end = time.monotonic() + seconds
    await eventually(lambda: time.monotonic() > end, within_s=seconds + 5)
