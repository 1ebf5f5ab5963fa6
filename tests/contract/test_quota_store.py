"""Every quota store keeps the promises of its port: the suite runs over memory, a real Redis and a real cluster.

Limits here have room again after hours, so that no test depends on how fast a machine is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from prometheus_client import CollectorRegistry

from services.otp.metrics import OtpMetrics
from services.otp.outbound.redis_quotas import RedisQuotas
from services.otp.ports import QuotaStore
from services.otp.rules.quota import Limit, Quota
from tests.contract.challenge_stores import STORES, empty_redis
from tests.fakes.otp_quotas import InMemoryQuotas

NOTHING = timedelta(0)
HOUR = timedelta(hours=1)
SMALL = Quota("address:small", Limit(2, HOUR))
LARGE = Quota("domain:large", Limit(50, HOUR))


@pytest.fixture(params=STORES)
async def quotas(request: pytest.FixtureRequest) -> AsyncIterator[QuotaStore]:
    """A store that nobody has taken from."""
    if request.param == "memory":
        yield InMemoryQuotas()
        return
    async with empty_redis(request) as redis:
        yield RedisQuotas(redis, OtpMetrics(CollectorRegistry(), []), within=timedelta(minutes=1))


async def _taken(quotas: QuotaStore, token: str, *of: Quota) -> list[bool]:
    return [wait == NOTHING for wait in await quotas.take(token, of)]


async def test_each_quota_is_asked_for_itself_and_the_answers_keep_their_order(quotas: QuotaStore) -> None:
    for token in ("a", "b"):
        assert await _taken(quotas, token, SMALL) == [True]

    small, large = await quotas.take("c", [SMALL, LARGE])
    again, _ = await quotas.take("c", [LARGE, SMALL])

    assert HOUR / 2 < small <= HOUR
    assert (large, again) == (NOTHING, NOTHING)


async def test_a_token_takes_once_however_often_it_asks(quotas: QuotaStore) -> None:
    for _ in range(5):
        assert await _taken(quotas, "a", SMALL) == [True]

    assert await _taken(quotas, "b", SMALL) == [True]
    assert await _taken(quotas, "c", SMALL) == [False]
    assert await _taken(quotas, "a", SMALL) == [True]


async def test_what_is_given_back_can_be_taken_by_somebody_else_once(quotas: QuotaStore) -> None:
    for token in ("a", "b"):
        await quotas.take(token, [SMALL, LARGE])
    await quotas.give_back("a", [SMALL])
    await quotas.give_back("a", [SMALL])
    await quotas.give_back("nobody", [SMALL])

    assert [await _taken(quotas, token, SMALL) for token in ("c", "d")] == [[True], [False]]


async def test_nothing_is_given_back_of_what_is_not_named(quotas: QuotaStore) -> None:
    for token in ("a", "b"):
        await quotas.take(token, [SMALL])
    await quotas.give_back("a", [LARGE])

    assert await _taken(quotas, "c", SMALL) == [False]


async def test_a_refused_token_has_taken_nothing(quotas: QuotaStore) -> None:
    for token in ("a", "b", "refused", "refused"):
        await quotas.take(token, [SMALL])
    await quotas.give_back("refused", [SMALL])

    assert await _taken(quotas, "c", SMALL) == [False]


async def test_of_a_crowd_exactly_as_many_get_in_as_there_is_room(quotas: QuotaStore) -> None:
    answers = await asyncio.gather(*(_taken(quotas, f"one of {number}", LARGE) for number in range(200)))

    assert sum(taken for (taken,) in answers) == LARGE.limit.at_once


async def test_without_a_quota_nothing_is_asked(quotas: QuotaStore) -> None:
    assert await quotas.take("a", []) == []
    await quotas.give_back("a", [])


async def test_a_refill_is_as_if_time_had_passed_for_those_buckets_alone(quotas: QuotaStore) -> None:
    other = Quota("address:other", Limit(2, HOUR))
    for token in ("a", "b"):
        await quotas.take(token, [SMALL, other])

    await quotas.refill([(SMALL, HOUR * 1.5), (LARGE, HOUR)])

    assert await _taken(quotas, "c", SMALL, other) == [True, False]
    assert await _taken(quotas, "d", SMALL) == [False]


async def test_refills_of_many_processes_at_once_are_all_counted(quotas: QuotaStore) -> None:
    for number in range(50):
        await quotas.take(str(number), [LARGE])

    await asyncio.gather(*(quotas.refill([(LARGE, HOUR / 5)]) for _ in range(50)))

    answers = [await _taken(quotas, f"more {number}", LARGE) for number in range(11)]
    assert answers == [[True]] * 10 + [[False]]
