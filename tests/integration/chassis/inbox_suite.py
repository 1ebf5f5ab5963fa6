"""What every test of an inbox on a real broker needs around it."""

from __future__ import annotations

from typing import Protocol

import pytest

AROUND_AN_INBOX = [
    pytest.mark.timeout(180),
    pytest.mark.usefixtures("rubbish_collected"),
    # The Kafka clients leave sockets and event loops to the garbage collector.
    pytest.mark.filterwarnings("ignore:.*(socket|event loop|BaseEventLoop):pytest.PytestUnraisableExceptionWarning"),
]


class Server(Protocol):
    """The suite's broker."""

    @property
    def address(self) -> str:
        """HOST:PORT."""
