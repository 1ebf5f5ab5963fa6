"""Records in Redis through a rolling deploy: what a newer or an older otp wrote is read by this one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from datetime import timedelta
from enum import Enum
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from redis.asyncio import Redis

from services.otp.outbound.redis_store import challenge_key, claim_key, redis_client, subject_key
from services.otp.ports import Claim
from services.otp.rules.challenge import Challenge, Handle, SealedPart
from services.otp.rules.entry import Answer, Attempt, Entry, EntryName
from services.otp.rules.generation import Generation
from services.otp.rules.subject import Subject, Wished
from tests.contract.challenge_stores import (
    CHALLENGES,
    DATABASE,
    PATIENT,
    PURPOSE,
    SUBJECT_KEY,
    SUBJECTS,
    Server,
    World,
    claim,
    redis_store,
)

T = TypeVar("T")

FROM_THE_FIRST = {
    Challenge: {
        "id", "version", "purpose", "subject_key", "same_wish", "locale", "code_length", "context_sha256", "sealed",
        "made_at", "ends_at", "generations", "handles",
    },
    Generation: {"number", "reference", "cause", "code_kid", "made_at", "wanted_until", "life", "max_life"},
    SealedPart: {"kid", "nonce", "ciphertext"},
    Handle: {"caller", "secret_sha256"},
    Entry: {"name", "attempt"},
    EntryName: {"key", "typed"},
    Attempt: {"counted_at", "row_before"},
    Answer: {"word"},
    Subject: {"key", "version"},
    Wished: {"same_wish", "challenge_id", "kept_until"},
    Claim: {"fingerprint", "challenge_id", "handle_kid", "claimed_at"},
}  # fmt: skip
EXAMPLES = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
async def redis(redis_server: Server) -> AsyncIterator[Redis]:
    async with redis_client(f"redis://{redis_server.address}/{DATABASE}?{PATIENT}") as client:
        await client.flushdb()
        yield client


def is_demanded(field: Field[Any]) -> bool:
    """Say whether a field has no value of its own."""
    return field.default is MISSING and field.default_factory is MISSING


def as_of_old(value: T) -> T:
    """Return a record as it is without what has a default: all that came later has one."""
    if is_dataclass(value) and not isinstance(value, type):
        demanded = {each.name: as_of_old(getattr(value, each.name)) for each in fields(value) if is_demanded(each)}
        return type(value)(**demanded)
    return tuple(map(as_of_old, value)) if isinstance(value, tuple) else value  # type: ignore[return-value] # a tuple of the same


def packed(value: object, more: Mapping[str, object], *, is_old: bool) -> Any:
    """Return a record as its writer packs it: an old one leaves out what has a default, a new one adds to each map."""
    if is_dataclass(value):
        known = [each for each in fields(value) if is_demanded(each) or not is_old]
        return {**more, **{each.name: packed(getattr(value, each.name), more, is_old=is_old) for each in known}}
    if isinstance(value, tuple):
        return [packed(each, more, is_old=is_old) for each in value]
    return value.value if isinstance(value, Enum) else value


def by_an_older(value: object) -> bytes:
    return msgspec.msgpack.encode(packed(value, {}, is_old=True))


def by_a_newer(value: object) -> bytes:
    more = {"colour": "red", "id_of_a_later_day": {"parts": [1, None, b"\xff"]}}
    return msgspec.msgpack.encode(packed(value, more, is_old=False))


def as_stored(version: int, packed_record: bytes) -> bytes:
    """Return a record as it lies in its string: version, no notes, data."""
    return version.to_bytes(8) + bytes(22) + packed_record


async def read_back(redis: Redis, made: Challenge, subject: Subject, data: tuple[bytes, bytes]) -> tuple[object, ...]:
    """Put packed records where the store looks for them; return what it finds."""
    world = World(redis_store(redis))
    shard = world.shard(made)
    for key, packed_record in zip((challenge_key(shard, made.id), subject_key(shard, subject.key)), data, strict=True):
        await redis.set(key, as_stored(1, packed_record), px=timedelta(hours=1))
    loaded = await world.load(made, subject_key=subject.key)
    return loaded.challenges[made.id], loaded.subject


def named(redis: Redis, made: Challenge) -> Challenge:
    return replace(made, id=redis_store(redis).mint_id(PURPOSE, "citizen-7"))


@given(made=CHALLENGES, subject=SUBJECTS)
@EXAMPLES
async def test_what_a_newer_writer_added_is_passed_over(redis: Redis, made: Challenge, subject: Subject) -> None:
    made = named(redis, made)

    read = await read_back(redis, made, subject, (by_a_newer(made), by_a_newer(subject)))

    assert read == (made, subject)


@given(made=CHALLENGES, subject=SUBJECTS)
@EXAMPLES
async def test_what_an_older_writer_left_out_is_the_default(redis: Redis, made: Challenge, subject: Subject) -> None:
    made = named(redis, made)

    read = await read_back(redis, made, subject, (by_an_older(made), by_an_older(subject)))

    assert read == (as_of_old(made), as_of_old(subject))


@pytest.mark.parametrize("pack", [by_an_older, by_a_newer])
async def test_a_claim_of_another_version_is_read(redis: Redis, pack: Any) -> None:
    await redis.set(claim_key("key"), pack(claim()), px=timedelta(hours=1))

    assert await redis_store(redis).find_claim("key") == claim()
    assert await redis_store(redis).claim("key", claim("c00late")) == claim()


async def test_a_record_of_an_older_writer_goes_on_from_its_version(redis: Redis) -> None:
    world = World(redis_store(redis))
    made = await world.challenge(version=4)
    stored = as_stored(4, by_an_older(made))
    await redis.set(challenge_key(world.shard(made), made.id), stored, px=timedelta(hours=1))

    assert await world.commit(replace(made, version=5, attempts=1)) == []

    assert (await world.load(made, subject_key=SUBJECT_KEY)).challenges[made.id].attempts == 1


@pytest.mark.parametrize("kind", FROM_THE_FIRST, ids=lambda kind: kind.__name__)
def test_a_field_that_was_not_there_from_the_first_has_a_default(kind: type) -> None:
    """Otherwise this otp cannot read what yesterday's wrote; and what once was demanded, yesterday's still demands."""
    assert is_dataclass(kind)

    assert {each.name for each in fields(kind) if is_demanded(each)} == FROM_THE_FIRST[kind]
