"""Letters that cannot leave, over real Kafka, Redis and SMTP: where they wait, and what kills, stops and outages do.

The broker is this module's own, with tiers as short as a test can bear.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient
from kip.mailer.v1 import mail_events_pb2

from deploy.dev.inbox.client import Mail
from deploy.dev.kafka_broker import KafkaBroker
from tests.conditions import wait_until
from tests.conftest import Server
from tests.integration.inbox.running_inbox import RunningInbox
from tests.integration.mailer.mailer_process import MailerProcess
from tests.integration.mailer.owner_hands import (
    CODE_REQUESTED,
    OwnerHands,
    Person,
    owner_hands,
    people,
)
from tests.servers.slow_road import slow_road

ARRIVES_S = 60
TIER_1S, TIER_2S = "mail.retry.otp.1s.v1", "mail.retry.otp.2s.v1"
GREYLISTED = {"stage": "rcpt", "action": "reply", "code": 450, "text": "4.2.0 later"}
NEW_KID = "c2"

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def owner(broker: KafkaBroker) -> Iterator[OwnerHands]:
    with owner_hands(broker.address) as hands:
        yield hands


def mailer_in(
    folder: Path, broker: KafkaBroker, redis: str, inbox: RunningInbox, settings: Mapping[str, str] | None = None
) -> MailerProcess:
    return MailerProcess(
        folder,
        brokers=broker.address,
        redis=redis,
        relay=f"127.0.0.1:{inbox.smtp_port}",
        settings={
            "MAILER_RETRY_DELAYS_OTP": "PT1S,PT2S",
            "MAILER_RETRY_DELAYS_NOTICE": "PT1S",
            "MAILER_SLOTS_OTP": "2",
            **(settings or {}),
        },
    )


@pytest.fixture
def mailer(tmp_path: Path, broker: KafkaBroker, redis_server: Server, inbox: RunningInbox) -> Iterator[MailerProcess]:
    """The service, running."""
    process = mailer_in(tmp_path, broker, redis_server.address, inbox)
    process.start()
    yield process
    inbox.client.set_behaviour()
    process.stop()


def mails_to(inbox: RunningInbox, person: Person) -> list[Mail]:
    return [inbox.client.mail(each.id) for each in inbox.client.messages(to=person.email, limit=100)]


def only(person: Person, rule: Mapping[str, object]) -> dict[str, object]:
    return {**rule, "to": person.email}


def in_seconds(seconds: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(datetime.now(UTC) + timedelta(seconds=seconds))
    return stamp


class Kafka:
    """What an operator sees of the broker."""

    def __init__(self, broker: KafkaBroker) -> None:
        self._admin = KafkaAdminClient(bootstrap_servers=[broker.address])
        self._reader = KafkaConsumer(bootstrap_servers=[broker.address], group_id=None)
        self._records: list[Any] = []

    def waits(self, group: str, topic: str) -> int:
        """Count the records that the group has not acknowledged."""
        told = self._admin.list_group_offsets([group])[group]
        committed = {place: each.offset for place, each in told.items() if place.topic == topic}
        ends = self._reader.end_offsets([TopicPartition(topic, each) for each in self._partitions(topic)])
        begun = self._reader.beginning_offsets([*ends])
        return sum(end - max(committed.get(place, 0), begun[place]) for place, end in ends.items())

    def follow(self, topic: str) -> None:
        """Read the topic from now on."""
        places = [TopicPartition(topic, each) for each in self._partitions(topic)]
        self._reader.assign(places)
        self._reader.seek_to_end()
        for place in places:
            self._reader.position(place)

    def wait_for_record(self, person: Person) -> Any:
        """Return the first record of somebody's letter in the topic that is followed."""
        key = person.mark.encode()

        def found() -> list[Any]:
            for batch in self._reader.poll(timeout_ms=50).values():
                self._records += batch
            return [record for record in self._records if record.key == key]

        return wait_until(found, within_s=ARRIVES_S, what="a record in a tier")[0]

    def close(self) -> None:
        """Let go of the broker."""
        self._admin.close()
        self._reader.close()

    def _partitions(self, topic: str) -> set[int]:
        found: set[int] = wait_until(lambda: self._reader.partitions_for_topic(topic), within_s=20, what=topic)
        return found


@pytest.fixture
def kafka_seen(broker: KafkaBroker) -> Iterator[Kafka]:
    seen = Kafka(broker)
    yield seen
    seen.close()


