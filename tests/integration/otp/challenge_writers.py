"""Writers that make challenges and use their codes up, note what they were told, and go on over every fault."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field, replace

from services.otp.outbound.redis_store import RedisChallengeStore
from services.otp.ports import StoreUnavailable
from services.otp.rules.challenge import Challenge
from tests.contract.challenge_stores import World

MADE, USED = 1, 2  # the versions of a challenge that a writer writes
PAUSE_S = 0.01  # between two steps of a writer: a crowd is not what is tested


@dataclass(slots=True)
class Writers:
    """What all writers were told.

    Args:
        store: where they write; it fails now and then.
    """

    store: RedisChallengeStore
    world: World = field(init=False)
    told: dict[str, tuple[int, float]] = field(default_factory=dict)
    """By challenge id: the version that was acknowledged last, and when."""
    away: int = 0
    """Calls that were `StoreUnavailable`."""
    longest_s: float = 0
    """How long the slowest call took."""
    are_done: bool = False
    """Whether each writer is to end after the call that it makes."""

    def __post_init__(self) -> None:
        self.world = World(self.store)

    async def write(self, template: Challenge, name: str) -> None:
        """Make challenges and use their codes up, until they are done."""
        number = 0
        while not self.are_done:
            number += 1
            challenge_id = self.store.mint_id(template.purpose, f"{name} {number}")
            made = replace(template, id=challenge_id, version=MADE)
            for version in (MADE, USED):
                verified_at = template.made_at if version == USED else None
                if await self._committed(replace(made, version=version, verified_at=verified_at)):
                    self.told[challenge_id] = (version, time.monotonic())
                await asyncio.sleep(PAUSE_S)

    async def _committed(self, challenge: Challenge) -> bool:
        started = time.monotonic()
        try:
            return await self.world.commit(challenge) is not None
        except StoreUnavailable:
            self.away += 1
            return False
        finally:
            self.longest_s = max(self.longest_s, time.monotonic() - started)

    async def lost(self) -> list[float]:
        """Return when each was told of that is not there any more."""
        missing = []
        for challenge_id, (version, at) in self.told.items():
            shard = self.store.shard_of(challenge_id)
            assert shard is not None
            found = (await self.store.load(shard, challenge_ids=[challenge_id])).challenges.get(challenge_id)
            if found is None or found.version < version:
                missing.append(at)
        return missing
