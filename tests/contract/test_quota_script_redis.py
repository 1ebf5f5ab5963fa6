"""The script of quotas is its model: any schedule, step by step, on a real Redis; and what only Redis can break."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from redis import Redis as BlockingRedis
from redis.asyncio import Redis

from services.otp.metrics import OtpMetrics
from services.otp.outbound.redis_quotas import SCRIPT, RedisQuotas, quota_key
from services.otp.outbound.redis_store import redis_client
from services.otp.ports import StoreUnavailable
from services.otp.rules.quota import Bucket, Limit, Quota, given_back, refilled, taken
from tests.conditions import eventually
from tests.contract.challenge_stores import DATABASE, PATIENT, Server
from tests.fakes.clock import NOON

US = timedelta(microseconds=1)
KEY = quota_key("any")
CLOCK = "redis.call('TIME')"
TOLD = "{ARGV[5], ARGV[6]}"  # seconds and microseconds, in place of the server's own
LIMIT = Limit(3, timedelta(seconds=20))

# Far longer than the test runs: what ends, ends by the told clock and not by Redis's.
limits = st.builds(Limit, st.integers(1, 4), st.integers(60_000_000, 90_000_000).map(lambda us: us * US))
pauses = st.tuples(st.sampled_from((0, 0, 1, 2, 4, 5, 8, 40)), st.sampled_from((0, 0, -1, 1)))
steps = st.lists(st.tuples(pauses, st.sampled_from(("take", "take", "give", "refill")), st.integers(0, 7)), max_size=30)


@pytest.fixture
async def redis(redis_server: Server) -> AsyncIterator[Redis]:
    """A client of the suite's server, on a database that is empty."""
    async with redis_client(f"redis://{redis_server.address}/{DATABASE}?{PATIENT}") as client:
        await client.flushdb()
        yield client


def _quotas(redis: Redis) -> RedisQuotas:
    return RedisQuotas(redis, OtpMetrics(CollectorRegistry(), []), within=timedelta(minutes=1))


@contextmanager
def _blocking(server: Server) -> Iterator[BlockingRedis]:
    host, _, port = server.address.rpartition(":")
    with BlockingRedis(host, int(port), db=DATABASE, socket_timeout=60) as client:
        yield client


def test_the_script_is_its_model(redis_server: Server) -> None:
    text = SCRIPT.read_text()
    assert text.count(CLOCK) == 1
    with _blocking(redis_server) as client:
        script = client.register_script(text.replace(CLOCK, TOLD))

        def run(what: str, token: str, limit: Limit, now: datetime) -> int:
            since = now - datetime.fromtimestamp(0, now.tzinfo)
            clock = [since // timedelta(seconds=1), since % timedelta(seconds=1) // US]
            return int(script(keys=[KEY], args=[what, token, limit.one_each // US, limit.at_once, *clock]))

        @given(limits, steps)
        def same(limit: Limit, schedule: list[tuple[tuple[int, int], str, int]]) -> None:
            client.delete(KEY)
            bucket, now = Bucket(), NOON
            for (quarters, beside), what, number in schedule:
                now += max(limit.one_each * quarters // 4 + beside * US, 0 * US)
                word, wait = str(number), 0 * US
                if what == "give":
                    bucket = given_back(bucket, limit, word)
                elif what == "refill":
                    sooner = limit.one_each * number // 3
                    bucket, word = refilled(bucket, sooner, now), str(sooner // US)
                else:
                    bucket, wait = taken(bucket, limit, word, now)

                assert run(what, word, limit, now) * US == wait
                assert _bucket(client) == (bucket.whole_at, {(at, token) for at, token in bucket.takes})

        same()


def _bucket(client: BlockingRedis) -> tuple[datetime | None, set[tuple[datetime, str]]]:
    stored = cast("list[tuple[bytes, float]]", client.zrange(KEY, 0, -1, withscores=True))
    instants = {token.decode(): datetime.fromtimestamp(0, NOON.tzinfo) + int(us) * US for token, us in stored}
    whole_at = instants.pop("", None)
    return whole_at, {(at, token) for token, at in instants.items()}


async def test_a_bucket_ends_when_it_is_whole_however_much_was_taken_and_names_nobody(redis: Redis) -> None:
    hours = Limit(3, timedelta(hours=8))
    await _quotas(redis).take("first", [Quota("address:abc", hours)])
    await redis.pexpire(quota_key("address:abc"), timedelta(minutes=1))  # as if nearly a day had gone by

    await _quotas(redis).take("second", [Quota("address:abc", hours)])

    assert await redis.keys() == [b"otp:{quota:address:abc}"]
    left = await redis.pttl(quota_key("address:abc")) * timedelta(milliseconds=1)
    assert hours.whole_after - timedelta(minutes=10) < left <= hours.whole_after


async def test_time_is_the_servers_and_gives_back_what_was_taken(redis: Redis) -> None:
    quotas, short = _quotas(redis), Quota("client:short", Limit(1, timedelta(milliseconds=50)))
    assert await quotas.take("a", [short]) == [timedelta(0)]
    (wait,) = await quotas.take("b", [short])
    assert wait <= timedelta(milliseconds=50)

    async def has_room() -> bool:
        return await quotas.take("b", [short]) == [timedelta(0)]

    has: bool = await eventually(has_room, what="room after as long as was told")
    assert has


async def test_all_buckets_of_a_letter_are_asked_in_one_round_trip(redis: Redis) -> None:
    quotas = _quotas(redis)
    of = [Quota(f"domain:{number}", LIMIT) for number in range(5)]
    await quotas.take("warm", of)  # the script is known from now on
    before = await _reads(redis)

    await quotas.take("token", of)

    assert await _reads(redis) - before <= 2  # the taking, and this look


async def _reads(redis: Redis) -> int:
    return int((await redis.info("stats"))["total_reads_processed"])


async def test_a_server_that_forgot_its_scripts_is_taught_them_again(redis: Redis) -> None:
    quotas = _quotas(redis)
    await quotas.take("a", [Quota("x", LIMIT)])
    await redis.script_flush()

    assert await quotas.take("b", [Quota("x", LIMIT)]) == [timedelta(0)]


async def test_a_server_that_is_away_leaves_nothing_known() -> None:
    async with redis_client("redis://127.0.0.1:1/0") as nowhere:
        with pytest.raises(StoreUnavailable):
            await _quotas(nowhere).take("a", [Quota("x", LIMIT)])
