"""The ledger in Redis: what only a server can do, be it slow, gone or full."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from deploy.dev.valkey_server import ValkeyServer
from services.mailer.metrics import MailerMetrics
from services.mailer.outbound.redis_ledger import BUDGET, RedisLedger, letter_key, redis_client, wish_key
from services.mailer.ports import Ledger, LedgerAway, Seen, TakenOver
from services.mailer.rules.breaker import FAILURES, Breaker
from services.mailer.rules.letter import Lane
from tests.conditions import eventually
from tests.contract.ledgers import (
    BEGAN,
    OUTCOMES,
    OWNER,
    PATIENT,
    WITHDRAWN,
    Server,
    new_letter,
    tomorrow,
)
from tests.servers.slow_road import slow_road


@pytest.fixture
async def redis(redis_server: Server) -> AsyncIterator[Redis]:
    async with redis_client(f"redis://{redis_server.address}/0") as client:
        yield client


async def test_every_key_ends(redis: Redis) -> None:
    ledger = RedisLedger(redis, Lane.OTP, MailerMetrics(CollectorRegistry()), budget=PATIENT)
    claimed, noted, settled = new_letter(), new_letter(), new_letter()
    hour = 3_600_000

    await ledger.claim(claimed, OWNER, tomorrow())
    await ledger.settle(claimed, OUTCOMES[0])
    await ledger.handing_over(noted, OWNER, BEGAN)
    await ledger.settle(settled, OUTCOMES[0])
    await ledger.heed(claimed, WITHDRAWN, tomorrow())

    assert 23 * hour < await redis.pttl(wish_key(claimed)) <= 24 * hour
    ends = [await redis.pttl(letter_key(letter)) for letter in (claimed, noted, settled)]
    assert 23 * hour < ends[0] <= 24 * hour
    assert all(47 * hour < end <= 48 * hour for end in ends[1:])


async def test_a_key_holds_no_address_and_no_text(redis: Redis) -> None:
    ledger = RedisLedger(redis, Lane.OTP, MailerMetrics(CollectorRegistry()), budget=PATIENT)
    letter = new_letter()
    await ledger.claim(letter, OWNER, tomorrow())
    await ledger.handing_over(letter, OWNER, BEGAN)
    await ledger.settle(letter, replace(OUTCOMES[0]))

    assert set(await redis.hkeys(letter_key(letter))) == {
        b"attempt",
        b"topic",
        b"epoch",
        b"since",
        b"began",
        b"outcome",
    }


async def test_calls_that_come_all_at_once_do_not_use_up_each_others_budget(redis_server: Server) -> None:
    letters = [new_letter() for _ in range(1_500)]  # together far more work than one budget
    registry = CollectorRegistry()
    async with redis_client(f"redis://{redis_server.address}/0") as client:
        ledger = RedisLedger(client, Lane.OTP, MailerMetrics(registry), budget=timedelta(seconds=0.5))
        await ledger.open_connections()

        seen = await asyncio.gather(*(ledger.claim(letter, OWNER, tomorrow()) for letter in letters))

    assert set(seen) == {Seen()}
    assert registry.get_sample_value("mailer_ledger_errors_total", {"lane": "otp"}) == 0


async def test_connections_are_opened_in_vain_without_a_word_when_the_server_is_not_there() -> None:
    async with redis_client("redis://127.0.0.1:1/0") as client:
        ledger = RedisLedger(client, Lane.OTP, MailerMetrics(CollectorRegistry()), budget=PATIENT)

        await ledger.open_connections()

        await away(ledger.claim(new_letter(), OWNER, tomorrow()), within_s=5)


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """A server that a test may stop and kill."""
    server = ValkeyServer(tmp_path_factory.mktemp("redis-private"))
    server.start()
    yield server
    server.stop()


async def away(call: Awaitable[object], *, within_s: float) -> None:
    """Await a call that fails, and in time."""
    started = time.monotonic()
    with pytest.raises(LedgerAway):
        await call
    assert time.monotonic() - started < within_s


async def once_back(ledger: Ledger, letter: str) -> Seen:
    """Return the answer to a claim, once the server is back and the breaker has found out."""
    told: list[Seen] = []

    async def answers() -> bool:
        with contextlib.suppress(LedgerAway):
            told.append(await ledger.claim(letter, OWNER, tomorrow()))
        return bool(told)

    back: bool = await eventually(answers, within_s=20, what="an answer of the ledger")
    assert back
    return told[0]


def every_call(ledger: Ledger, letter: str) -> list[Awaitable[object]]:
    return [
        ledger.claim(letter, OWNER, tomorrow()),
        ledger.handing_over(letter, OWNER, BEGAN),
        ledger.not_taken(letter, BEGAN),
        ledger.settle(letter, OUTCOMES[0]),
        ledger.heed(letter, WITHDRAWN, tomorrow()),
        ledger.wish(letter),
    ]


async def test_a_server_that_does_not_answer_is_away_within_the_budget(private: ValkeyServer) -> None:
    registry = CollectorRegistry()
    async with redis_client(private.url) as client:
        ledger = RedisLedger(client, Lane.NOTICE, MailerMetrics(registry))
        os.kill(private.pid, signal.SIGSTOP)
        try:
            for call in every_call(ledger, new_letter()):
                await away(call, within_s=BUDGET.total_seconds() + 2)  # 2 s: for a machine that is busy with others
        finally:
            os.kill(private.pid, signal.SIGCONT)

    assert registry.get_sample_value("mailer_ledger_errors_total", {"lane": "notice"}) == 7  # `settle` makes two
    assert registry.get_sample_value("mailer_ledger_errors_total", {"lane": "otp"}) == 0


async def test_a_server_that_is_slow_costs_a_few_calls_their_budget_and_the_others_nothing(
    private: ValkeyServer,
) -> None:
    registry, letter = CollectorRegistry(), new_letter()
    with slow_road(private.address, delay_s=2) as road:
        async with redis_client(f"redis://{road.address}/0") as client:
            breaker = Breaker(pause=timedelta(minutes=10))
            ledger = RedisLedger(client, Lane.OTP, MailerMetrics(registry), breaker=breaker)
            for _ in range(FAILURES):
                await away(ledger.claim(letter, OWNER, tomorrow()), within_s=BUDGET.total_seconds() + 2)
            assert registry.get_sample_value("mailer_ledger_breaker_open", {"lane": "otp"}) == 1
            assert road.late > 0, "the server answers, and late"

            started = time.monotonic()
            for _ in range(100):
                await away(ledger.claim(letter, OWNER, tomorrow()), within_s=2)
            took_s = time.monotonic() - started

    assert took_s < 100 * BUDGET.total_seconds() / 2, "they did not each wait for their budget"
    assert registry.get_sample_value("mailer_ledger_errors_total", {"lane": "otp"}) == FAILURES + 100


async def test_a_breaker_that_is_open_closes_when_the_server_answers_again(private: ValkeyServer) -> None:
    registry, letter = CollectorRegistry(), new_letter()
    async with redis_client(private.url) as client:
        ledger = RedisLedger(client, Lane.NOTICE, MailerMetrics(registry))
        os.kill(private.pid, signal.SIGSTOP)
        try:
            for call in every_call(ledger, letter):
                await away(call, within_s=BUDGET.total_seconds() + 2)
            assert registry.get_sample_value("mailer_ledger_breaker_open", {"lane": "notice"}) == 1
        finally:
            os.kill(private.pid, signal.SIGCONT)

        await once_back(ledger, letter)

    assert registry.get_sample_value("mailer_ledger_breaker_open", {"lane": "notice"}) == 0


async def test_an_epoch_that_was_newer_long_ago_is_of_a_group_that_counts_anew(redis: Redis) -> None:
    ledger = RedisLedger(redis, Lane.OTP, MailerMetrics(CollectorRegistry()), budget=PATIENT)
    letter, older = new_letter(), replace(OWNER, epoch=1)
    await ledger.claim(letter, OWNER, tomorrow())
    with pytest.raises(TakenOver):
        await ledger.claim(letter, older, tomorrow())
    since = int(await redis.hget(letter_key(letter), "since") or 0)
    assert abs(since / 1000 - time.time()) < 60
    await redis.hset(letter_key(letter), "since", str(since - 600_000))

    assert await ledger.claim(letter, older, tomorrow()) == Seen()


async def test_a_late_answer_is_never_taken_for_the_answer_about_another_letter(private: ValkeyServer) -> None:
    told, asked = new_letter(), [new_letter() for _ in range(20)]
    async with redis_client(private.url) as client:
        patient = RedisLedger(client, Lane.OTP, MailerMetrics(CollectorRegistry()), budget=PATIENT)
        hasty = RedisLedger(client, Lane.OTP, MailerMetrics(CollectorRegistry()))
        await patient.handing_over(told, OWNER, BEGAN)
        os.kill(private.pid, signal.SIGSTOP)
        try:
            gone = await asyncio.gather(
                *(hasty.claim(told, OWNER, tomorrow()) for _ in range(20)), return_exceptions=True
            )
        finally:
            os.kill(private.pid, signal.SIGCONT)

        seen = await asyncio.gather(*(patient.claim(letter, OWNER, tomorrow()) for letter in asked))

        assert {type(each) for each in gone} == {LedgerAway}
        assert set(seen) == {Seen()}
        assert await patient.claim(told, OWNER, tomorrow()) == Seen(body_started_at=BEGAN)


async def test_a_server_that_is_gone_is_away_at_once_and_what_was_noted_is_there_when_it_is_back(
    private: ValkeyServer,
) -> None:
    letter = new_letter()
    async with redis_client(private.url) as client:
        ledger = RedisLedger(client, Lane.OTP, MailerMetrics(CollectorRegistry()), budget=PATIENT)
        await ledger.settle(letter, OUTCOMES[0])
        await asyncio.to_thread(private.stop)
        for call in every_call(ledger, letter):
            await away(call, within_s=5)
        await asyncio.to_thread(private.start)

        assert (await once_back(ledger, letter)).outcome == OUTCOMES[0]


async def test_a_server_that_is_full_is_away_and_loses_nothing(tmp_path: Path) -> None:
    server = ValkeyServer(tmp_path)
    await asyncio.to_thread(server.start)
    letter = new_letter()
    try:
        async with redis_client(server.url) as client:
            ledger = RedisLedger(client, Lane.OTP, MailerMetrics(CollectorRegistry()), budget=PATIENT)
            await ledger.settle(letter, OUTCOMES[0])
            await client.config_set("maxmemory", "1")
            await away(ledger.settle(new_letter(), OUTCOMES[0]), within_s=5)
            await client.config_set("maxmemory", "0")

            assert (await ledger.claim(letter, OWNER, tomorrow())).outcome == OUTCOMES[0]
    finally:
        await asyncio.to_thread(server.stop)
