"""Forget claims whose day is over: after that a key may be used again, and nothing about the request is kept."""

from __future__ import annotations

from services.chassis.clock import Clock
from services.dossier.ports import Archive


class ForgetClaims:
    """Deletes what has expired."""

    def __init__(self, archive: Archive, clock: Clock) -> None:
        self._archive = archive
        self._clock = clock

    async def __call__(self) -> int:
        """Return how many claims were deleted.

        Raises:
            ArchiveUnavailable: try again later.
        """
        return await self._archive.forget_claims(self._clock())
