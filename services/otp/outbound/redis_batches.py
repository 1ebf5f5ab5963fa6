"""Commands of concurrent calls, sent together: one write, one timer and one connection for all that ask meanwhile.

Alone, a command costs the client 100 µs of CPU; in company of three others, 20 µs (docs/adr/0021). So a command joins
the batch that goes next, and a batch goes as soon as the one before has been answered: nobody waits for company, and
the more ask, the larger the batches. A batch is no transaction: what must happen together is one script.

Whoever is cancelled leaves the batch as it is, and its answer goes nowhere. So no caller's deadline costs a connection.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeAlias

from hiredis import pack_command
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.commands.core import AsyncScript
from redis.exceptions import NoScriptError, RedisError, ResponseError

Word: TypeAlias = bytes | str | int | memoryview

LARGEST = 128  # commands; a few hundred kilobytes, and milliseconds of the server's time


@dataclass(frozen=True, slots=True)
class _Waiting:
    command: tuple[Word, ...]
    answer: asyncio.Future[Any]
    since_s: float
    """By the clock of the loop."""


class RedisBatches:
    """Sends what it is asked on one connection of a client's pool, one batch at a time.

    Args:
        redis: the client.
        within: how long a batch may take, and how long a command may wait for its turn before that.
    """

    def __init__(self, redis: Redis, within: timedelta) -> None:
        self._pool = redis.connection_pool
        self._within_s = within.total_seconds()
        self._waiting: deque[_Waiting] = deque()
        self._sending: asyncio.Task[None] | None = None

    async def ask(self, *command: Word) -> Any:
        """Run one command and return its answer, as the server gives it.

        Raises:
            RedisError, OSError, TimeoutError: no answer, or a refusal; the command may have been carried out.
        """
        loop = asyncio.get_running_loop()
        waiting = _Waiting(command, loop.create_future(), loop.time())
        self._waiting.append(waiting)
        if self._sending is None or self._sending.done():
            self._sending = loop.create_task(self._send())
        return await waiting.answer

    async def run(self, script: AsyncScript, keys: Sequence[str], args: Sequence[Word] = ()) -> Any:
        """Run a script; a server that does not know it is taught it. Raises as `ask` does."""
        command = ("EVALSHA", script.sha, len(keys), *keys, *args)
        try:
            return await self.ask(*command)
        except NoScriptError:
            await self.ask("SCRIPT", "LOAD", script.script)
            return await self.ask(*command)

    async def _send(self) -> None:
        """Send batches until nobody asks any more."""
        connection: AbstractConnection | None = None
        try:
            while batch := self._next_batch():
                try:
                    async with asyncio.timeout(self._within_s):
                        connection = connection or await self._pool.get_connection()  # type: ignore[no-untyped-call]
                        answers = await _answers(connection, [waiting.command for waiting in batch])
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


async def _answers(connection: AbstractConnection, commands: Sequence[tuple[Word, ...]]) -> list[Any]:
    """Return what the server answers to each; a connection on which anything else goes wrong is closed by the client.

    Not by the client's pipeline: to a few commands it costs as much again.
    """
    packed = [pack_command(command) for command in commands]  # type: ignore[arg-type] # its stub allows one word only
    await connection.send_packed_command(b"".join(packed))
    answers: list[Any] = []
    for _ in commands:
        try:
            answers.append(await connection.read_response())
        except ResponseError as refusal:
            answers.append(refusal)
    return answers


def _settle(future: asyncio.Future[Any], answer: object) -> None:
    if future.done():
        return
    if isinstance(answer, RedisError | OSError):
        future.set_exception(answer)
    else:
        future.set_result(answer)
