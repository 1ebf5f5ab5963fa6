"""What every call of Redis has around it: its turn, its time, its count, and the word for a server that is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from time import perf_counter

from redis.exceptions import RedisError

from services.otp.metrics import OtpMetrics
from services.otp.ports import StoreUnavailable

CALLS_AT_ONCE = 32  # each holds a connection; a crowd beyond waits its turn for milliseconds and is not turned away
WITHIN = timedelta(seconds=1)


class RedisCalls:
    """The calls of one store.

    Args:
        metrics: gets times and errors.
        within: how long a call may take, and how long it may wait for its turn before that. Apart, because a crowd of
            calls is no sign that the server is away.
    """

    def __init__(self, metrics: OtpMetrics, within: timedelta = WITHIN) -> None:
        self._metrics = metrics
        self._within_s = within.total_seconds()
        self._room = asyncio.Semaphore(CALLS_AT_ONCE)

    @asynccontextmanager
    async def __call__(self, command_class: str) -> AsyncIterator[None]:
        """Surround one call; `command_class` is its label.

        Raises:
            StoreUnavailable: Redis failed, or not in time.
        """
        started = perf_counter()
        try:
            async with asyncio.timeout(self._within_s) as timer, self._room:
                timer.reschedule(asyncio.get_running_loop().time() + self._within_s)  # its turn has come
                yield
        except (RedisError, OSError, TimeoutError) as error:
            self._metrics.redis_errors.inc()
            raise StoreUnavailable from error
        finally:
            self._metrics.redis_seconds.labels(command_class).observe(perf_counter() - started)
