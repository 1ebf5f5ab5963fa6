"""What every call of Redis has around it: its turn, its time, its count, and the word for a server that is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from time import perf_counter
from typing import Any

from redis.asyncio import Redis
from redis.commands.core import AsyncScript
from redis.exceptions import RedisError

from services.otp.metrics import OtpMetrics
from services.otp.outbound.redis_batches import RedisBatches, Word
from services.otp.ports import StoreUnavailable

APART_AT_ONCE = 32  # each holds a connection; what comes beyond waits its turn for milliseconds and is not turned away
WITHIN = timedelta(seconds=1)


class RedisCalls:
    """The calls of one store.

    Args:
        redis: the client.
        metrics: gets times and errors, by `command_class`.
        within: how long a call may take, and how long it may wait for its turn before that. Apart, because a crowd of
            calls is no sign that the server is away.
    """

    def __init__(self, redis: Redis, metrics: OtpMetrics, within: timedelta = WITHIN) -> None:
        self._metrics = metrics
        self._within_s = within.total_seconds()
        self._batches = RedisBatches(redis, within)
        self._room = asyncio.Semaphore(APART_AT_ONCE)

    async def script(
        self, command_class: str, script: AsyncScript, keys: Sequence[str], args: Sequence[Word] = ()
    ) -> Any:
        """Run a script, together with what others ask.

        Raises:
            StoreUnavailable: Redis failed, or not in time; the script may have run.
        """
        with self._counted(command_class):
            return await self._batches.run(script, keys, args)

    async def ask(self, command_class: str, *command: Word) -> Any:
        """Run one command, together with what others ask. Raises as `script` does."""
        with self._counted(command_class):
            return await self._batches.ask(*command)

    @asynccontextmanager
    async def apart(self, command_class: str) -> AsyncIterator[None]:
        """Surround a call that uses the client itself: on a connection that is in no other's way.

        Raises:
            StoreUnavailable: Redis failed, or not in time.
        """
        with self._counted(command_class):
            async with asyncio.timeout(self._within_s) as timer, self._room:
                timer.reschedule(asyncio.get_running_loop().time() + self._within_s)  # its turn has come
                yield

    @contextmanager
    def _counted(self, command_class: str) -> Iterator[None]:
        started = perf_counter()
        try:
            yield
        except (RedisError, OSError, TimeoutError) as error:
            self._metrics.redis_errors.inc()
            raise StoreUnavailable from error
        finally:
            self._metrics.redis_seconds.labels(command_class).observe(perf_counter() - started)
