"""The ledger in Redis: what only a server can do, be it slow, gone or full."""

from __future__ import annotations

import asyncio
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
from services.mailer.ports import Ledger, LedgerAway, Seen
from services.mailer.rules.letter import Lane
from tests.contract.ledgers import (
    BEGAN,
    OUTCOMES,
    PATIENT,
    WITHDRAWN,
    Server,
    new_letter,
    tomorrow,
)


@pytest.fixture
async def redis(redis_server: Server) -> AsyncIterator[Redis]:
    async with redis_client(f"redis://{redis_server.address}/0") as client:
        yield client


async def test_every_key_ends(redis: Redis) -> None:
    ledger = RedisLedger(redis, Lane.OTP, MailerMetrics(CollectorRegistry()), budget=PATIENT)
    claimed, noted, settled = new_letter(), new_letter(), new_letter()
    hour = 3_600_000

    await ledger.claim(claimed, tomorrow())
    await ledger.settle(claimed, OUTCOMES[0])
    await ledger.handing_over(noted, BEGAN)
    await ledger.settle(settled, OUTCOMES[0])
    await ledger.heed(claimed, WITHDRAWN, tomorrow())

    assert 23 * hour < await redis.pttl(wish_key(claimed)) <= 24 * hour
    ends = [await redis.pttl(letter_key(letter)) for letter in (claimed, noted, settled)]
    assert 23 * hour < ends[0] <= 24 * hour
    assert all(47 * hour < end <= 48 * hour for end in ends[1:])


async def test_a_key_holds_no_address_and_no_text(redis: Redis) -> None:
    ledger = RedisLedger(redis, Lane.OTP, MailerMetrics(CollectorRegistry()), budget=PATIENT)
    letter = new_letter()
    await ledger.claim(letter, tomorrow())
    await ledger.handing_over(letter, BEGAN)
    await ledger.settle(letter, replace(OUTCOMES[0]))

    assert set(await redis.hkeys(letter_key(letter))) == {b"claimed", b"began", b"outcome"}


async def test_calls_that_come_all_at_once_do_not_use_up_each_others_budget(redis_server: Server) -> None:
    letters = [new_letter() for _ in range(1_500)]  # together far more work than one budget
    registry = CollectorRegistry()
    async with redis_client(f"redis://{redis_server.address}/0") as client:
        ledger = RedisLedger(client, Lane.OTP, MailerMetrics(registry), budget=timedelta(seconds=0.5))
        await ledger.open_connections()

        seen = await asyncio.gather(*(ledger.claim(letter, tomorrow()) for letter in letters))

    assert set(seen) == {Seen()}
    assert registry.get_sample_value("mailer_ledger_errors_total", {"lane": "otp"}) == 0


async def test_connections_are_opened_in_vain_without_a_word_when_the_server_is_not_there() -> None:
    async with redis_client("redis://127.0.0.1:1/0") as client:
        ledger = RedisLedger(client, Lane.OTP, MailerMetrics(CollectorRegistry()), budget=PATIENT)

        await ledger.open_connections()

        await away(ledger.claim(new_letter(), tomorrow()), within_s=5)


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


def every_call(ledger: Ledger, letter: str) -> list[Awaitable[object]]:
    return [
        ledger.claim(letter, tomorrow()),
        ledger.handing_over(letter, BEGAN),
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

    assert registry.get_sample_value("mailer_ledger_errors_total", {"lane": "notice"}) == 6
    assert registry.get_sample_value("mailer_ledger_errors_total", {"lane": "otp"}) == 0


async def test_a_late_answer_is_never_taken_for_the_answer_about_another_letter(private: ValkeyServer) -> None:
    told, asked = new_letter(), [new_letter() for _ in range(20)]
    async with redis_client(private.url) as client:
        patient = RedisLedger(client, Lane.OTP, MailerMetrics(CollectorRegistry()), budget=PATIENT)
        hasty = RedisLedger(client, Lane.OTP, MailerMetrics(CollectorRegistry()))
        await patient.handing_over(told, BEGAN)
        os.kill(private.pid, signal.SIGSTOP)
        try:
            gone = await asyncio.gather(*(hasty.claim(told, tomorrow()) for _ in range(20)), return_exceptions=True)
        finally:
            os.kill(private.pid, signal.SIGCONT)

        seen = await asyncio.gather(*(patient.claim(letter, tomorrow()) for letter in asked))

        assert {type(each) for each in gone} == {LedgerAway}
        assert set(seen) == {Seen()}
        assert await patient.claim(told, tomorrow()) == Seen(body_started_at=BEGAN)


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

        assert (await ledger.claim(letter, tomorrow())).outcome == OUTCOMES[0]


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

            assert (await ledger.claim(letter, tomorrow())).outcome == OUTCOMES[0]
    finally:
        await asyncio.to_thread(server.stop)
