"""Time as a port: whoever needs to know what time it is gets a clock, so a test can turn it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Tells the time; may differ from other hosts' clocks."""

    def __call__(self) -> datetime:
        """Return now, in UTC."""


def system_clock() -> datetime:
    """Return the host's time, in UTC."""
    return datetime.now(UTC)
