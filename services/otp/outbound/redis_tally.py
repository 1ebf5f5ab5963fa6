"""How many entries failed, of all processes, in Redis.

| key | type | what | ends | written by |
|---|---|---|---|---|
| `otp:{guesses:<number>}` | hash | `failed` and `right` entries of one `STRETCH` | two stretches later | add |
"""

from __future__ import annotations

from datetime import timedelta

from redis.asyncio import Redis

from services.chassis.clock import Clock
from services.chassis.redis_commands import Command
from services.chassis.redis_servers import RedisServers
from services.otp.metrics import OtpMetrics
from services.otp.outbound.redis_calls import WITHIN, RedisCalls
from services.otp.rules.guesses import Tally

STRETCH = timedelta(minutes=5)  # told is the current stretch and the one before: the last 5 to 10 minutes
FIELDS = ("failed", "right")


def guesses_key(stretch: int) -> str:
    """Return the key of a stretch, in a slot of its own."""
    return f"otp:{{guesses:{stretch}}}"


class RedisTally:
    """Implements `GuessTally`; `clock` is this host's, and only chooses the stretch."""

    def __init__(
        self, redis: Redis | RedisServers, metrics: OtpMetrics, clock: Clock, *, within: timedelta = WITHIN
    ) -> None:
        self._clock = clock
        self._calls = RedisCalls(redis, metrics, within)

    async def add(self, seen: Tally) -> Tally:
        """Implements `GuessTally`."""
        now = int(self._clock().timestamp() // STRETCH.total_seconds())
        key = guesses_key(now)
        commands: list[Command] = [("HMGET", guesses_key(stretch), *FIELDS) for stretch in (now, now - 1)]
        if seen.entries:
            added = (("HINCRBY", key, "failed", seen.failed), ("HINCRBY", key, "right", seen.right))
            commands = [*added, ("EXPIRE", key, 2 * int(STRETCH.total_seconds())), *commands]
        async with self._calls.apart("tally"):
            *_, current, before = await self._calls.servers.ask_each(commands)
        failed, right = (int(here or 0) + int(there or 0) for here, there in zip(current, before, strict=True))
        return Tally(failed, right)
