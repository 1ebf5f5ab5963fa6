"""From records to wishes: what is read, what can never be, and how news is counted."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st
from kip.otp.v1 import otp_events_pb2
from prometheus_client import CollectorRegistry

from services.chassis.record_fate import Poison, Record
from services.mailer.actions.heed import HeedWish
from services.mailer.inbound.kafka_inbox import WantedInbox, read_wish
from services.mailer.metrics import WISHES, MailerMetrics
from services.mailer.ports import TryAgain
from services.mailer.rules.letter import Order
from services.mailer.rules.wish import LATEST, News, Wish
from tests.fakes.clock import NOON, FakeClock
from tests.fakes.mailer import InMemoryLedger, code_order

UNTIL = NOON + timedelta(minutes=20, microseconds=5)
ORDER: Order = code_order()


def stamp(instant: datetime) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(instant)
    return made


def code_wanted(**changes: Any) -> bytes:
    fields: dict[str, Any] = {"challenge_id": ORDER.owner_id, "generation": 1, "wanted_until": stamp(UNTIL)}
    return otp_events_pb2.CodeWanted(**(fields | changes)).SerializeToString()


def record(value: bytes) -> Record:
    return Record("otp.code-wanted.v1", 3, 7, b"challenge-1", value, {}, NOON, 1)


class Road:
    """The inbox over the verb and a ledger in memory."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.ledger = InMemoryLedger(clock := FakeClock())
        self.inbox = WantedInbox(HeedWish(self.ledger, clock=clock), MailerMetrics(self.registry))

    def counts(self) -> dict[str, float | None]:
        return {kind: self.registry.get_sample_value("mailer_wishes_total", {"kind": kind}) for kind in WISHES}


@pytest.mark.parametrize(
    ("changes", "wish"),
    [
        ({}, Wish(UNTIL)),
        ({"withdrawn": True}, Wish(UNTIL, withdrawn=True)),
        ({"withdrawn": True, "wanted_until": None}, Wish(withdrawn=True)),
        ({"wanted_until": stamp(LATEST)}, Wish(LATEST)),
    ],
    ids=str,
)
def test_a_wish_is_what_the_event_says_about_the_letter_of_the_order(changes: dict[str, Any], wish: Wish) -> None:
    assert read_wish(code_wanted(**changes)) == (ORDER.id, wish)


async def test_a_wish_is_heeded_and_counted_by_what_it_changes() -> None:
    road = Road()
    assert road.counts() == {"extended": 0, "withdrawn": 0, "stale": 0}

    for value in (code_wanted(), code_wanted(), code_wanted(withdrawn=True), code_wanted()):
        await road.inbox(record(value))

    assert await road.ledger.wish(ORDER.id) == Wish(UNTIL, withdrawn=True)
    assert road.counts() == {"extended": 1, "withdrawn": 1, "stale": 2}


def test_the_news_that_are_counted_are_the_news_that_there_are() -> None:
    assert set(WISHES) == {news.value for news in News}


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xff\xff\xff",
        b"not a wish",
        code_wanted(challenge_id=""),
        code_wanted(generation=0),
        code_wanted(wanted_until=None),
        code_wanted(wanted_until=Timestamp(seconds=10**15)),
        code_wanted(wanted_until=stamp(LATEST + timedelta(microseconds=1)), withdrawn=True),
        code_wanted(wanted_until=Timestamp(seconds=253402300799)),
    ],
    ids=[
        "nothing",
        "rubbish",
        "words",
        "no challenge",
        "no generation",
        "no wish",
        "no time",
        "beyond the latest",
        "the end of the calendar",
    ],
)
async def test_what_can_never_be_a_wish_is_poison(value: bytes) -> None:
    road = Road()

    with pytest.raises(Poison, match=r"^otp\.code-wanted\.v1: not a wish: "):
        await road.inbox(record(value))

    assert await road.ledger.wish(ORDER.id) == Wish()
    assert road.counts() == {"extended": 0, "withdrawn": 0, "stale": 0}


@given(octets=st.binary(max_size=100))
def test_whatever_the_octets_are_they_are_a_wish_or_a_reason(octets: bytes) -> None:
    running = Road().inbox(record(octets))

    with pytest.raises((Poison, StopIteration)):  # it waits for nothing
        running.send(None)


async def test_without_a_ledger_a_wish_waits_and_is_no_poison() -> None:
    road = Road()
    road.ledger.away = True

    with pytest.raises(TryAgain):
        await road.inbox(record(code_wanted()))

    assert road.counts() == {"extended": 0, "withdrawn": 0, "stale": 0}
