"""A real Redis: set up as production must be, and its data survives a kill."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from deploy.dev.valkey_server import ValkeyServer
from tests.servers.process_search import processes_of


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ValkeyServer]:
    server = ValkeyServer(tmp_path)
    server.start()
    yield server
    server.kill()
    assert not processes_of(tmp_path)


def test_what_was_written_survives_a_kill(server: ValkeyServer) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.set("challenge", "queued")

    server.kill()
    server.start()

    with redis.Redis.from_url(server.url) as client:
        assert client.get("challenge") == b"queued"


def test_it_loses_no_key_to_make_room_and_writes_a_log_of_all(server: ValkeyServer) -> None:
    with redis.Redis.from_url(server.url) as client:
        settings = client.config_get("maxmemory-policy", "appendonly", "bind")

    assert settings == {"maxmemory-policy": "noeviction", "appendonly": "yes", "bind": "127.0.0.1"}


def test_it_stops_orderly(server: ValkeyServer) -> None:
    assert server.stop() == 0
