"""What `ReceiptBook` promises, asked of the twin in memory, of a real Redis and of a cluster; each beside a ledger."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import pytest
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from services.chassis.clock import system_clock
from services.mailer.metrics import MailerMetrics
from services.mailer.outbound.redis_ledger import RedisLedger, receipts_key, redis_client, relayed_key
from services.mailer.outbound.redis_receipts import RedisReceipts
from services.mailer.ports import Ledger, LedgerAway, ReceiptBook, Relayed
from services.mailer.rules.letter import Lane, LetterName
from services.mailer.rules.outcome import HandedOver
from services.mailer.rules.receipt import Receipt, Source, Told
from tests.contract.ledgers import BEGAN, LEDGERS, OUTCOMES, PATIENT, SECOND, Server, new_letter, redis_of
from tests.fakes.mailer import InMemoryLedger
from tests.fakes.mailer_receipts import InMemoryReceiptBook

DELIVERED = Receipt(Told.DELIVERED, Source.RELAY_LOG, BEGAN, "2.0.0")
TOOK = HandedOver(BEGAN + SECOND, BEGAN, "relay-1", "")


@dataclass
class Shelf:
    """A ledger, and the book beside it."""

    ledger: Ledger
    book: ReceiptBook


@pytest.fixture
async def redis(redis_server: Server) -> AsyncIterator[Redis]:
    async with redis_client(f"redis://{redis_server.address}/0") as client:
        yield client


@pytest.fixture(params=LEDGERS)
async def shelf(request: pytest.FixtureRequest) -> AsyncIterator[Shelf]:
    if request.param == "memory":
        in_memory = InMemoryLedger(system_clock)
        yield Shelf(in_memory, InMemoryReceiptBook(in_memory))
        return
    async with redis_of(request) as redis:
        ledger = RedisLedger(redis, Lane.OTP, MailerMetrics(CollectorRegistry()), budget=PATIENT)
        yield Shelf(ledger, RedisReceipts(redis))


def named(letter_id: str) -> LetterName:
    owner_id, _, generation = letter_id.rpartition(".")
    return LetterName(Lane.OTP, owner_id, int(generation))


async def test_a_letter_is_known_by_the_name_that_its_relay_told(shelf: Shelf) -> None:
    letter, name = new_letter(), f"4b{new_letter()[:8]}"
    await shelf.ledger.settle(letter, replace(TOOK, relay_id=name))

    found = await shelf.book.relayed("relay-1", {name, "no-such-name"})

    assert found == {name: Relayed(named(letter), TOOK.at)}
    assert await shelf.book.relayed("relay-2", {name}) == {}
    assert await shelf.book.relayed("relay-1", set()) == {}


async def test_both_copies_of_a_letter_are_known(shelf: Shelf) -> None:
    letter, (first, second) = new_letter(), (f"4b{new_letter()[:8]}" for _ in range(2))
    for name in (first, second):
        await shelf.ledger.settle(letter, replace(TOOK, relay_id=name))

    assert (await shelf.book.relayed("relay-1", [first, second])).keys() == {first, second}


async def test_what_no_relay_took_has_no_name(shelf: Shelf) -> None:
    for outcome in OUTCOMES[1:]:
        await shelf.ledger.settle(new_letter(), outcome)

    assert await shelf.book.relayed("", {""}) == {}


async def test_a_name_that_was_let_go_is_nobodys(shelf: Shelf) -> None:
    name = f"4b{new_letter()[:8]}"
    await shelf.ledger.settle(new_letter(), replace(TOOK, relay_id=name))

    for _ in range(2):
        await shelf.book.let_go("relay-1", name)

    assert await shelf.book.relayed("relay-1", {name}) == {}


async def test_what_was_told_is_remembered_by_letter(shelf: Shelf) -> None:
    letter = new_letter()
    deferred = replace(DELIVERED, told=Told.DEFERRED, next_try_at=BEGAN + 300 * SECOND)
    for receipt in (DELIVERED, deferred, DELIVERED):
        await shelf.book.note(letter, receipt)

    assert set(await shelf.book.told(letter)) == {DELIVERED.key, deferred.key}
    assert not await shelf.book.told(new_letter())


async def test_how_far_a_log_was_read_is_the_last_that_was_kept(shelf: Shelf) -> None:
    log = new_letter()
    assert await shelf.book.bookmark(log) is None

    for place in (b"\x00one", b"\xfftwo"):
        await shelf.book.keep_bookmark(log, place)

    assert await shelf.book.bookmark(log) == b"\xfftwo"


@pytest.mark.parametrize(("lane", "days"), [(Lane.OTP, 1), (Lane.NOTICE, 6)])
async def test_names_and_receipts_end_and_bookmarks_do_not(redis: Redis, lane: Lane, days: int) -> None:
    letter, name, day = new_letter(), f"4b{new_letter()[:8]}", 86_400_000
    ledger, book = RedisLedger(redis, lane, MailerMetrics(CollectorRegistry()), budget=PATIENT), RedisReceipts(redis)

    await ledger.settle(letter, replace(TOOK, relay_id=name))
    await book.note(letter, DELIVERED)

    assert (days - 0.1) * day < await redis.pttl(relayed_key("relay-1", name)) <= days * day
    assert 6.9 * day < await redis.pttl(receipts_key(letter)) <= 7 * day
    assert (await book.relayed("relay-1", [name]))[name].letter.lane is lane


async def test_without_a_server_every_call_says_so() -> None:
    async with redis_client("redis://127.0.0.1:1/0") as client:
        book = RedisReceipts(client)
        calls = (
            book.relayed("relay-1", ["4b"]),
            book.let_go("relay-1", "4b"),
            book.told("a.1"),
            book.note("a.1", DELIVERED),
            book.bookmark("a"),
            book.keep_bookmark("a", b""),
        )
        for call in calls:
            with pytest.raises(LedgerAway):
                await call
