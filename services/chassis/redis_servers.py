"""Redis, be it one server or a cluster: which server has a key, and what to do when that changes.

In a cluster a key is in the slot of what stands in its braces, and each slot is served by one server at a time
(https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec). The library keeps the map of the slots;
each server in it has a plain client, so that batches, deadlines and subscriptions are the same on one server and many.

| the server says | what is done |
|---|---|
| `MOVED` | the map is mended, and the command goes where it says |
| `ASK` | this once it goes where it says, right behind `ASKING` on one connection, which the library does not promise |
| `TRYAGAIN` | it is asked again a moment later |
| `CLUSTERDOWN`, another error, or nothing | the caller is told at once; the map is read again meanwhile |

A command is sent on at most `MOST_HOPS` times, and tried again no longer than `ELSEWHERE_WITHIN`. What was sent and not
answered is never sent again: only the caller knows whether it may be.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta
from typing import Any, Self, TypeAlias, TypeVar
from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.cluster import PRIMARY
from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    MovedError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as NotConnected
from redis.maint_notifications import MaintNotificationsConfig

from services.chassis.redis_commands import Command, Script, Word, alone, sent_to
from services.chassis.settings import RedisSettings, reading_files, redis_hosts, split_host_port

T = TypeVar("T")
Send: TypeAlias = Callable[[Redis, bool], Awaitable[T]]
"""Sends a command to a server, behind `ASKING` or not, and returns its answer."""

MOST_HOPS = 8
ELSEWHERE_WITHIN = timedelta(seconds=1)
TRY_AGAIN_AFTER_S = 0.02
LOOK_PAUSE_S = 0.2  # between two looks at the map: a failover takes seconds
LOOK_WITHIN_S = 5.0
NODE_WITHIN_S = 1.0  # for one server to show the map, before the next one is asked
FAILED = (RedisError, RedisClusterException, OSError, TimeoutError)


class WrongServer(ValueError):
    """The server is not what the settings say it is; trying again will not change that."""


class RedisServers:
    """Where keys are. Calls raise `RedisError`, `OSError` or `TimeoutError` when a server failed or refused."""

    def of(self, key: str) -> Redis:
        """Return the client of the server that has a key, as far as we know."""
        raise NotImplementedError

    def every(self) -> Sequence[Redis]:
        """Return the client of each server that has keys, as far as we know; at least one."""
        raise NotImplementedError

    def routed(self, key: str | None, send: Send[T]) -> Awaitable[T]:
        """Send a command to the server of its key, and wherever that says it belongs; without a key, to any one."""
        raise NotImplementedError

    def lost(self) -> None:
        """Look, before long, whether something has changed; for who found out without `routed`."""

    async def check(self) -> None:
        """Look whether the servers are what the settings say.

        Raises:
            WrongServer: they are not.
        """
        raise NotImplementedError

    async def ask(self, *command: Word) -> Any:
        """Run a command whose second word is its key, on a connection of its own; return what the server answers."""
        key = str(command[1])
        return await self.routed(key, lambda redis, asking: alone(redis, command, asking=asking))

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Word] = ()) -> Any:
        """Run a script, on a connection of its own; its keys are in one slot."""

        async def ask(*command: Word) -> Any:
            return await self.routed(keys[0], lambda redis, asking: alone(redis, command, asking=asking))

        return await script.run(ask, keys, args)

    async def ask_each(self, commands: Sequence[Command]) -> list[Any]:
        """Run commands whose second words are their keys: those of one server together and in order, but not atomic."""
        together: dict[Redis, list[int]] = {}
        for place, command in enumerate(commands):
            together.setdefault(self.of(str(command[1])), []).append(place)
        answers: list[Any] = [None] * len(commands)

        async def ask(redis: Redis, places: list[int]) -> None:
            try:
                told = await sent_to(redis, [commands[place] for place in places])
            except FAILED:
                self.lost()
                raise
            for place, answer in zip(places, told, strict=True):
                if isinstance(answer, AskError | TryAgainError):
                    answers[place] = await self.ask(*commands[place])
                elif isinstance(answer, ResponseError):
                    raise answer
                else:
                    answers[place] = answer

        await asyncio.gather(*(ask(redis, places) for redis, places in together.items()))
        return answers


class OneServer(RedisServers):
    """One server, which has every key."""

    def __init__(self, redis: Redis) -> None:
        """Use a client; who made it closes it."""
        self._redis = redis

    def of(self, key: str) -> Redis:
        """Return the client."""
        del key
        return self._redis

    def every(self) -> Sequence[Redis]:
        """Return the client."""
        return [self._redis]

    def routed(self, key: str | None, send: Send[T]) -> Awaitable[T]:
        """Send it there; one server never says that a key is elsewhere."""
        del key
        return send(self._redis, False)

    async def check(self) -> None:
        """Demand that it is no node of a cluster, which would have a part of the keys only."""
        try:
            await alone(self._redis, ("CLUSTER", "INFO"))
        except ResponseError:
            return  # it has none, or does not let us ask
        raise WrongServer("redis_url names a node of a Redis Cluster: set redis_cluster")


def servers_of(redis: Redis | RedisServers) -> RedisServers:
    """Return the servers of a plain client, which is one; servers are returned as they are."""
    return OneServer(redis) if isinstance(redis, Redis) else redis


class ClusterServers(RedisServers):
    """The servers of a cluster; open it as a context.

    Args:
        url: as in `RedisSettings`; names some of its nodes.
        connect: makes the plain client of one node from a URL.
    """

    def __init__(self, url: str, connect: Callable[[str], Redis]) -> None:
        self._url = url
        self._connect = connect
        first, *others = redis_hosts(url)
        self._map = RedisCluster.from_url(
            _url_at(url, first),
            startup_nodes=[ClusterNode(*split_host_port(host)) for host in others],
            socket_timeout=NODE_WITHIN_S,
            socket_connect_timeout=NODE_WITHIN_S,
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
        ).nodes_manager
        self._clients: dict[str, Redis] = {}
        self._looking: asyncio.Task[None] | None = None
        self._looked_at_s = 0.0

    async def __aenter__(self) -> Self:
        """Nothing is asked yet: the first call looks at the map, or `check` does."""
        return self

    async def __aexit__(self, *error: object) -> None:
        """Close every connection."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])
        for client in self._clients.values():
            await client.aclose()
        await self._map.aclose()
        await self._map.aclose("startup_nodes")

    def of(self, key: str) -> Redis:
        """Return the client of the server of the key's slot."""
        nodes = self._map.slots_cache.get(key_slot(key.encode()))
        if not nodes:
            self.lost()
            raise NotConnected("no node of the cluster has shown its map yet")
        return self._client(nodes[0])

    def every(self) -> Sequence[Redis]:
        """Return the client of each primary."""
        primaries = self._map.get_nodes_by_server_type(PRIMARY)
        if not primaries:
            self.lost()
            raise NotConnected("no node of the cluster has shown its map yet")
        return [self._client(node) for node in primaries]

    async def routed(self, key: str | None, send: Send[T]) -> T:
        """Send it to the server of its slot, and on as the table of this module says."""
        redis, asking, hops = self.every()[0] if key is None else self.of(key), False, 0
        async with asyncio.timeout(None) as timer:
            while True:
                try:
                    return await send(redis, asking)
                except (AskError, TryAgainError) as refusal:
                    if timer.when() is None:
                        timer.reschedule(asyncio.get_running_loop().time() + ELSEWHERE_WITHIN.total_seconds())
                    if isinstance(refusal, TryAgainError):
                        await asyncio.sleep(TRY_AGAIN_AFTER_S)
                        continue
                    hops += 1
                    if hops > MOST_HOPS:
                        raise
                    redis, asking = await self._elsewhere(refusal)
                except FAILED:
                    self.lost()
                    raise

    async def _elsewhere(self, refusal: AskError) -> tuple[Redis, bool]:
        """Return where a refused command belongs, and whether it goes behind `ASKING`."""
        if isinstance(refusal, MovedError):
            await self._map.move_slot(refusal)
            self.lost()
            return self._client(self._map.slots_cache[refusal.slot_id][0]), False
        return self._client(ClusterNode(refusal.host, refusal.port)), True

    def lost(self) -> None:
        """Read the map again in the background, unless that is going on."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._look_soon())

    async def check(self) -> None:
        """Demand that the nodes that are named are of a cluster."""
        try:
            await self._look()
        except RedisClusterException as error:
            if isinstance(error.__cause__, RedisClusterException):  # of the last node that was asked
                raise WrongServer(
                    "redis_cluster is set, and redis_url names servers without one (or CLUSTER SLOTS is forbidden)"
                ) from error
            raise NotConnected(str(error)) from error

    async def _look_soon(self) -> None:
        since_s = asyncio.get_running_loop().time() - self._looked_at_s
        await asyncio.sleep(max(LOOK_PAUSE_S - since_s, 0))
        with suppress(*FAILED):
            await self._look()

    async def _look(self) -> None:
        try:
            async with asyncio.timeout(LOOK_WITHIN_S):
                await self._map.initialize()
        finally:
            self._looked_at_s = asyncio.get_running_loop().time()
        for name, client in list(self._clients.items()):
            if name not in self._map.nodes_cache:
                await client.aclose()
                self._clients.pop(name, None)

    def _client(self, node: ClusterNode) -> Redis:
        if node.name not in self._clients:
            host = f"[{node.host}]" if ":" in node.host else node.host
            self._clients[node.name] = self._connect(_url_at(self._url, f"{host}:{node.port}"))
        return self._clients[node.name]


@asynccontextmanager
async def redis_servers(settings: RedisSettings, connect: Callable[[str], Redis]) -> AsyncIterator[RedisServers]:
    """Reach what the settings name, with clients that `connect` makes; end the process if it is something else."""
    url = settings.redis_url.get_secret_value()
    async with AsyncExitStack() as parts:
        servers: RedisServers
        if settings.redis_cluster:
            servers = await parts.enter_async_context(ClusterServers(url, connect))
        else:
            servers = OneServer(await parts.enter_async_context(connect(url)))
        with reading_files(), suppress(*FAILED):  # who is not there yet may come later
            async with asyncio.timeout(LOOK_WITHIN_S):
                await servers.check()
        yield servers


def _url_at(url: str, host: str) -> str:
    """Return the URL with one host instead of those in it."""
    parts = urlsplit(url)
    user, at, _ = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user}{at}{host}").geturl()
