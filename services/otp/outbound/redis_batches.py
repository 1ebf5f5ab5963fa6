"""Commands of concurrent calls, sent together: one write, one timer and one connection for all that ask meanwhile.

Alone, a command costs the client 100 µs of CPU; in company of three others, 20 µs (docs/adr/0021). So a command joins
the batch that goes next, and a batch goes as soon as the one before has been answered: nobody waits for company, and
the more ask, the larger the batches. A batch is no transaction: what must happen together is one script.

Whoever is cancelled leaves the batch as it is, and its answer goes nowhere. So no caller's deadline costs a connection.

A batch that must not be lost with its server ends with one `WAIT`, which counts the replicas that have all that its
connection has written (https://redis.io/docs/latest/commands/wait); if they are too few, nobody in it is answered.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError, ResponseError

from services.chassis.redis_commands import ASKING, Command, Word, answers_of

LARGEST = 128  # commands; a few hundred kilobytes, and milliseconds of the server's time


WAIT_MS = 100  # a replica that is there has it within one or two


class NotReplicated(RedisError):
    """The server has carried it out, and too few replicas have it."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    command: Command
    answer: asyncio.Future[Any]
    since_s: float
    """By the clock of the loop."""


class RedisBatches:
    """Sends what it is asked on one connection of a client's pool, one batch at a time.

    Args:
        redis: the client.
        within: how long a batch may take, and how long a command may wait for its turn before that.
        replicas: how many replicas must have what a batch wrote; 0 = none is asked.
    """

    def __init__(self, redis: Redis, within: timedelta, *, replicas: int = 0) -> None:
        self._pool = redis.connection_pool
        self._within_s = within.total_seconds()
        self._replicas = replicas
        self._waiting: deque[_Waiting] = deque()
        self._sending: asyncio.Task[None] | None = None

    async def ask(self, *command: Word, asking: bool = False) -> Any:
        """Run one command, behind `ASKING` or not, and return its answer, as the server gives it.

        Raises:
            RedisError, OSError, TimeoutError: no answer, or a refusal; the command may have been carried out.
        """
        loop = asyncio.get_running_loop()
        if asking:  # a batch that ends between the two goes on upon the same connection
            self._waiting.append(_Waiting(ASKING, _unheard(loop.create_future()), loop.time()))
        waiting = _Waiting(command, loop.create_future(), loop.time())
        self._waiting.append(waiting)
        if self._sending is None or self._sending.done():
            self._sending = loop.create_task(self._send())
        return await waiting.answer

    async def _send(self) -> None:
        """Send batches until nobody asks any more."""
        connection: AbstractConnection | None = None
        try:
            while batch := self._next_batch():
                try:
                    async with asyncio.timeout(self._within_s):
                        connection = connection or await self._pool.get_connection()  # type: ignore[no-untyped-call]
                        answers = await self._answers(connection, [waiting.command for waiting in batch])
                except (RedisError, OSError, TimeoutError) as error:
                    answers = [error] * len(batch)
                except BaseException:
                    for waiting in batch:
                        waiting.answer.cancel()
                    raise
                for waiting, answer in zip(batch, answers, strict=True):
                    _settle(waiting.answer, answer)
                await asyncio.sleep(0)  # who was answered may ask for more at once
        finally:
            if connection is not None:
                await self._pool.release(connection)

    async def _answers(self, connection: AbstractConnection, commands: list[Command]) -> list[Any]:
        if not self._replicas:
            return await answers_of(connection, commands)
        *answers, reached = await answers_of(connection, [*commands, ("WAIT", self._replicas, WAIT_MS)])
        if isinstance(reached, int) and reached >= self._replicas:
            return answers
        missing = NotReplicated(f"{reached} of {self._replicas} replicas have it")
        return [answer if isinstance(answer, ResponseError) else missing for answer in answers]

    def _next_batch(self) -> list[_Waiting]:
        """Take what waits, but what nobody wants any more, or what has waited too long, which is told."""
        batch: list[_Waiting] = []
        latest = asyncio.get_running_loop().time() - self._within_s
        while self._waiting and len(batch) < LARGEST:
            waiting = self._waiting.popleft()
            if waiting.since_s < latest:
                _settle(waiting.answer, TimeoutError("the commands before took too long"))
            elif not waiting.answer.done():
                batch.append(waiting)
        return batch


def _settle(future: asyncio.Future[Any], answer: object) -> None:
    if future.done():
        return
    if isinstance(answer, RedisError | OSError):
        future.set_exception(answer)
    else:
        future.set_result(answer)


def _unheard(future: asyncio.Future[Any]) -> asyncio.Future[Any]:
    """Return a future whose failure is nobody's news."""
    future.add_done_callback(lambda done: done.cancelled() or done.exception())
    return future
