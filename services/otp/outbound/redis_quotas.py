"""What was taken of limits, in Redis: one bucket, one key, one slot, one script.

| key | type | what | ends | written by |
|---|---|---|---|---|
| `otp:{quota:<bucket>}` | sorted set | when it is whole, and who took when | when it is whole | all calls |

A bucket is named by what its limit counts and an HMAC: `address:…`; no address stands in a key. `scripts/quota.lua`
holds the rule, under the server's clock. Calls about several buckets go out together, in one round trip.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from redis.asyncio import Redis

from services.chassis.redis_commands import Script
from services.chassis.redis_servers import RedisServers
from services.otp.metrics import OtpMetrics
from services.otp.outbound.redis_calls import WITHIN, RedisCalls
from services.otp.rules.quota import Quota

SCRIPT = Path(__file__).with_name("scripts") / "quota.lua"
MICROSECOND = timedelta(microseconds=1)


def quota_key(bucket: str) -> str:
    """Return the key of a bucket."""
    return f"otp:{{quota:{bucket}}}"


class RedisQuotas:
    """Implements `QuotaStore`.

    Args:
        redis: a client made by `redis_client`, or the servers.
        metrics: gets times and errors.
        within: how long a call may take.
    """

    def __init__(self, redis: Redis | RedisServers, metrics: OtpMetrics, *, within: timedelta = WITHIN) -> None:
        self._calls = RedisCalls(redis, metrics, within)
        self._script = Script(SCRIPT.read_text())

    async def take(self, token: str, quotas: Sequence[Quota]) -> list[timedelta]:
        """Implements `QuotaStore`."""
        return [int(wait) * MICROSECOND for wait in await self._run("take", token, quotas)]

    async def give_back(self, token: str, quotas: Sequence[Quota]) -> None:
        """Implements `QuotaStore`."""
        await self._run("give", token, quotas)

    async def refill(self, quotas: Sequence[tuple[Quota, timedelta]]) -> None:
        """Implements `QuotaStore`."""
        await asyncio.gather(*(self._of(quota, "refill", str(sooner // MICROSECOND)) for quota, sooner in quotas))

    async def _run(self, what: str, token: str, quotas: Sequence[Quota]) -> list[int]:
        return await asyncio.gather(*(self._of(quota, what, token) for quota in quotas))

    async def _of(self, quota: Quota, what: str, token: str) -> int:
        args = [what, token, str(quota.limit.one_each // MICROSECOND), str(quota.limit.at_once)]
        return int(await self._calls.script("quota", self._script, [quota_key(quota.name)], args))
