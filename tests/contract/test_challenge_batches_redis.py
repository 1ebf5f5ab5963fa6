"""Commands of concurrent calls on a real Redis: sent together, and yet each has an end of its own."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta

import pytest
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError, ResponseError

from services.chassis.redis_commands import Script
from services.otp.outbound.redis_batches import LARGEST, RedisBatches
from services.otp.outbound.redis_store import redis_client
from tests.contract.challenge_stores import DATABASE, PATIENT, Server

MINUTE = timedelta(minutes=1)


class Counted:
    """A client whose pool counts the commands of each write, and writes nothing while `open` is not set."""

    def __init__(self, client: Redis) -> None:
        self.sizes: list[int] = []
        self.open = asyncio.Event()
        self.open.set()
        self.connection_pool = self
        self._pool = client.connection_pool
        self._write: Callable[[bytes], Awaitable[None]] | None = None

    async def get_connection(self) -> AbstractConnection:
        """Return a connection of the real pool."""
        connection: AbstractConnection = await self._pool.get_connection()  # type: ignore[no-untyped-call]
        self._write = connection.send_packed_command
        connection.send_packed_command = self._written  # type: ignore[method-assign, assignment] # stands before it
        return connection

    async def release(self, connection: AbstractConnection) -> None:
        """Give it back as it came."""
        del connection.send_packed_command
        await self._pool.release(connection)

    async def _written(self, octets: bytes) -> None:
        assert self._write is not None
        self.sizes.append(len(re.findall(rb"^\*", octets, re.MULTILINE)))
        await self.open.wait()
        await self._write(octets)


@pytest.fixture
async def client(redis_server: Server) -> AsyncIterator[Redis]:
    """A client of the suite's server, on a database that is empty."""
    async with redis_client(f"redis://{redis_server.address}/{DATABASE}?{PATIENT}") as made:
        await made.flushdb()
        yield made


@pytest.fixture
def counted(client: Redis) -> Counted:
    """It, counting."""
    return Counted(client)


def batches_of(counted: Counted, within: timedelta = MINUTE) -> RedisBatches:
    return RedisBatches(counted, within)  # type: ignore[arg-type] # all that batches use of a client


async def test_who_asks_at_the_same_time_shares_one_batch_and_gets_the_own_answer(counted: Counted) -> None:
    batches = batches_of(counted)

    answers = await asyncio.gather(*(batches.ask("ECHO", str(n)) for n in range(50)))

    assert answers == [str(number).encode() for number in range(50)]
    assert counted.sizes == [50]


async def test_who_asks_meanwhile_goes_with_the_next_batch_and_none_is_larger_than_allowed(counted: Counted) -> None:
    batches = batches_of(counted)
    counted.open.clear()
    first = asyncio.create_task(batches.ask("INCR", "counter"))
    await asyncio.sleep(0)  # it asks
    await asyncio.sleep(0)  # it is sent
    others = [asyncio.create_task(batches.ask("INCR", "counter")) for _ in range(LARGEST + 5)]
    await asyncio.sleep(0)
    assert counted.sizes == [1]

    counted.open.set()

    assert sorted(await asyncio.gather(first, *others)) == list(range(1, LARGEST + 7))
    assert counted.sizes == [1, LARGEST, 5]


async def test_a_command_that_is_refused_fails_alone(counted: Counted, client: Redis) -> None:
    await client.set("word", "kip")
    batches = batches_of(counted)

    told = await asyncio.gather(
        batches.ask("GET", "word"),
        batches.ask("INCR", "word"),
        batches.ask("STRLEN", "word"),
        return_exceptions=True,
    )

    assert counted.sizes == [3]
    assert (told[0], told[2]) == (b"kip", 3)
    assert isinstance(told[1], ResponseError)


async def test_who_is_cancelled_before_its_turn_is_not_sent_and_the_others_are_answered(counted: Counted) -> None:
    batches = batches_of(counted)
    counted.open.clear()
    first = asyncio.create_task(batches.ask("INCR", "counter"))
    for _ in range(2):
        await asyncio.sleep(0)
    given_up = asyncio.create_task(batches.ask("INCRBY", "counter", 100))
    patient = asyncio.create_task(batches.ask("INCR", "counter"))
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.wait([given_up])

    counted.open.set()

    assert [await first, await patient] == [1, 2]
    assert counted.sizes == [1, 1]


async def test_who_is_cancelled_while_it_is_asked_takes_nobodys_answer_along(counted: Counted) -> None:
    batches = batches_of(counted)
    counted.open.clear()
    calls = [asyncio.create_task(batches.ask("INCR", "counter")) for _ in range(3)]
    for _ in range(2):
        await asyncio.sleep(0)
    calls[1].cancel()
    await asyncio.wait([calls[1]])

    counted.open.set()

    assert [await calls[0], await calls[2]] == [1, 3]
    assert await batches.ask("INCR", "counter") == 4


async def test_a_batch_that_takes_too_long_fails_whole_and_so_does_who_waited_for_it_as_long(counted: Counted) -> None:
    within = timedelta(milliseconds=50)
    batches = batches_of(counted, within)
    counted.open.clear()
    calls = [asyncio.create_task(batches.ask("INCR", "counter")) for _ in range(2)]
    await asyncio.sleep(0)
    late = asyncio.create_task(batches.ask("INCR", "counter"))
    for call in (*calls, late):
        with pytest.raises(TimeoutError):
            await call

    counted.open.set()

    assert await batches.ask("INCR", "counter") == 1, "nothing of the failed batch is on its way"


async def test_who_has_waited_for_its_turn_too_long_is_told_and_not_sent(counted: Counted) -> None:
    batches = batches_of(counted, timedelta(milliseconds=50))
    counted.open.clear()
    calls = [asyncio.create_task(batches.ask("INCR", "counter")) for _ in range(LARGEST + 1)]

    told = await asyncio.gather(*calls, return_exceptions=True)

    assert {type(answer) for answer in told} == {TimeoutError}
    assert counted.sizes == [LARGEST]


async def test_a_script_that_was_forgotten_is_taught_again_and_its_own_refusal_is_told(
    counted: Counted, client: Redis
) -> None:
    batches = batches_of(counted)
    script = Script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    assert await script.run(batches.ask, ["counter"], [2]) == 2
    await client.script_flush()

    answers = await asyncio.gather(*(script.run(batches.ask, ["counter"], [2]) for _ in range(3)))

    assert sorted(answers) == [4, 6, 8]
    with pytest.raises(RedisError, match="not an integer"):
        await script.run(batches.ask, ["counter"], ["many"])
