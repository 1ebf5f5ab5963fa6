"""What lagwatch can be told, and what it says when it was told wrong."""

from __future__ import annotations

import os
from datetime import timedelta

import pytest

from services.chassis.lag import Queue
from services.chassis.settings import read_settings
from services.lagwatch.settings import LagwatchSettings

TIERS = {"otp": ("1s", "3s", "10s", "30s", "1m"), "notice": ("1m", "10m", "1h", "6h")}


@pytest.fixture(autouse=True)
def laptop(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("LAGWATCH_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LAGWATCH_PROFILE", "laptop")
    monkeypatch.setenv("LAGWATCH_KAFKA_BROKERS", "127.0.0.1:9092")


def test_both_lanes_are_watched_there_and_back_unless_told_otherwise() -> None:
    settings = read_settings(LagwatchSettings)

    assert settings.queues == (
        Queue("mailer-otp", "otp.code-requested.v1"),
        Queue("mailer-wanted", "otp.code-wanted.v1"),
        Queue("mailer-notice", "notice.requested.v1"),
        *(
            Queue(f"mailer-retry-{lane}-{delay}", f"mail.retry.{lane}.{delay}.v1")
            for lane, delays in TIERS.items()
            for delay in delays
        ),
        Queue("otp", "mail.delivery.otp.v1"),
        Queue("dossier", "mail.delivery.notice.v1"),
    )
    assert settings.poll_interval == timedelta(seconds=5)


def test_the_lanes_are_those_of_the_mailer_with_all_their_tiers() -> None:
    otp, notice = read_settings(LagwatchSettings).lanes

    assert (otp.name, otp.main, otp.deliveries) == (
        "otp",
        Queue("mailer-otp", "otp.code-requested.v1"),
        Queue("otp", "mail.delivery.otp.v1"),
    )
    assert [tier.topic for tier in otp.tiers] == [f"mail.retry.otp.{delay}.v1" for delay in TIERS["otp"]]
    assert notice.main == Queue("mailer-notice", "notice.requested.v1")
    assert [tier.group for tier in notice.tiers] == [f"mailer-retry-notice-{delay}" for delay in TIERS["notice"]]


@pytest.mark.parametrize(
    ("lanes", "told"),
    [
        ("otp,otp", "names a lane twice"),
        ("wanted", "'wanted' needs one queue of the group mailer-wanted and one of the topic mail.delivery.wanted.v1"),
    ],
)
def test_a_lane_that_is_no_lane_is_told_at_the_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], lanes: str, told: str
) -> None:
    monkeypatch.setenv("LAGWATCH_LANES", lanes)

    with pytest.raises(SystemExit):
        read_settings(LagwatchSettings)

    assert f"LAGWATCH_LANES: {told}" in capsys.readouterr().err


def test_queues_are_read_from_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAGWATCH_QUEUES", "mailer=letters.v1, audit=letters.v1,")
    monkeypatch.setenv("LAGWATCH_LANES", "none")

    assert read_settings(LagwatchSettings).lanes == ()
    assert read_settings(LagwatchSettings).queues == (Queue("mailer", "letters.v1"), Queue("audit", "letters.v1"))


@pytest.mark.parametrize(
    ("queues", "told"),
    [
        ("mailer", "must be GROUP=TOPIC"),
        ("mailer=", "must be GROUP=TOPIC"),
        ("=letters", "must be GROUP=TOPIC"),
        ("mailer=let ters", "must be GROUP=TOPIC"),
        ("mailer=letters,mailer=letters", "names a queue twice"),
        (",", "at least 1"),
        (",".join(f"mailer=letters-{number}" for number in range(33)), "at most 32"),
    ],
)
def test_a_queue_that_is_no_queue_is_told_at_the_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], queues: str, told: str
) -> None:
    monkeypatch.setenv("LAGWATCH_QUEUES", queues)

    with pytest.raises(SystemExit) as end:
        read_settings(LagwatchSettings)

    assert end.value.code == 2
    assert "LAGWATCH_QUEUES" in (text := capsys.readouterr().err)
    assert told in text


@pytest.mark.parametrize("interval", ["PT0S", "PT0.01S", "PT1H"])
def test_an_interval_out_of_bounds_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], interval: str
) -> None:
    monkeypatch.setenv("LAGWATCH_POLL_INTERVAL", interval)

    with pytest.raises(SystemExit):
        read_settings(LagwatchSettings)

    assert "LAGWATCH_POLL_INTERVAL: Input should be" in (text := capsys.readouterr().err)
    assert "or equal to" in text


def test_an_interval_is_told_as_iso_8601(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAGWATCH_POLL_INTERVAL", "PT0.5S")

    assert read_settings(LagwatchSettings).poll_interval == timedelta(seconds=0.5)
