"""What otp's scripts touch: keys that they declare, all in the slot of one shard, so that a cluster can serve them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import pytest
from redis.asyncio import Redis
from redis.crc import key_slot

from services.otp.outbound.redis_changes import hint_channel
from services.otp.outbound.redis_store import challenge_key, ends_key, outbox_key, redis_client, subject_key
from services.otp.ports import SHARDS, OutboxEntry, Position
from tests.contract.challenge_stores import (
    DATABASE,
    PATIENT,
    SUBJECT_KEY,
    Server,
    World,
    letter_of,
    redis_store,
    subject_of,
    withdrawal_of,
)

STANDS = Position(3, 41)


@pytest.fixture
async def redis(redis_server: Server) -> AsyncIterator[Redis]:
    async with redis_client(f"redis://{redis_server.address}/{DATABASE}?{PATIENT}") as client:
        await client.flushdb()
        yield client


@dataclass(slots=True)
class Run:
    """One run of a script, as the server tells it."""

    declared: Sequence[str]
    touched: list[tuple[str, str]] = field(default_factory=list)
    """Command and key or channel; those without any are left out."""


class Overhearing:
    """What the server does for one client, script by script."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._monitor = redis.monitor()

    async def __aenter__(self) -> Self:
        await self._monitor.__aenter__()  # type: ignore[no-untyped-call]
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._monitor.__aexit__(*error)  # type: ignore[no-untyped-call]

    async def runs(self) -> list[Run]:
        """Return what has run since the last call."""
        await self._redis.echo("all that was before")
        heard: list[Run] = []
        while True:
            told = await self._monitor.next_command()
            command, *words = told["command"].split(" ")
            if command == "ECHO":
                return heard
            if told["client_type"] == "lua":
                heard[-1].touched += [(command, words[0])] if command != "TIME" else []
            elif command == "EVALSHA":
                heard.append(Run(words[2 : 2 + int(words[1])]))


@pytest.fixture
async def overheard(redis: Redis) -> AsyncIterator[Overhearing]:
    store = redis_store(redis)
    await store.load(0)
    await store.note_watched(store.mint_id("", ""), (await store.load(0)).now)
    await store.published([(OutboxEntry(0, "1-0", {}), STANDS)])
    await store.commit(0)  # each script is known to the server from here on, and runs once a call
    async with Overhearing(redis) as overhearing:
        yield overhearing


async def test_each_form_of_a_commit_touches_what_it_declares_and_no_more(redis: Redis, overheard: Overhearing) -> None:
    world = World(redis_store(redis))
    made = await world.challenge()
    shard = world.shard(made)
    outbox, challenge, subject = outbox_key(shard), challenge_key(shard, made.id), subject_key(shard, SUBJECT_KEY)
    ends = ends_key(shard)
    hint = ("SPUBLISH", hint_channel(shard))
    await overheard.runs()

    await world.commit(made, announcements=[letter_of(made), withdrawal_of(made)])
    await world.store.commit(shard, subject=subject_of(made))
    await world.commit(replace(made, version=2), subject=subject_of(made, 2))
    await world.store.commit(shard, announcements=[letter_of(made)])
    await world.commit(replace(made, version=9), subject=subject_of(made, 9), announcements=[letter_of(made)])
    one, alone, both, none, lost = await overheard.runs()

    def written(key: str) -> list[tuple[str, str]]:
        return [("GETRANGE", key), ("SET", key)]

    looked, looked_at_subject = ("GETRANGE", challenge), ("GETRANGE", subject)
    assert one == Run(
        [outbox, ends, challenge], [looked, *written(challenge), *[("XADD", outbox)] * 2, ("ZADD", ends), hint]
    )
    assert alone == Run([outbox, ends, subject], [looked_at_subject, *written(subject)])
    assert both == Run(
        [outbox, ends, challenge, subject], [looked, looked_at_subject, *written(challenge), *written(subject), hint]
    )
    assert none == Run([outbox, ends], [("XADD", outbox)])
    assert lost == Run([outbox, ends, challenge, subject], [looked])


async def test_every_script_declares_what_it_touches_and_stays_in_one_slot(
    redis: Redis, overheard: Overhearing
) -> None:
    world = World(redis_store(redis))
    made, other = await world.challenge(), await world.challenge()
    await overheard.runs()

    (letter,) = await world.told(made, letter_of(made))
    await world.load(made, other, subject_key=SUBJECT_KEY)
    await world.store.note_watched(made.id, made.ends_at)
    await world.store.published([(letter, STANDS)])
    runs = await overheard.runs()

    assert len(runs) == 4
    for run in runs:
        assert {key for command, key in run.touched if command != "SPUBLISH"} <= set(run.declared)
        assert len({key_slot(key.encode()) for key in (*run.declared, *(key for _, key in run.touched))}) == 1


@pytest.mark.parametrize("shard", [0, 7, SHARDS - 1])
def test_all_of_a_shard_is_in_one_slot(shard: int) -> None:
    names = [challenge_key(shard, "c00x"), subject_key(shard, SUBJECT_KEY), outbox_key(shard), hint_channel(shard)]
    names.append(ends_key(shard))

    assert len({key_slot(name.encode()) for name in names}) == 1


def test_shards_are_spread_over_the_slots_of_a_cluster() -> None:
    slots = {key_slot(outbox_key(shard).encode()) for shard in range(SHARDS)}

    assert len(slots) > 0.95 * SHARDS
    assert len({slot * 3 // 16384 for slot in slots}) == 3  # each of three nodes has some
