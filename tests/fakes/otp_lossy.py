"""A challenge store whose answers get lost: what was written stays, and nobody knows."""

from __future__ import annotations

from typing import Any

from services.otp.ports import StoreUnavailable
from tests.fakes.otp import InMemoryChallengeStore


class LossyStore(InMemoryChallengeStore):
    """A store that writes and then loses the answer to one commit."""

    loses_commit = 0
    """The nth from now on; none at 0."""

    async def commit(self, *args: Any, **fields: Any) -> Any:
        """Implements `ChallengeStore`."""
        entries = await super().commit(*args, **fields)
        self.loses_commit -= 1
        if self.loses_commit == 0:
            raise StoreUnavailable
        return entries
