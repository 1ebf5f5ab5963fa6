"""Commands of Redis, on a connection of a client: several in one write; scripts, which a server is taught when needed.

Answers are as the server gives them, by RESP3 (https://redis.io/docs/latest/develop/reference/protocol-spec).
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from hiredis import pack_command
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoScriptError, ResponseError

Word: TypeAlias = bytes | str | int | memoryview
Command: TypeAlias = Sequence[Word]

ASKING: Command = ("ASKING",)
"""Before a command of a cluster: this once, serve a slot that is still on its way to you."""


@dataclass(frozen=True, slots=True)
class Script:
    """A script of Redis, and the name that a server knows it by once it has seen it."""

    text: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha", hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest())

    async def run(self, ask: Callable[..., Awaitable[Any]], keys: Sequence[str], args: Sequence[Word] = ()) -> Any:
        """Run it by `ask`, which takes the words of a command; a server that does not know it is taught it."""
        try:
            return await ask("EVALSHA", self.sha, len(keys), *keys, *args)
        except NoScriptError:
            return await ask("EVAL", self.text, len(keys), *keys, *args)


async def alone(redis: Redis, command: Command, *, asking: bool = False) -> Any:
    """Run one command on a connection of the client's pool, behind `ASKING` or not; raise its refusal."""
    *_, answer = await sent_to(redis, [ASKING, command] if asking else [command])
    if isinstance(answer, ResponseError):
        raise answer
    return answer


async def sent_to(redis: Redis, commands: Sequence[Command]) -> list[Any]:
    """Send commands in one write on a connection of the client's pool; return the answer or the refusal of each."""
    connection: AbstractConnection = await redis.connection_pool.get_connection()  # type: ignore[no-untyped-call]
    try:
        return await answers_of(connection, commands)
    finally:
        await redis.connection_pool.release(connection)


async def answers_of(connection: AbstractConnection, commands: Sequence[Command]) -> list[Any]:
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