def test_a_letter_that_is_deferred_stands_aside_and_is_delivered_once(
    mailer: MailerProcess, owner: OwnerHands, inbox: RunningInbox, kafka_seen: Kafka
) -> None:
    late, behind = people(2)
    inbox.client.set_behaviour(only(late, GREYLISTED))
    kafka_seen.follow(TIER_2S)
    owner.order_code(late)
    first, second, *_ = owner.wait_for_deferrals(late, 2)

    owner.order_code(behind, key=late.mark.encode())
    owner.wait_for_hand_over([behind])
    wait_until(
        lambda: kafka_seen.waits("mailer-otp", CODE_REQUESTED) == 0, within_s=ARRIVES_S, what="its lane is empty"
    )
    assert late.mark not in owner.fates(), "it waits, and its order is acknowledged"
    inbox.client.set_behaviour()
    owner.wait_for_hand_over([late])

    [mail] = mails_to(inbox, late)
    assert late.code in (mail.text or "")
    assert first.deferred.status == "4.2.0"
    assert first.deferred.next_try_at.ToDatetime() - first.at.ToDatetime() == timedelta(seconds=1)
    assert second.deferred.next_try_at.ToDatetime() - second.at.ToDatetime() == timedelta(seconds=2)
    headers = {name: value.decode() for name, value in kafka_seen.wait_for_record(late).headers}
    assert (headers["ce_id"], headers["retry-attempt"], headers["retry-topic"]) == ("x", "2", CODE_REQUESTED)
    told = second.deferred.next_try_at.ToDatetime(tzinfo=UTC)
    assert headers["not-before"] == f"{told:%Y-%m-%dT%H:%M:%S.%f}Z"
    for name, delay in (("1s", 1), ("2s", 1)):
        assert mailer.value("mailer_retries_total", lane="otp", tier=name) >= delay
    assert mailer.value("mailer_emails_total", lane="otp", outcome="handed_over") == 2


def test_past_its_deadline_a_letter_in_a_tier_is_dropped_and_one_that_may_have_left_is_not(
    mailer: MailerProcess, owner: OwnerHands, inbox: RunningInbox
) -> None:
    late, unanswered, keyless = people(3)
    inbox.client.set_behaviour(
        only(late, GREYLISTED), only(unanswered, {"stage": "reply", "action": "cut", "store": True})
    )
    owner.order_code(late, deadline=in_seconds(4))
    owner.order_code(unanswered, deadline=in_seconds(4))
    owner.order_code(keyless, deadline=in_seconds(4), code_kid="c9")

    nowhere = mail_events_pb2.Dropped(reason=mail_events_pb2.DROP_REASON_DEADLINE, exposed=False)
    assert owner.wait_for_drop(late) == nowhere
    assert owner.wait_for_drop(keyless) == nowhere
    uncertain = owner.end_of(unanswered)

    assert uncertain.WhichOneof("fate") == "handed_over"
    assert uncertain.handed_over.uncertain
    assert min(len(owner.deferrals(person)) for person in (late, unanswered, keyless)) >= 2, "they did wait in tiers"
    assert mails_to(inbox, late) == mails_to(inbox, keyless) == []
    copies = [inbox.client.raw(each.id) for each in mails_to(inbox, unanswered)]
    assert len(copies) >= 2
    assert len(set(copies)) == 1
    assert owner.dead_letters() == []
    assert mailer.value("mailer_emails_total", lane="otp", outcome="dropped") == 2


def test_what_nobody_can_read_in_a_tier_goes_to_the_dead_letters_of_its_lane(
    mailer: MailerProcess, owner: OwnerHands
) -> None:
    [person] = people(1)
    owner.write(TIER_1S, person.mark.encode(), b"not an order")

    [dead] = wait_until(owner.dead_letters, within_s=ARRIVES_S, what="a dead letter")

    headers = {name: text.decode() for name, text in dead.headers}
    assert (dead.topic, dead.value) == (f"{CODE_REQUESTED}.dead", b"not an order")
    assert headers["dead-topic"] == TIER_1S
    assert mailer.value("inbox_records_total", topic=TIER_1S, outcome="dead_lettered") == 1


def test_killed_when_a_tier_has_the_letter_and_its_lane_still_has_it_too_the_same_bytes_arrive(
    mailer: MailerProcess, owner: OwnerHands, inbox: RunningInbox, kafka_seen: Kafka
) -> None:
    inbox.client.set_behaviour(GREYLISTED)
    kafka_seen.follow(TIER_1S)
    for person in people(5):
        owner.order_code(person)
        kafka_seen.wait_for_record(person)
        mailer.kill()
        if kafka_seen.waits("mailer-otp", CODE_REQUESTED):
            break
        mailer.start()  # it was faster, and had acknowledged already
    else:
        raise AssertionError("never killed in time")
    assert not mailer.is_running

    inbox.client.set_behaviour()
    mailer.start()
    owner.wait_for_hand_over([person])
    wait_until(lambda: kafka_seen.waits("mailer-otp", CODE_REQUESTED) == 0, within_s=ARRIVES_S, what="an empty lane")
    wait_until(lambda: kafka_seen.waits("mailer-retry-otp-1s", TIER_1S) == 0, within_s=ARRIVES_S, what="an empty tier")

    mails = mails_to(inbox, person)
    missed = mailer.value("mailer_ledger_errors_total", lane="otp")  # 0, but on a machine that is busy with others
    assert 1 <= len(mails) <= 1 + missed
    assert {mail.message_id for mail in mails} == {f"<{person.mark}.1@kip.example>"}
    assert len({inbox.client.raw(mail.id) for mail in mails}) == 1


