"""How many entries failed, of all processes, in Redis.

| key | type | what | ends | written by |
|---|---|---|---|---|
| `otp:{guesses:<number>}` | hash | `failed` and `right` entries of one `STRETCH` | two stretches later | add |
"""

from __future__ import annotations

from datetime import timedelta

from redis.asyncio import Redis

from services.chassis.clock import Clock
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

    def __init__(self, redis: Redis, metrics: OtpMetrics, clock: Clock, *, within: timedelta = WITHIN) -> None:
        self._redis = redis
        self._clock = clock
        self._calls = RedisCalls(redis, metrics, within)

    async def add(self, seen: Tally) -> Tally:
        """Implements `GuessTally`."""
        now = int(self._clock().timestamp() // STRETCH.total_seconds())
        async with self._calls.apart("tally"):
            pipeline = self._redis.pipeline(transaction=False)
            if seen.entries:
                pipeline.hincrby(guesses_key(now), "failed", seen.failed)
                pipeline.hincrby(guesses_key(now), "right", seen.right)
                pipeline.expire(guesses_key(now), 2 * STRETCH)
            for stretch in (now, now - 1):
                pipeline.hmget(guesses_key(stretch), FIELDS)
            *_, current, before = await pipeline.execute()
        failed, right = (int(here or 0) + int(there or 0) for here, there in zip(current, before, strict=True))
        return Tally(failed, right)
