"""What `Ledger` promises, asked of the twin in memory and of a real Redis, also of one that is slow, gone or full."""

from __future__ import annotations

import asyncio
import os
import signal
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

import pytest
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from deploy.dev.valkey_server import ValkeyServer
from services.chassis.clock import system_clock
from services.mailer.metrics import MailerMetrics
from services.mailer.outbound.redis_ledger import BUDGET, RedisLedger, letter_key, redis_client
from services.mailer.ports import Ledger, LedgerAway, Seen
from services.mailer.rules.letter import Lane
from services.mailer.rules.outcome import Dropped, DropReason, HandedOver, Outcome, Refused
from tests.conditions import eventually
from tests.fakes.mailer import InMemoryLedger

PATIENT = timedelta(seconds=10)  # a busy machine must not be taken for a slow Redis
SECOND = timedelta(seconds=1)
BEGAN = datetime(2026, 11, 25, 8, 0, 0, 123456, tzinfo=UTC)
OUTCOMES: list[Outcome] = [
    HandedOver(BEGAN + SECOND, BEGAN, "relay-1", "4bXyZ1"),
    HandedOver(BEGAN, BEGAN, "", "", uncertain=True),
    Refused(BEGAN, 550, "5.1.1"),
    Dropped(BEGAN, DropReason.DEADLINE, exposed=False),
    Dropped(BEGAN, DropReason.DEADLINE, exposed=True),
]


class Server(Protocol):
    """The suite's Redis."""

    @property
    def address(self) -> str:
        """HOST:PORT."""


@pytest.fixture
async def redis(redis_server: Server) -> AsyncIterator[Redis]:
    async with redis_client(f"redis://{redis_server.address}/0") as client:
        yield client


@pytest.fixture(params=["memory", "redis"])
def ledger(request: pytest.FixtureRequest) -> Ledger:
    if request.param == "memory":
        return InMemoryLedger(system_clock)
    redis: Redis = request.getfixturevalue("redis")
    return RedisLedger(redis, Lane.OTP, MailerMetrics(CollectorRegistry()), budget=PATIENT)


def new_letter() -> str:
    return f"{uuid.uuid4()}.1"


def tomorrow() -> datetime:
    return system_clock() + timedelta(days=1)


