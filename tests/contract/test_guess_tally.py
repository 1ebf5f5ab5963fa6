"""The tally of guesses: over memory, over a real Redis and over a real cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import timedelta

import pytest
from prometheus_client import CollectorRegistry

from services.otp.metrics import OtpMetrics
from services.otp.outbound.redis_store import redis_client
from services.otp.outbound.redis_tally import RedisTally, guesses_key
from services.otp.ports import GuessTally, StoreUnavailable
from services.otp.rules.guesses import Tally
from tests.contract.challenge_stores import DATABASE, PATIENT, STORES, Server, empty_redis
from tests.fakes.clock import FakeClock
from tests.fakes.otp_quotas import InMemoryTally

NOTHING = Tally(0, 0)


@pytest.fixture
def clock() -> FakeClock:
    """Noon, where a stretch of five minutes begins."""
    return FakeClock()


@pytest.fixture(params=STORES)
async def process(request: pytest.FixtureRequest, clock: FakeClock) -> AsyncIterator[Callable[[], GuessTally]]:
    """What makes the tally of one more process."""
    if request.param == "memory":
        shared = InMemoryTally(clock)
        yield lambda: shared
        return
    async with empty_redis(request) as redis:
        metrics = OtpMetrics(CollectorRegistry(), [])
        yield lambda: RedisTally(redis, metrics, clock, within=timedelta(minutes=1))


async def test_what_all_processes_saw_is_told_to_each(process: Callable[[], GuessTally]) -> None:
    one, other = process(), process()

    assert await one.add(Tally(3, 1)) == Tally(3, 1)
    assert await other.add(Tally(0, 5)) == Tally(3, 6)
    assert await one.add(NOTHING) == Tally(3, 6)


async def test_what_lies_more_than_two_stretches_behind_is_forgotten(
    process: Callable[[], GuessTally], clock: FakeClock
) -> None:
    tally = process()
    await tally.add(Tally(3, 1))

    clock.pass_by(timedelta(minutes=9, seconds=59))
    still = await tally.add(Tally(1, 0))
    clock.pass_by(timedelta(seconds=1))

    assert (still, await tally.add(NOTHING)) == (Tally(4, 1), Tally(1, 0))


async def test_on_redis_a_stretch_ends_by_itself_and_none_is_made_of_nothing(
    redis_server: Server, clock: FakeClock
) -> None:
    async with redis_client(f"redis://{redis_server.address}/{DATABASE}?{PATIENT}") as redis:
        await redis.flushdb()
        tally = RedisTally(redis, OtpMetrics(CollectorRegistry(), []), clock, within=timedelta(minutes=1))
        await tally.add(NOTHING)
        assert await redis.keys() == []

        await tally.add(Tally(1, 0))

        assert 540 < await redis.ttl(guesses_key(int(clock().timestamp()) // 300)) <= 600


async def test_on_redis_that_is_away_nothing_is_known(clock: FakeClock) -> None:
    async with redis_client("redis://127.0.0.1:1/0") as nowhere:
        with pytest.raises(StoreUnavailable):
            await RedisTally(nowhere, OtpMetrics(CollectorRegistry(), []), clock).add(NOTHING)
