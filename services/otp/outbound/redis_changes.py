"""Hints that a challenge has changed, over sharded pub/sub; every process hears those it has watchers for.

A hint is no promise: a connection that breaks loses some, so watchers look again by themselves, and a hint only makes
them look sooner. One connection a process and server, subscribed to the channels of the shards that are being watched
and that the server has; a shard that moves to another server is heard there a moment later. Who begins to watch a shard
that nobody watched is hinted once when its channel is heard: what came in between is lost.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.chassis.redis_servers import RedisServers, servers_of
from services.otp.ports import SHARDS

SUBSCRIBED_WITHIN_S = 0.2  # how late a new shard may be heard; its watchers look again every two seconds anyway
PAUSE_AFTER_FAILURE = timedelta(seconds=1)


def hint_channel(shard: int) -> str:
    """Return the sharded channel of a shard; it is in the slot of the shard's keys."""
    return f"otp:{{s{shard:02x}}}:changed"


SHARD_OF = {hint_channel(shard).encode(): shard for shard in range(SHARDS)}


class Hints:
    """Implements `Changes`."""

    def __init__(self) -> None:
        self._heard = asyncio.Event()

    def hear(self) -> None:
        """Note a change."""
        self._heard.set()

    async def next(self, within: timedelta) -> None:
        """Implements `Changes`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within.total_seconds()):
                await self._heard.wait()
        self._heard.clear()


class RedisChanges:
    """Who in this process waits for which challenge; `listen` hears for all of them."""

    def __init__(self, redis: Redis | RedisServers) -> None:
        """Hear through this client, or these servers, on a connection of its own to each."""
        self._servers = servers_of(redis)
        self._waiting: defaultdict[str, set[Hints]] = defaultdict(set)
        self._shards: Counter[int] = Counter()
        self._heard: set[int] = set()
        """Shards whose channels the server says we are subscribed to."""
        self._unheard: defaultdict[int, set[Hints]] = defaultdict(set)
        """Who waits in one that is not heard yet."""

    @contextmanager
    def of(self, challenge_id: str, shard: int | None) -> Iterator[Hints]:
        """Hear of one challenge while the context lasts; of what is no challenge nothing is heard."""
        hints = Hints()
        if shard is None:
            yield hints
            return
        self._waiting[challenge_id].add(hints)
        self._shards[shard] += 1
        if shard not in self._heard:
            self._unheard[shard].add(hints)
        try:
            yield hints
        finally:
            self._shards[shard] -= 1
            self._unheard[shard].discard(hints)
            self._waiting[challenge_id].discard(hints)
            if not self._waiting[challenge_id]:
                del self._waiting[challenge_id]

    async def listen(self) -> None:
        """Hear until cancelled; a server that is away is asked again every second."""
        ears: dict[Redis, asyncio.Task[None]] = {}
        try:
            while True:
                for redis in self._wanted().keys() - ears.keys():
                    ears[redis] = asyncio.create_task(self._listen_to(redis))
                await asyncio.sleep(SUBSCRIBED_WITHIN_S)
                for redis, ear in [(redis, ear) for redis, ear in ears.items() if ear.done()]:
                    del ears[redis]
                    await ear  # for what it failed of
        finally:
            for ear in ears.values():
                ear.cancel()
            await asyncio.gather(*ears.values(), return_exceptions=True)

    async def _listen_to(self, redis: Redis) -> None:
        """Hear of a server until that breaks."""
        try:
            async with redis.pubsub() as pubsub:
                await self._hear(redis, pubsub)
        except (RedisError, OSError) as error:
            structlog.get_logger().warning("hints_lost", error=type(error).__name__)
            self._servers.lost()
        await asyncio.sleep(PAUSE_AFTER_FAILURE.total_seconds())

    async def _hear(self, redis: Redis, pubsub: Any) -> None:
        subscribed: set[int] = set()
        try:
            while True:
                _end_if_cancelled()
                wanted = self._wanted().get(redis, set())
                for shard in wanted - subscribed:  # one by one, for each is in a slot of its own
                    await pubsub.ssubscribe(hint_channel(shard))
                if subscribed - wanted:
                    self._heard -= subscribed - wanted
                    await pubsub.sunsubscribe(*map(hint_channel, subscribed - wanted))
                subscribed = wanted
                if not subscribed:
                    await asyncio.sleep(SUBSCRIBED_WITHIN_S)
                    continue
                message = await pubsub.get_message(timeout=SUBSCRIBED_WITHIN_S)
                if message is not None:
                    self._take(message)
        finally:
            self._heard -= subscribed

    def _take(self, message: Mapping[str, Any]) -> None:
        if message["type"] == "smessage":
            for hints in self._waiting.get(message["data"].decode(), ()):
                hints.hear()
        elif message["type"] == "ssubscribe":
            shard = SHARD_OF[message["channel"]]
            self._heard.add(shard)
            for hints in self._unheard.pop(shard, ()):
                hints.hear()

    def _wanted(self) -> dict[Redis, set[int]]:
        """Return the shards that are being watched, by the server that has them."""
        wanted: defaultdict[Redis, set[int]] = defaultdict(set)
        with suppress(RedisError):  # nobody knows who has them
            for shard, watchers in self._shards.items():
                if watchers > 0:
                    wanted[self._servers.of(hint_channel(shard))].add(shard)
        return wanted


def _end_if_cancelled() -> None:
    """Raise what a library has swallowed: `asyncio.wait_for` of Python 3.11 does, when its result comes that moment."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
