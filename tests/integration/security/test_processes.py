"""Whole services on a broker that lets nobody in without a name, and to nothing that is not theirs."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kip.dossier.v1 import dossier_service_pb2 as pb
from kip.mailer.v1 import mail_events_pb2, notice_events_pb2

from services.lagwatch.settings import LagwatchSettings
from tests.conditions import wait_until
from tests.integration.dossier.dossier_process import DossierProcess, notice_ids
from tests.integration.lagwatch.lagwatch_process import LagwatchProcess, lagwatch_running
from tests.integration.security.attempts import opened
from tests.servers.secured_kafka import SecuredKafka, password_of, settings_of

NOTICE_REQUESTED = "notice.requested.v1"
MAIL_DELIVERY = "mail.delivery.notice.v1"
WATCHED = LagwatchSettings.model_fields["queues"].default
WRONG = "the wrong password"
WITHIN_S = 60

pytestmark = [pytest.mark.timeout(180), pytest.mark.usefixtures("rubbish_collected")]


def environment(secured: SecuredKafka, service: str, password: str | None = None) -> Mapping[str, str]:
    """Return what a service is told about Kafka, as production would."""
    return {
        f"{service.upper()}_KAFKA_TLS": "true",
        f"{service.upper()}_KAFKA_CA_FILE": str(secured.ca_file),
        f"{service.upper()}_KAFKA_USER": service,
        f"{service.upper()}_KAFKA_PASSWORD": password or password_of(service),
    }


@pytest.fixture
def dossier(secured: SecuredKafka, tmp_path: Path) -> Iterator[DossierProcess]:
    process = DossierProcess(tmp_path, secured.address, settings=environment(secured, "dossier"))
    yield process
    process.kill()


@pytest.fixture
def shut_out(secured: SecuredKafka, tmp_path: Path) -> Iterator[DossierProcess]:
    """The service with a password that is not its own."""
    process = DossierProcess(tmp_path, secured.address, settings=environment(secured, "dossier", WRONG))
    yield process
    process.kill()


def test_a_notice_is_asked_for_and_followed_over_tls_with_no_right_too_many(
    secured: SecuredKafka, dossier: DossierProcess
) -> None:
    mailer = settings_of(secured, "mailer")
    with opened(KafkaConsumer, mailer, group_id=None) as wishes, opened(KafkaProducer, mailer) as receipts:
        partitions = [TopicPartition(NOTICE_REQUESTED, number) for number in range(6)]
        wishes.assign(partitions)
        wishes.seek_to_end()
        for partition in partitions:
            wishes.position(partition)  # the seek is lazy; from here on nothing is missed
        dossier.start()
        with dossier.called() as portal:
            opened_dossier = portal.open(str(uuid.uuid4()))
            (notice,) = notice_ids(opened_dossier)

            asked = wait_until(lambda: wish_ids(wishes), within_s=WITHIN_S, what="the wish to mail")
            receipts.send(MAIL_DELIVERY, key=notice.encode(), value=handed_over(notice)).get(WITHIN_S)

            wait_until(
                lambda: portal.get(opened_dossier.dossier_id).steps[0].notice.fate == pb.NOTICE_FATE_HANDED_OVER,
                within_s=WITHIN_S,
                what="the notice was handed over",
            )

    assert asked == [notice]
    assert dossier.value("inbox_refusals_total", topic=MAIL_DELIVERY, reason="denied") == 0
    assert dossier.value("dossier_announce_failures_total", reason="denied") == 0


def test_a_wrong_password_is_told_as_such_and_loses_nothing(shut_out: DossierProcess) -> None:
    shut_out.start()
    with shut_out.called() as portal:
        portal.open(str(uuid.uuid4()))

    wait_until(
        lambda: shut_out.value("inbox_refusals_total", topic=MAIL_DELIVERY, reason="denied") >= 1, within_s=WITHIN_S
    )
    wait_until(lambda: shut_out.value("dossier_announce_failures_total", reason="denied") >= 1, within_s=WITHIN_S)
    said = shut_out.log_text()

    assert shut_out.value("dossier_outbox_messages") == 1
    assert shut_out.page("/readyz")[0] == 200, "calls are answered, as when Kafka is away"
    assert "look at *_KAFKA_USER and *_KAFKA_PASSWORD" in said
    assert '"reason": "denied"' in said
    assert WRONG not in said


def test_lagwatch_measures_every_queue_with_the_rights_it_has(secured: SecuredKafka, tmp_path: Path) -> None:
    settings = environment(secured, "lagwatch")
    with lagwatch_running(secured.address, WATCHED, tmp_path / "log", settings=settings) as lagwatch:
        wait_until(lagwatch.is_ready, within_s=WITHIN_S, what="everything was measured")


def test_lagwatch_is_not_ready_with_a_wrong_password_and_says_why(secured: SecuredKafka, tmp_path: Path) -> None:
    settings = environment(secured, "lagwatch", WRONG)
    log = tmp_path / "log"
    with lagwatch_running(secured.address, WATCHED, log, settings=settings) as lagwatch:
        wait_until(lambda: _has_failed(lagwatch), within_s=WITHIN_S, what="a measurement was refused")
        assert lagwatch.page("/readyz") == (503, "not ready: first measurement (denied)\n")

    assert WRONG not in log.read_text()


def _has_failed(lagwatch: LagwatchProcess) -> bool:
    return lagwatch.is_up() and lagwatch.failures("denied") >= 1


def wish_ids(consumer: KafkaConsumer) -> list[str]:
    """Return the ids of notices that were asked for since the last look."""
    records = [record for batch in consumer.poll(timeout_ms=100).values() for record in batch]
    return [notice_events_pb2.NoticeRequested.FromString(record.value).notice_id for record in records]


def handed_over(notice: str) -> bytes:
    """Return the mailer's word that a notice reached the relay."""
    now = Timestamp()
    now.GetCurrentTime()
    fate = mail_events_pb2.HandedOver(body_started_at=now, route="relay-1")
    return mail_events_pb2.MailDelivery(owner_id=notice, generation=1, at=now, handed_over=fate).SerializeToString()
