"""Servers that several levels share: started when the first test asks, stopped after the last.

`TEST_KAFKA`, `TEST_REDIS` and `TEST_POSTGRESQL` name servers that run already; without them the suite starts its own on
free ports.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import hypothesis
import pytest

from deploy.create_topics import create_topics, laptop
from deploy.dev.kafka_broker import KafkaBroker
from deploy.dev.valkey_server import ValkeyServer
from tests.servers.postgresql_server import PostgresqlServer, why_missing
from tests.servers.require import require
from tests.servers.valkey_cluster import ValkeyCluster
from tests.servers.valkey_cluster import why_missing as why_no_cluster

# In CI the same examples every time and more of them; on a laptop new ones. A loaded machine is no counter-example.
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, max_examples=200, print_blob=True)
hypothesis.settings.register_profile("laptop", deadline=None)
# `make fuzz`. What comes is new each time; a failure prints how to see it again.
hypothesis.settings.register_profile("fuzz", deadline=None, max_examples=20_000, print_blob=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "laptop")


@dataclass(frozen=True, slots=True)
class Server:
    """A server that tests may use and must not stop."""

    address: str
    """HOST:PORT."""


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real broker with every topic of ours."""
    given = os.environ.get("TEST_KAFKA")
    if given:
        create_topics(laptop(given))
        yield Server(given)
        return
    broker = KafkaBroker(tmp_path_factory.mktemp("kafka"))
    broker.start()
    try:
        create_topics(laptop(broker.address))
        yield Server(broker.address)
    finally:
        broker.stop()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real Redis (Valkey)."""
    given = os.environ.get("TEST_REDIS")
    if given:
        yield Server(given)
        return
    server = ValkeyServer(tmp_path_factory.mktemp("redis"))
    server.start()
    try:
        yield Server(server.address)
    finally:
        server.stop()


@pytest.fixture(scope="session")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyCluster]:
    """A real Redis Cluster (Valkey); who breaks it mends it."""
    require(why_no_cluster())
    cluster = ValkeyCluster(tmp_path_factory.mktemp("redis-cluster"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    """An SQLAlchemy URL of an empty database on a real PostgreSQL."""
    given = os.environ.get("TEST_POSTGRESQL")
    if given:
        yield given
        return
    require(why_missing())
    server = PostgresqlServer()
    server.start()
    try:
        yield server.url
    finally:
        server.stop()
        server.remove()
