"""Unit tests need nothing: a test that opens a network socket fails at once.

Unix sockets stay allowed, because asyncio wakes its own loop through a pair of them.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pytest_socket import disable_socket, enable_socket


@pytest.fixture(autouse=True)
def no_network() -> Iterator[None]:
    """Forbid network sockets for the length of one test."""
    disable_socket(allow_unix_socket=True)
    yield
    enable_socket()
