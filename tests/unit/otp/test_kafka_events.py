"""The events for the mailer: all that makes code and letter, when they are wanted, and nothing that yields a code."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, timedelta
from typing import cast

import msgspec
import pytest
from kip.otp.v1 import otp_events_pb2
from prometheus_client import CollectorRegistry

from services.chassis.events import Envelope
from services.chassis.kafka_producer import BrokerAway, Producer, RecordPosition
from services.otp.metrics import OtpMetrics
from services.otp.outbound.kafka_events import CODE_REQUESTED, CODE_WANTED, KafkaEncoder, KafkaEvents
from services.otp.ports import EventSink, OutboxEntry, Position, PublishFailed
from services.otp.rules.announcement import Announcement, LetterWanted, WishChanged
from services.otp.rules.challenge import Challenge
from services.otp.rules.generation import Cause
from services.otp.rules.policy import Policy
from tests.fakes.otp import POLICY, PURPOSE, EventList, InMemoryChallengeStore
from tests.unit.otp.desk import REQUEST, Desk
from tests.unit.otp.made_up import after, challenge, generation

WITHIN = timedelta(milliseconds=500)
KNOWN = challenge(generation(1), generation(2, made_at=60, wanted_until=770), version=7)


def _envelope(announcement: Announcement, policy: Policy = POLICY) -> Envelope:
    return msgspec.msgpack.decode(KafkaEncoder(policy)(announcement)[b"e"], type=Envelope)


def _letter(known: Challenge = KNOWN) -> LetterWanted:
    return LetterWanted(known, known.newest)


def _wish(*, withdrawn: bool = False) -> WishChanged:
    return WishChanged(KNOWN, KNOWN.newest, withdrawn=withdrawn, at=after(90))


def _requested(known: Challenge = KNOWN, policy: Policy = POLICY) -> otp_events_pb2.CodeRequested:
    return otp_events_pb2.CodeRequested.FromString(_envelope(_letter(known), policy).value)


def test_the_envelope_says_what_it_is_and_when_it_is_pointless() -> None:
    envelope = _envelope(_letter())

    assert (envelope.topic, envelope.key) == (CODE_REQUESTED, b"c00challenge")
    assert (envelope.type, envelope.source, envelope.subject) == ("kip.otp.v1.CodeRequested", "otp", "c00challenge")
    assert (envelope.time, envelope.expires) == (after(60), after(770))
    assert envelope.id == "c00challenge.2"


def test_the_same_letter_has_the_same_event_id_so_that_a_repeat_is_known() -> None:
    first, again = (_envelope(_letter()) for _ in range(2))

    assert first == again


def test_the_event_holds_what_remakes_the_code_and_opens_the_seal() -> None:
    event = _requested()

    assert (event.challenge_id, event.generation, event.purpose) == (KNOWN.id, 2, KNOWN.purpose)
    assert (event.reference, event.locale, event.code_length, event.code_kid) == ("REF02", "vi", 6, "c1")
    assert event.context_sha256 == KNOWN.context_sha256
    assert (event.life_s, event.max_life_s) == (240, 540)
    assert event.challenge_ends_at.ToDatetime(UTC) == KNOWN.ends_at
    assert (event.asked_at.ToDatetime(UTC), event.deadline.ToDatetime(UTC)) == (after(60), after(770))
    assert (event.sealed.kid, event.sealed.nonce, event.sealed.ciphertext) == ("s1", b"n" * 12, b"sealed")


@pytest.mark.parametrize(
    ("cause", "replaced"), [(Cause.REISSUED, ["REF01", "REF02"]), (Cause.RESENT, []), (Cause.REQUESTED, [])]
)
def test_a_letter_made_by_itself_names_those_before_it_and_one_that_was_asked_for_names_none(
    cause: Cause, replaced: list[str]
) -> None:
    known = challenge(generation(1), generation(2), generation(3, cause=cause))

    assert list(_requested(known).replaces) == replaced


@pytest.mark.parametrize("is_allowed", [False, True])
def test_whether_the_code_may_stand_in_the_subject_is_the_policys_word(is_allowed: bool) -> None:  # noqa: FBT001 - a case
    policy = Policy({PURPOSE.name: replace(PURPOSE, code_in_subject=is_allowed)})

    assert _requested(policy=policy).code_in_subject is is_allowed


def test_for_a_purpose_that_left_the_policy_it_may_not() -> None:
    assert _requested(policy=Policy({})).code_in_subject is False


@pytest.mark.parametrize("withdrawn", [False, True])
def test_a_wish_that_changed_overtakes_the_letter_on_a_topic_of_its_own(withdrawn: bool) -> None:  # noqa: FBT001 - a case
    envelope = _envelope(_wish(withdrawn=withdrawn))

    event = otp_events_pb2.CodeWanted.FromString(envelope.value)
    assert (envelope.topic, envelope.key) == (CODE_WANTED, b"c00challenge")
    assert (envelope.type, envelope.source, envelope.subject) == ("kip.otp.v1.CodeWanted", "otp", "c00challenge")
    assert (envelope.time, envelope.expires) == (after(90), after(770))
    assert (event.challenge_id, event.generation, event.withdrawn) == (KNOWN.id, 2, withdrawn)
    assert event.wanted_until.ToDatetime(UTC) == after(770)


def test_each_change_of_a_wish_is_an_event_of_its_own_and_none_is_taken_for_the_letter() -> None:
    later = replace(KNOWN, version=8)

    names = [_envelope(each).id for each in (_letter(), _wish(), WishChanged(later, later.newest, False, after(91)))]

    assert len(set(names)) == 3
    assert _envelope(_wish()).id == names[1]


async def test_nothing_in_the_records_yields_a_code_or_an_address() -> None:
    desk = Desk(store=InMemoryChallengeStore(encode=KafkaEncoder(POLICY)))
    desk.events.is_away = True
    issued = await desk.ask()
    await desk.later(100).ask("key-2")
    entries = await desk.later(6).store.unpublished(older_than=timedelta(0), most=9)

    octets = b"".join(part for entry in entries for field in entry.record.items() for part in field)

    assert [msgspec.msgpack.decode(entry.record[b"e"], type=Envelope).topic for entry in entries] == [
        CODE_REQUESTED,
        CODE_WANTED,
    ]
    handle_secret = issued.handle.partition(".")[2]
    for secret in (REQUEST.email, REQUEST.context, REQUEST.subject, desk.code_of(issued), handle_secret):
        assert secret.encode() not in octets
    assert bytes.fromhex(handle_secret) not in octets


class Road:
    """A producer that remembers what it published, unless the broker is away."""

    def __init__(self) -> None:
        self.is_away = False
        self.entries: list[Envelope] = []

    async def publish(self, envelope: Envelope, *, within: timedelta) -> RecordPosition:
        assert within == WITHIN
        if self.is_away:
            raise BrokerAway("not acknowledged")
        self.entries.append(envelope)
        return RecordPosition(0, len(self.entries) - 1)


@pytest.fixture(params=["memory", "kafka"])
def sink(request: pytest.FixtureRequest) -> tuple[EventSink, Road | EventList]:
    """A sink and the road below it."""
    if request.param == "memory":
        events = EventList()
        return events, events
    road = Road()
    return KafkaEvents(cast("Producer", road), OtpMetrics(CollectorRegistry(), [])), road


def _entry() -> OutboxEntry:
    return OutboxEntry(0, "1-0", KafkaEncoder(POLICY)(_letter()))


async def test_a_sink_publishes_what_it_is_given_and_says_where_it_stands(
    sink: tuple[EventSink, Road | EventList],
) -> None:
    events, road = sink

    stands = [await events.publish(_entry(), within=WITHIN) for _ in range(2)]

    assert len(road.entries) == 2
    assert stands == [Position(0, 0), Position(0, 1)]


async def test_publishing_is_timed_and_its_failures_are_counted() -> None:
    road, registry = Road(), CollectorRegistry()
    events = KafkaEvents(cast("Producer", road), OtpMetrics(registry, []))

    await events.publish(_entry(), within=WITHIN)
    road.is_away = True
    with pytest.raises(PublishFailed):
        await events.publish(_entry(), within=WITHIN)

    assert registry.get_sample_value("otp_publish_duration_seconds_count") == 2
    assert registry.get_sample_value("otp_publish_failures_total") == 1


async def test_a_sink_whose_broker_is_away_says_so_in_the_ports_words(
    sink: tuple[EventSink, Road | EventList],
) -> None:
    events, road = sink
    road.is_away = True

    with pytest.raises(PublishFailed):
        await events.publish(_entry(), within=WITHIN)
    assert road.entries == []
