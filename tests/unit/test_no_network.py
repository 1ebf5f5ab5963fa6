"""The fence around unit tests stands: no network, and asyncio works all the same."""

from __future__ import annotations

import asyncio
import socket

import pytest
from pytest_socket import SocketBlockedError

pytestmark = pytest.mark.filterwarnings("ignore:A test tried to use socket")  # said before it is refused


def test_a_network_socket_is_refused_at_once() -> None:
    with pytest.raises(SocketBlockedError):
        socket.create_connection(("127.0.0.1", 9), timeout=0.1)


async def test_asyncio_cannot_go_out_either_and_its_own_pair_of_sockets_works() -> None:
    assert await asyncio.to_thread(lambda: "from another thread") == "from another thread"

    with pytest.raises(SocketBlockedError):
        await asyncio.open_connection("127.0.0.1", 9)
