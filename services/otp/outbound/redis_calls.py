"""What every call of Redis has around it: its server, its turn, its time, its count, and the word for one that is away.

Calls about one server go in its batches. Those that must not be lost go in batches of their own, whose `WAIT` so is in
nobody else's way.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from functools import partial
from time import perf_counter
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.chassis.redis_commands import Script, Word
from services.chassis.redis_servers import RedisServers, servers_of
from services.otp.metrics import OtpMetrics
from services.otp.outbound.redis_batches import RedisBatches
from services.otp.ports import StoreUnavailable

APART_AT_ONCE = 32  # each holds a connection; what comes beyond waits its turn for milliseconds and is not turned away
WITHIN = timedelta(seconds=1)


class RedisCalls:
    """The calls of one store.

    Args:
        redis: the client of one server, or the servers.
        metrics: gets times and errors, by `command_class`.
        within: how long a call may take, and how long it may wait for its turn before that. Apart, because a crowd of
            calls is no sign that the server is away.
        replicas: how many replicas must have what was written by a call that is `kept`.
    """

    def __init__(
        self, redis: Redis | RedisServers, metrics: OtpMetrics, within: timedelta = WITHIN, *, replicas: int = 0
    ) -> None:
        self._metrics = metrics
        self._within = within
        self._replicas = replicas
        self.servers = servers_of(redis)
        self._batches: dict[Redis, RedisBatches] = {}
        self._kept: dict[Redis, RedisBatches] = {}
        self._room = asyncio.Semaphore(APART_AT_ONCE)

    async def script(
        self, command_class: str, script: Script, keys: Sequence[str], args: Sequence[Word] = (), *, kept: bool = False
    ) -> Any:
        """Run a script, together with what others ask of that server; its keys are in one slot.

        Raises:
            StoreUnavailable: Redis failed, or not in time; the script may have run. So it may if it is to be `kept` and
                too few replicas have what it wrote.
        """
        with self._counted(command_class):
            return await script.run(partial(self._ask, keys[0] if keys else None, kept), keys, args)

    async def ask(self, command_class: str, *command: Word, kept: bool = False) -> Any:
        """Run one command, whose second word is its key, together with what others ask. Raises as `script` does."""
        with self._counted(command_class):
            return await self._ask(str(command[1]), kept, *command)

    def _ask(self, key: str | None, kept: bool, *command: Word) -> Awaitable[Any]:  # noqa: FBT001 - bound by name above
        replicas = self._replicas if kept else 0
        return self.servers.routed(
            key, lambda redis, asking: self._batches_of(redis, replicas).ask(*command, asking=asking)
        )

    def _batches_of(self, redis: Redis, replicas: int) -> RedisBatches:
        known = self._kept if replicas else self._batches
        batches = known.get(redis)
        if batches is None:
            for gone in known.keys() - set(self.servers.every()):
                del known[gone]
            batches = known[redis] = RedisBatches(redis, self._within, replicas=replicas)
        return batches

    @asynccontextmanager
    async def apart(self, command_class: str) -> AsyncIterator[None]:
        """Surround a call that uses the servers themselves: on connections that are in no other's way.

        Raises:
            StoreUnavailable: Redis failed, or not in time.
        """
        with self._counted(command_class):
            async with asyncio.timeout(self._within.total_seconds()) as timer, self._room:
                timer.reschedule(asyncio.get_running_loop().time() + self._within.total_seconds())  # its turn has come
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
