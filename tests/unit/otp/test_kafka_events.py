"""The event for the mailer: everything it needs to make the code and the letter, and nothing that yields a code."""

from __future__ import annotations

from datetime import UTC, timedelta
from typing import cast

import msgspec
import pytest
from kip.otp.v1 import otp_events_pb2

from services.chassis.events import Envelope
from services.chassis.kafka_producer import BrokerAway, Producer
from services.otp.outbound.kafka_events import CODE_REQUESTED, KafkaEvents, encode
from services.otp.ports import EventSink, LetterWanted, OutboxEntry, PublishFailed
from tests.fakes.otp import EventList, InMemoryChallengeStore
from tests.unit.otp.desk import REQUEST, Desk
from tests.unit.otp.made_up import after, challenge, generation

WITHIN = timedelta(milliseconds=500)


def _envelope(entry: OutboxEntry) -> Envelope:
    return msgspec.msgpack.decode(entry.record[b"e"], type=Envelope)


def _entry() -> OutboxEntry:
    known = challenge(generation(1), generation(2, made_at=60, deadline=770))
    return OutboxEntry(0, "1-0", encode(LetterWanted(known, known.newest)))


def test_the_envelope_says_what_it_is_and_when_it_is_pointless() -> None:
    envelope = _envelope(_entry())

    assert (envelope.topic, envelope.key) == (CODE_REQUESTED, b"c00challenge")
    assert (envelope.type, envelope.source, envelope.subject) == ("kip.otp.v1.CodeRequested", "otp", "c00challenge")
    assert (envelope.time, envelope.expires) == (after(60), after(770))
    assert envelope.id == "c00challenge.2"


def test_the_same_letter_has_the_same_event_id_so_that_a_repeat_is_known() -> None:
    known = challenge()

    first, again = (_envelope(OutboxEntry(0, "1-0", encode(LetterWanted(known, known.newest)))) for _ in range(2))

    assert first == again


def test_the_event_holds_what_remakes_the_code_and_opens_the_seal() -> None:
    event = otp_events_pb2.CodeRequested.FromString(_envelope(_entry()).value)

    known = challenge()
    assert (event.challenge_id, event.generation, event.purpose) == (known.id, 2, known.purpose)
    assert (event.reference, event.locale, event.code_length, event.code_kid) == ("REF02", "vi", 6, "c1")
    assert event.context_sha256 == known.context_sha256
    assert (event.life_s, event.max_life_s) == (240, 540)
    assert event.challenge_ends_at.ToDatetime(UTC) == known.ends_at
    assert (event.asked_at.ToDatetime(UTC), event.deadline.ToDatetime(UTC)) == (after(60), after(770))
    assert (event.sealed.kid, event.sealed.nonce, event.sealed.ciphertext) == ("s1", b"n" * 12, b"sealed")


async def test_nothing_in_the_record_yields_a_code_or_an_address() -> None:
    desk = Desk(store=InMemoryChallengeStore(encode=encode))
    desk.events.is_away = True
    issued = await desk.ask()
    (entry,) = await desk.later(6).store.unpublished(older_than=timedelta(0), most=9)

    octets = b"".join([*entry.record.keys(), *entry.record.values()])

    handle_secret = issued.handle.partition(".")[2]
    for secret in (REQUEST.email, REQUEST.context, REQUEST.subject, desk.code_of(issued), handle_secret):
        assert secret.encode() not in octets
    assert bytes.fromhex(handle_secret) not in octets


class Road:
    """A producer that remembers what it published, unless the broker is away."""

    def __init__(self) -> None:
        self.is_away = False
        self.entries: list[Envelope] = []

    async def publish(self, envelope: Envelope, *, within: timedelta) -> None:
        assert within == WITHIN
        if self.is_away:
            raise BrokerAway("not acknowledged")
        self.entries.append(envelope)


@pytest.fixture(params=["memory", "kafka"])
def sink(request: pytest.FixtureRequest) -> tuple[EventSink, Road | EventList]:
    """A sink and the road below it."""
    if request.param == "memory":
        events = EventList()
        return events, events
    road = Road()
    return KafkaEvents(cast("Producer", road)), road


async def test_a_sink_publishes_what_it_is_given(sink: tuple[EventSink, Road | EventList]) -> None:
    events, road = sink

    await events.publish(_entry(), within=WITHIN)

    assert len(road.entries) == 1


async def test_a_sink_whose_broker_is_away_says_so_in_the_ports_words(
    sink: tuple[EventSink, Road | EventList],
) -> None:
    events, road = sink
    road.is_away = True

    with pytest.raises(PublishFailed):
        await events.publish(_entry(), within=WITHIN)
    assert road.entries == []
