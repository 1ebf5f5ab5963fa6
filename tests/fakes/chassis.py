"""In-memory twins of what the chassis is given."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from services.chassis.grpc_callers import Callers


class StandingCallers:
    """Implements `KnownCallers`: they change when the test says so."""

    def __init__(self, callers: Callers) -> None:
        self.callers = callers
        self.on_change: list[Callable[[Callers], None]] = []

    def become(self, callers: Callers) -> None:
        """Change."""
        self.callers = callers
        for call in self.on_change:
            call(callers)

    async def follow(self, looked: Callable[[bool], None]) -> None:
        """Implements `KnownCallers`."""
        del looked
        await asyncio.Event().wait()
