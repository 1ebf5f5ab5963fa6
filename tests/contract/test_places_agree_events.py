"""Topics and groups in the code, in `deploy/create_topics.py`, in `docs/events.md` and in what lagwatch watches."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from kip.mailer.v1 import mail_events_pb2, notice_events_pb2
from kip.otp.v1 import otp_events_pb2
from pydantic import TypeAdapter

from deploy.create_topics import CONSUMED, TIERS, TOPICS
from deploy.kafka_acls import OPERATOR, is_sampled, rights
from services.chassis import lane
from services.chassis.events import Envelope
from services.chassis.ordered_inbox import WINDOW
from services.dossier.inbound import kafka_inbox as dossier_inbox
from services.lagwatch.settings import LagwatchSettings
from services.mailer.inbound import kafka_inbox as mailer_inbox
from services.mailer.inbound.kafka_tiers import tier_group
from services.mailer.outbound import kafka_retries
from services.mailer.outbound.kafka_events import MAIL_DELIVERY
from services.mailer.outbound.kafka_retries import tier_topic
from services.mailer.rules.letter import Lane
from services.mailer.rules.schedule import Schedule, Tier
from services.mailer.settings import Delays, MailerSettings
from services.otp.inbound import kafka_inbox as otp_inbox
from services.otp.outbound.kafka_events import CODE_REQUESTED
from services.otp.outbound.kafka_queue import MAILER_GROUP, lane_queues
from services.otp.rules import outlook
from tests.quality.rights_table import stated_rights
from tests.quality.source_code import ROOT, SERVICES, quoted, service_modules, table_with, texts

TOPIC = re.compile(r"\b(?!kip\.)[a-z]+(?:\.[a-z0-9-]+)+\.v\d+\b")
UNITS_MS = {"h": 3_600_000, "days": 24 * 3_600_000}
CATALOGUE = {quoted(row["topic"])[0]: row for row in table_with((ROOT / "docs/events.md").read_text(), "kept")}
LIVING = {name: row for name, row in CATALOGUE.items() if not name.endswith(".dead")}
RETRIED = {name for name in LIVING if name.startswith("mail.retry.")}  # their names are made, and never written out
TOLD = {name: row for name, row in LIVING.items() if name not in RETRIED}


def topics_in(service: str, room: str = "") -> set[str]:
    modules = (file for name, file in service_modules().items() if name.startswith(f"services.{service}.{room}"))
    return {topic for file in modules for text in texts(file) for topic in TOPIC.findall(text)}


def tiers() -> list[Tier]:
    fields = {Lane.OTP: "retry_delays_otp", Lane.NOTICE: "retry_delays_notice"}
    delays = TypeAdapter[tuple[timedelta, ...]](Delays)
    return [
        tier
        for lane, field in fields.items()
        for tier in Schedule(lane, delays.validate_python(MailerSettings.model_fields[field].default)).tiers
    ]


def consumed_by_the_code() -> set[tuple[str, str]]:
    lanes = {(mailer_inbox.GROUPS[lane], topic) for lane, topic in mailer_inbox.TOPICS.items()}
    wishes = {(mailer_inbox.WANTED_GROUP, mailer_inbox.CODE_WANTED)}
    retried = {(tier_group(tier), tier_topic(tier)) for tier in tiers()}
    return lanes | wishes | retried | {(inbox.GROUP, inbox.MAIL_DELIVERY) for inbox in (otp_inbox, dossier_inbox)}


def test_the_catalogue_lists_exactly_the_topics_that_are_created() -> None:
    created = {topic.name: (topic.partitions, topic.retention_ms) for topic in TOPICS}

    catalogued = {}
    for name, row in CATALOGUE.items():
        amount, unit = row["kept"].split()
        catalogued[name] = (int(row["partitions"]), int(amount) * UNITS_MS[unit])

    assert catalogued == created


def test_the_code_names_exactly_the_topics_of_the_catalogue() -> None:
    assert set().union(*(topics_in(service) for service in SERVICES)) == set(LIVING)


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_writes_exactly_the_topics_that_the_catalogue_says_it_does(service: str) -> None:
    assert topics_in(service, "outbound") == {name for name, row in TOLD.items() if row["from"] == service}


def test_the_tiers_of_the_settings_are_those_that_are_created_and_kept_as_long_as_the_orders_of_their_lane() -> None:
    orders = {
        lane: next(each for each in CONSUMED if each.name == topic) for lane, topic in mailer_inbox.TOPICS.items()
    }

    assert [tier_topic(tier) for tier in tiers()] == [topic.name for topic in TIERS]
    assert [orders[tier.lane].retention_ms for tier in tiers()] == [topic.retention_ms for topic in TIERS]
    assert all(tier.delay * 2 < timedelta(milliseconds=orders[tier.lane].retention_ms) for tier in tiers())


def test_otp_samples_everything_that_waits_for_the_slots_of_codes() -> None:
    waiting = [topic for topic in TOPICS if is_sampled(topic)]

    assert lane_queues() == {topic.name: topic.group for topic in waiting}
    assert next(iter(lane_queues())) == CODE_REQUESTED
    assert len(waiting) == 1 + sum(tier.lane == "otp" for tier in tiers())


def test_the_mailer_alone_writes_and_reads_the_tiers() -> None:
    assert {tier_topic(tier) for tier in tiers()} == RETRIED
    assert {LIVING[name]["from"] for name in RETRIED} == {"mailer"}


def test_the_groups_of_the_code_are_those_of_the_catalogue() -> None:
    assert consumed_by_the_code() == {(quoted(row["to (group)"])[0], name) for name, row in LIVING.items()}


def test_the_rights_that_are_given_are_those_that_the_page_states() -> None:
    assert rights() == stated_rights()


def test_the_users_of_the_rights_are_those_of_the_manifests() -> None:
    environments = (ROOT / "deploy/k8s/base").glob("*.env")
    named = {name for file in environments for name in re.findall(r"_KAFKA_USER=(\S+)", file.read_text())}

    assert {right.user for right in rights()} == named | {OPERATOR}  # people have no manifest


def test_every_consumed_topic_has_a_place_for_its_dead_letters() -> None:
    own_place = {topic.name for topic in CONSUMED}  # the dead letters of a tier go to those of its lane

    assert own_place == {topic for _group, topic in consumed_by_the_code()} - RETRIED
    assert {topic.name for topic in TOPICS} == own_place | {topic.dead.name for topic in CONSUMED} | RETRIED


def test_lagwatch_watches_exactly_what_is_consumed() -> None:
    watched = LagwatchSettings.model_fields["queues"].default.split(",")

    assert {tuple(queue.split("=")) for queue in watched} == consumed_by_the_code()


def test_otp_samples_the_queue_of_the_group_that_mails_its_codes() -> None:
    assert mailer_inbox.GROUPS[Lane.OTP] == MAILER_GROUP
    assert mailer_inbox.TOPICS[Lane.OTP] == CODE_REQUESTED


def test_otp_scales_what_it_hears_by_all_partitions_of_its_delivery_events() -> None:
    partitions = {topic.name: topic.partitions for topic in TOPICS}

    assert partitions[otp_inbox.MAIL_DELIVERY] == otp_inbox.DELIVERY_PARTITIONS


def test_a_short_queue_is_what_the_mailer_takes_in_hand_at_once() -> None:
    assert outlook.WINDOW == lane.WINDOW == WINDOW


@pytest.mark.parametrize("name", ["FRESH", "YOUNG", "STILL", "STILL_TURNS"])
def test_otp_and_lagwatch_mean_the_same_by_a_queue_that_waits(name: str) -> None:
    assert getattr(outlook, name) == getattr(lane, name)


def test_the_lanes_of_lagwatch_are_those_of_the_mailer() -> None:
    queues = LagwatchSettings.model_fields["queues"].default.split(",")
    groups = {queue.partition("=")[0] for queue in queues}

    assert LagwatchSettings.model_fields["lanes"].default == ",".join(Lane)
    assert {f"mailer-{each}" for each in Lane} == set(mailer_inbox.GROUPS.values()) <= groups
    assert all(tier_group(tier).startswith(f"mailer-retry-{tier.lane}-") for tier in tiers())
    assert {f"mail.delivery.{each}.v1" for each in Lane} == set(MAIL_DELIVERY.values())


def test_every_message_of_the_catalogue_is_a_contract_and_is_announced_under_its_name() -> None:
    contracts = (mail_events_pb2, notice_events_pb2, otp_events_pb2)
    known = {kind.full_name for pb2 in contracts for kind in pb2.DESCRIPTOR.message_types_by_name.values()}

    for row in TOLD.values():
        (message,) = quoted(row["message"])
        writer = service_modules()[f"services.{row['from']}.outbound.kafka_events"]
        assert message in known
        assert message in set(texts(writer))


def test_the_headers_of_the_catalogue_are_those_of_records_and_dead_letters() -> None:
    now = datetime(2026, 11, 25, tzinfo=UTC)
    trace = {"traceparent": "00", "tracestate": "a=b"}
    envelope = Envelope("topic", b"", b"", "kip.otp.v1.X", "otp", "subject", now, expires=now, trace=trace)
    buried = texts(service_modules()["services.chassis.dead_letter"])

    retried = {kafka_retries.NOT_BEFORE} | {
        text for text in texts(service_modules()[kafka_retries.__name__]) if re.fullmatch(r"retry-[a-z]+", text)
    }

    sent = {name for name, _value in envelope.headers()} | {text for text in buried if text.startswith("dead-")}

    catalogued = table_with((ROOT / "docs/events.md").read_text(), "header")
    assert {name for row in catalogued for name in quoted(row["header"])} == sent | retried
