"""The alerts that no test of `tests.e2e.test_alerts` needs: each fires in a live run, and is silent before."""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import Iterator

import pytest
from kafka import KafkaProducer

from tests.conditions import wait_until
from tests.e2e.alarms import Alarmed, alarmed_stack
from tests.e2e.drip import Drip
from tests.e2e.portal import Citizen

pytestmark = pytest.mark.timeout(240)

NEWS = "mail.delivery.notice.v1"
AWAY_S = 60
NOBODYS_HANDLE = "c00" + "0" * 32 + "." + "0" * 64
GUESSES = 120  # a hundred are the least that are judged by their share
OLD_S = 600  # twice what dossiers may be behind


def measured_at(alarmed: Alarmed) -> float:
    """Return when everything was last measured, as lagwatch itself shows it."""
    return alarmed.counted("lagwatch", "lagwatch_last_success_timestamp_seconds")


@pytest.fixture(scope="module")
def alarmed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alarmed]:
    """A watched stack."""
    with alarmed_stack(tmp_path_factory.mktemp("alarmed")) as alarmed:
        alarmed.wait_until_over("KipServiceAbsent", "OtpLagwatchBlind")
        yield alarmed


def test_a_key_that_only_otp_has_is_told_and_its_letters_arrive_when_the_mailer_has_it_too(alarmed: Alarmed) -> None:
    assert "KipKeysUnknown" not in alarmed.told()
    ring = alarmed.stack.directory / "secrets" / "code-keys.json"
    keys = json.loads(ring.read_text())["keys"]
    secret = base64.b64encode(secrets.token_bytes(32)).decode()
    ring.write_text(json.dumps({"keys": [*keys, keys[0] | {"kid": "c2", "not_before": _now(), "secret": secret}]}))
    citizen = Citizen("lan")

    alarmed.restart("otp")
    with alarmed.running.portal() as portal:
        portal.request(citizen)

    alarmed.wait_until_told("KipKeysUnknown", ring="code")
    alarmed.restart("mailer")
    assert alarmed.running.inbox.wait_for_mail(citizen.email, timeout_s=60).rcpt_to == (citizen.email,)
    alarmed.wait_until_over("KipKeysUnknown")


def test_somebody_who_guesses_is_told(alarmed: Alarmed) -> None:
    assert "OtpGuessing" not in alarmed.told()

    with alarmed.running.portal() as portal:
        assert {portal.outcome(NOBODYS_HANDLE, "123456") for _ in range(GUESSES)} == {"unknown"}

    alarmed.wait_until_told("OtpGuessing")


def test_while_kafka_is_away_for_a_minute_orders_stay_with_otp_and_nobody_measures_and_then_all_is_well(
    alarmed: Alarmed,
) -> None:
    expected = ("OtpOutboxStuck", "OtpLagwatchBlind")
    assert not alarmed.told() & {*expected}

    with alarmed.running.portal() as portal, Drip(portal, 1.0):
        with alarmed.without("kafka"):
            gone_at = time.time()
            alarmed.wait_until_told(*expected)
            assert (alarmed.value("otp:outbox:messages") or 0) > 0
            wait_until(
                lambda: measured_at(alarmed) and time.time() - gone_at >= AWAY_S, within_s=AWAY_S, what="a minute"
            )
            assert measured_at(alarmed) <= gone_at
            assert alarmed.value("lane:wait_predicted:seconds") != 0

        alarmed.wait_until_over(*expected)
        assert measured_at(alarmed) > gone_at + AWAY_S
        wait_until(lambda: alarmed.value("lane:wait_predicted:seconds") == 0, within_s=60, what="that nobody waits")


def test_notices_that_do_not_move_are_told(alarmed: Alarmed) -> None:
    assert "NoticePartitionStalled" not in alarmed.told()

    with alarmed.without("mailer"), alarmed.running.portal() as portal:
        portal.open_dossier(Citizen("lan"))
        alarmed.wait_until_told("NoticePartitionStalled", topic="notice.requested.v1")

    alarmed.wait_until_over("NoticePartitionStalled")


def test_news_of_notices_that_dossiers_do_not_hear_is_told(alarmed: Alarmed) -> None:
    assert "DossierStale" not in alarmed.told()

    with alarmed.without("dossier"):
        producer = KafkaProducer(bootstrap_servers=[alarmed.stack.address("kafka")])
        producer.send(NEWS, value=b"long ago", timestamp_ms=int((time.time() - OLD_S) * 1000)).get(timeout=10)
        producer.close()
        alarmed.wait_until_told("DossierStale")

    alarmed.wait_until_over("DossierStale")


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