class LedgerContract:
    """Obligations of `Ledger`."""

    async def test_of_a_new_letter_nothing_is_known(self, ledger: Ledger) -> None:
        assert await ledger.claim(new_letter(), tomorrow()) == Seen()

    async def test_a_claim_alone_says_nothing_to_the_next(self, ledger: Ledger) -> None:
        letter = new_letter()
        await ledger.claim(letter, tomorrow())

        assert await ledger.claim(letter, tomorrow()) == Seen()

    async def test_a_body_that_may_have_left_is_told_to_the_microsecond(self, ledger: Ledger) -> None:
        letter = new_letter()
        await ledger.claim(letter, tomorrow())
        await ledger.handing_over(letter, BEGAN)

        assert await ledger.claim(letter, tomorrow()) == Seen(body_started_at=BEGAN)

    async def test_the_earliest_body_stays(self, ledger: Ledger) -> None:
        letter = new_letter()
        await ledger.handing_over(letter, BEGAN)
        await ledger.handing_over(letter, BEGAN + SECOND)

        assert (await ledger.claim(letter, tomorrow())).body_started_at == BEGAN

    @pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda outcome: type(outcome).__name__)
    async def test_an_outcome_is_told_as_it_was_settled(self, ledger: Ledger, outcome: Outcome) -> None:
        letter = new_letter()
        await ledger.claim(letter, tomorrow())
        await ledger.settle(letter, outcome)

        assert await ledger.claim(letter, tomorrow()) == Seen(outcome)

    async def test_the_first_outcome_stays(self, ledger: Ledger) -> None:
        letter = new_letter()
        for outcome in OUTCOMES:
            await ledger.settle(letter, outcome)

        assert (await ledger.claim(letter, tomorrow())).outcome == OUTCOMES[0]

    async def test_an_outcome_does_not_hide_when_the_body_left(self, ledger: Ledger) -> None:
        letter = new_letter()
        await ledger.handing_over(letter, BEGAN)
        await ledger.settle(letter, OUTCOMES[0])

        assert await ledger.claim(letter, tomorrow()) == Seen(OUTCOMES[0], BEGAN)

    async def test_a_body_that_the_relay_said_no_to_is_forgotten(self, ledger: Ledger) -> None:
        letter = new_letter()
        await ledger.handing_over(letter, BEGAN)
        await ledger.not_taken(letter, BEGAN)
        assert await ledger.claim(letter, tomorrow()) == Seen()

        await ledger.handing_over(letter, BEGAN + SECOND)
        assert await ledger.claim(letter, tomorrow()) == Seen(body_started_at=BEGAN + SECOND)

    async def test_a_no_to_one_body_does_not_forget_another(self, ledger: Ledger) -> None:
        letter = new_letter()
        await ledger.handing_over(letter, BEGAN)
        await ledger.handing_over(letter, BEGAN + SECOND)
        await ledger.not_taken(letter, BEGAN + SECOND)
        await ledger.not_taken(new_letter(), BEGAN)

        assert await ledger.claim(letter, tomorrow()) == Seen(body_started_at=BEGAN)

    async def test_letters_do_not_know_of_each_other(self, ledger: Ledger) -> None:
        await ledger.settle(new_letter(), OUTCOMES[0])

        assert await ledger.claim(new_letter(), tomorrow()) == Seen()

    async def test_of_many_claims_at_once_each_gets_the_answer_about_its_own_letter(self, ledger: Ledger) -> None:
        letters = [new_letter() for _ in range(40)]
        for number, letter in enumerate(letters[::2]):
            await ledger.handing_over(letter, BEGAN + number * SECOND)

        seen = await asyncio.gather(*(ledger.claim(letter, tomorrow()) for letter in letters))

        assert [each.body_started_at for each in seen[::2]] == [BEGAN + number * SECOND for number in range(20)]
        assert set(seen[1::2]) == {Seen()}

    async def test_a_letter_is_forgotten_when_its_time_is_over(self, ledger: Ledger) -> None:
        letter = new_letter()
        await ledger.settle(letter, OUTCOMES[0])
        await ledger.claim(letter, system_clock() + 0.2 * SECOND)

        async def forgotten() -> bool:
            seen = await ledger.claim(letter, system_clock() + 0.2 * SECOND)
            return seen == Seen()

        await until_unasked(forgotten)

    async def test_a_letter_whose_time_was_over_long_ago_is_no_trouble(self, ledger: Ledger) -> None:
        letter = new_letter()

        assert await ledger.claim(letter, system_clock() - timedelta(days=3)) == Seen()
        await ledger.settle(letter, OUTCOMES[0])
        assert (await ledger.claim(letter, tomorrow())).outcome == OUTCOMES[0]


async def passed(seconds: float) -> None:
    """Let time pass."""
    end = time.monotonic() + seconds
    await eventually(lambda: time.monotonic() > end, within_s=seconds + 5)


async def until_unasked(look: Callable[[], Awaitable[bool]]) -> None:
    """Ask at growing distances, because each question here keeps the letter a little longer."""
    for pause in (0.4, 1, 3, 9):
        await passed(pause)
        if await look():
            return
    raise AssertionError("it is remembered beyond its time")


class TestLedger(LedgerContract):
    """Both twins."""


# What only a server can do.


async def test_every_key_ends(redis: Redis) -> None:
    ledger = RedisLedger(redis, Lane.OTP, MailerMetrics(CollectorRegistry()), budget=PATIENT)
    claimed, noted, settled = new_letter(), new_letter(), new_letter()

    await ledger.claim(claimed, tomorrow())
    await ledger.settle(claimed, OUTCOMES[0])
    await ledger.handing_over(noted, BEGAN)
    await ledger.settle(settled, OUTCOMES[0])

    ends = [await redis.pttl(letter_key(letter)) for letter in (claimed, noted, settled)]
    hour = 3_600_000
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

    assert registry.get_sample_value("mailer_ledger_errors_total", {"lane": "notice"}) == 4
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