def test_a_letter_that_no_tier_can_take_waits_for_the_broker_and_is_delivered(
    mailer: MailerProcess, owner: OwnerHands, inbox: RunningInbox, broker: KafkaBroker
) -> None:
    [person] = people(1)

    def deferred() -> float:
        return mailer.value("mailer_smtp_attempts_total", lane="otp", result="deferred")

    slow = {"stage": "rcpt", "action": "delay", "delay_s": 5, "times": 1}
    inbox.client.set_behaviour(only(person, slow), only(person, GREYLISTED))
    owner.order_code(person)
    wait_until(lambda: inbox.client.times_used()[0] == 1, within_s=ARRIVES_S, what="a relay that takes its time")

    broker.kill()
    assert not broker.is_ready()
    assert deferred() == 0, "the relay has not answered yet"
    wait_until(lambda: deferred() >= 1, within_s=ARRIVES_S, what="a relay that says later")
    assert mailer.is_running
    broker.start()
    inbox.client.set_behaviour()

    owner.wait_for_hand_over([person], within_s=2 * ARRIVES_S)  # everybody must find the broker again first
    assert len(mails_to(inbox, person)) == 1


def test_a_mailer_stops_at_once_while_letters_wait_and_the_next_one_loses_none(
    tmp_path: Path, broker: KafkaBroker, redis_server: Server, owner: OwnerHands, inbox: RunningInbox
) -> None:
    keyless, applicant = people(2)
    settings = {"MAILER_RETRY_DELAYS_NOTICE": "PT12S", "MAILER_DRAIN_GRACE": "PT60S"}
    mailer = mailer_in(tmp_path, broker, redis_server.address, inbox, settings)
    mailer.start()
    try:
        inbox.client.set_behaviour(only(applicant, {**GREYLISTED, "times": 1}))
        owner.order_notice(applicant)
        owner.order_code(keyless, code_kid=NEW_KID)
        [deferral] = owner.wait_for_deferrals(applicant, 1)
        owner.wait_for_deferrals(keyless, 2)
        due = deferral.deferred.next_try_at.ToDatetime(tzinfo=UTC)

        assert mailer.stop() == 0
        assert datetime.now(UTC) < due, "it did not wait for what waits"
        mailer.kids["code"].append(NEW_KID)  # as an operator rolls a key out: the start reads the ring
        mailer.start()
        owner.wait_for_hand_over([keyless, applicant])

        assert owner.end_of(applicant).at.ToDatetime(tzinfo=UTC) >= due
        [code] = mails_to(inbox, keyless)
        assert keyless.code_by(NEW_KID) in (code.text or "")
        assert len(mails_to(inbox, applicant)) == 1
        assert owner.dead_letters() == []
        assert mailer.stop() == 0
    finally:
        mailer.kill()


def test_with_a_ledger_that_takes_two_seconds_codes_go_on_and_notices_wait_in_a_tier(
    tmp_path: Path, broker: KafkaBroker, redis_server: Server, owner: OwnerHands, inbox: RunningInbox
) -> None:
    *citizens, applicant = people(9)
    with slow_road(redis_server.address, delay_s=0) as road:
        mailer = mailer_in(tmp_path, broker, road.address, inbox)
        mailer.start()
        try:
            road.delay_s = 2
            owner.order_notice(applicant)
            owner.wait_for_deferrals(applicant, 1)
            started = time.monotonic()
            for citizen in citizens:
                owner.order_code(citizen)
            owner.wait_for_hand_over(citizens)

            assert road.late > 0, "it was slow"
            assert mailer.value("mailer_ledger_breaker_open", lane="otp") == 1
            assert applicant.mark not in owner.fates()
            assert time.monotonic() - started < 2 * len(citizens), "nobody waited for the ledger"
            road.delay_s = 0
            owner.wait_for_hand_over([applicant])
            assert len(mails_to(inbox, applicant)) == 1
            assert mailer.stop() == 0
        finally:
            mailer.kill()
