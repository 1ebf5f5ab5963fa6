"""What the mailer can be told, and what it says when it was told wrong."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest

from services.chassis.settings import read_settings
from services.mailer.outbound.smtp_gateway import Relay, relay_tls
from services.mailer.rules.letter import Sender, compose
from services.mailer.settings import MailerSettings, ReceiptsSettings
from tests.fakes.mailer import PRIVATE, WORDS, code_order

LAPTOP = {
    "MAILER_PROFILE": "laptop",
    "MAILER_KAFKA_BROKERS": "127.0.0.1:9092",
    "MAILER_REDIS_URL": "redis://:made-up-secret@127.0.0.1:6379/0",
    "MAILER_RELAY_ADDRESS": "127.0.0.1:2525",
    "MAILER_CODE_KEYS_FILE": "code.json",
    "MAILER_SEAL_CODE_KEYS_FILE": "seal-code.json",
    "MAILER_SEAL_NOTICE_KEYS_FILE": "seal-notice.json",
}
PRODUCTION = LAPTOP | {
    "MAILER_PROFILE": "production",
    "MAILER_KAFKA_TLS": "true",
    "MAILER_KAFKA_USER": "mailer",
    "MAILER_KAFKA_PASSWORD": "made-up-secret",
    "MAILER_REDIS_URL": "rediss://:made-up-secret@redis:6379/0",
}


@pytest.fixture(autouse=True)
def told(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in [name for name in os.environ if name.startswith(("MAILER_", "RECEIPTS_"))]:
        monkeypatch.delenv(name)
    return monkeypatch


def tell(monkeypatch: pytest.MonkeyPatch, settings: dict[str, str]) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)


def problems(capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as end:
        read_settings(MailerSettings)
    assert end.value.code == 2
    text = capsys.readouterr().err
    assert "made-up-secret" not in text
    return text


def test_a_laptop_needs_only_addresses_and_keys(told: pytest.MonkeyPatch) -> None:
    tell(told, LAPTOP)

    settings = read_settings(MailerSettings)

    assert (settings.slots_otp, settings.slots_notice) == (16, 8)
    assert (settings.reply_timeout_otp, settings.reply_timeout_notice) == (timedelta(seconds=30), timedelta(minutes=10))
    assert settings.retry_delays_otp == tuple(timedelta(seconds=seconds) for seconds in (1, 3, 10, 30, 60))
    assert settings.retry_delays_notice == tuple(timedelta(minutes=minutes) for minutes in (1, 10, 60, 360))
    assert settings.patience_notice == timedelta(hours=48)
    assert settings.relay_starttls
    assert "made-up-secret" not in repr(settings)


def test_production_with_tls_everywhere_starts(told: pytest.MonkeyPatch) -> None:
    tell(told, PRODUCTION)

    assert read_settings(MailerSettings).relay_starttls


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"MAILER_RELAY_STARTTLS": "false"}, "relay_starttls must be set outside a laptop"),
        ({"MAILER_REDIS_URL": "redis://:made-up-secret@redis:6379/0"}, "redis_url must be a rediss:// URL"),
        ({"MAILER_KAFKA_TLS": "false"}, "kafka_tls must be set outside a laptop"),
    ],
)
def test_production_demands_tls_everywhere(
    told: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], change: dict[str, str], why: str
) -> None:
    tell(told, PRODUCTION | change)

    assert why in problems(capsys)


@pytest.mark.parametrize("alone", ["MAILER_RELAY_USER", "MAILER_RELAY_PASSWORD"])
def test_a_relay_user_and_its_password_go_together(
    told: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], alone: str
) -> None:
    tell(told, LAPTOP | {alone: "made-up-secret"})

    assert "relay_user and relay_password go together" in problems(capsys)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MAILER_TIME_ZONE", "Asia/Nowhere"),
        ("MAILER_TIME_ZONE", "../../etc/passwd"),
        ("MAILER_TIME_ZONE", "/etc/localtime"),
        ("MAILER_SENDER_NAME", "Cổng\nBcc: x@y.vn"),
        ("MAILER_SENDER_NAME", "x" * 61),
        ("MAILER_SENDER_ADDRESS", "khong-trả-lời@kip.example"),
        ("MAILER_SENDER_ADDRESS", "khong-tra-loi"),
        ("MAILER_SENDER_ADDRESS", "a@b.vn, c@d.vn"),
        ("MAILER_SENDER_ADDRESS", "a@b.vn\r\nX: y"),
        ("MAILER_SENDER_ADDRESS", "Kip <a@b.vn>"),
        ("MAILER_SLOTS_OTP", "0"),
        ("MAILER_SLOTS_NOTICE", "201"),
        ("MAILER_REPLY_TIMEOUT_OTP", "PT0S"),
        ("MAILER_RELAY_ADDRESS", "relay"),
        ("MAILER_RETRY_DELAYS_OTP", "PT3S,PT1S"),
        ("MAILER_RETRY_DELAYS_OTP", "PT1S,PT1S"),
        ("MAILER_RETRY_DELAYS_OTP", "PT0S"),
        ("MAILER_RETRY_DELAYS_OTP", "PT1.5S"),
        ("MAILER_RETRY_DELAYS_OTP", "PT1S,"),
        ("MAILER_RETRY_DELAYS_NOTICE", "soon"),
        ("MAILER_RETRY_DELAYS_NOTICE", "P2D"),
        ("MAILER_RETRY_DELAYS_NOTICE", ",".join(f"PT{minutes}M" for minutes in range(1, 10))),
        ("MAILER_PATIENCE_NOTICE", "PT0S"),
    ],
)
def test_what_would_fail_with_every_letter_is_told_at_the_start(
    told: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    tell(told, LAPTOP | {name: value})

    assert f"\n  {name}: " in problems(capsys)


def test_delays_are_read_from_one_line(told: pytest.MonkeyPatch) -> None:
    tell(told, LAPTOP | {"MAILER_RETRY_DELAYS_OTP": "PT2S, PT1M"})

    assert read_settings(MailerSettings).retry_delays_otp == (timedelta(seconds=2), timedelta(minutes=1))


@pytest.mark.parametrize("name", ["Cổng dịch vụ công", "Kip", '"Kip", the portal <x>', "ễ" * 60])
def test_a_sender_that_is_taken_can_be_written_into_a_letter(told: pytest.MonkeyPatch, name: str) -> None:
    tell(told, LAPTOP | {"MAILER_SENDER_NAME": name})
    settings = read_settings(MailerSettings)

    message = compose(code_order(), PRIVATE.email, WORDS, Sender(settings.sender_name, settings.sender_address))

    assert message.sender == settings.sender_address


@pytest.mark.parametrize("text", [None, "", "no certificate"])
def test_a_ca_file_that_cannot_be_used_is_told_at_the_start(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "ca.pem"
    if text is not None:
        file.write_text(text)

    with pytest.raises(ValueError, match=r"ca\.pem holds no certificate"):
        relay_tls(file)


def test_the_password_of_the_relay_is_in_no_repr() -> None:
    assert "made-up-secret" not in repr(Relay("relay-1", "relay:25", None, "mailer", "made-up-secret"))


# The second process

RECEIPTS = {
    "RECEIPTS_PROFILE": "laptop",
    "RECEIPTS_KAFKA_BROKERS": "127.0.0.1:9092",
    "RECEIPTS_REDIS_URL": "redis://:made-up-secret@127.0.0.1:6379/0",
    "RECEIPTS_LOG_FILE": "/var/log/mail.log",
}
LISTENS = {"RECEIPTS_SMTP_ADDRESS": "127.0.0.1:2526", "RECEIPTS_RECEIPT_KEYS_FILE": "receipt.json"}


def test_receipts_come_from_a_log_from_a_return_path_or_from_both(told: pytest.MonkeyPatch) -> None:
    tell(told, RECEIPTS)
    only_log = read_settings(ReceiptsSettings)
    tell(told, LISTENS)
    both = read_settings(ReceiptsSettings)
    told.delenv("RECEIPTS_LOG_FILE")
    only_returns = read_settings(ReceiptsSettings)

    assert (only_log.log_file, only_log.smtp_address) == (Path("/var/log/mail.log"), None)
    assert (both.log_file, both.smtp_address) == (Path("/var/log/mail.log"), "127.0.0.1:2526")
    assert (only_returns.log_file, only_returns.smtp_address) == (None, "127.0.0.1:2526")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"RECEIPTS_LOG_FILE": ""}, "set log_file, smtp_address or both"),
        ({"RECEIPTS_SMTP_ADDRESS": "127.0.0.1:2526"}, "smtp_address needs receipt_keys_file"),
        ({"RECEIPTS_LOG_BACKOFF_LEAST": "PT2H"}, "log_backoff_most must not be less"),
        ({"RECEIPTS_LOG_ROUTE": "relay:1"}, "RECEIPTS_LOG_ROUTE"),
        ({"RECEIPTS_LOG_FIEL": "/var/log/mail.log"}, "RECEIPTS_LOG_FIEL: no such setting"),
    ],
)
def test_receipts_say_what_they_cannot_do_with_their_settings(
    told: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], changes: dict[str, str], problem: str
) -> None:
    tell(told, RECEIPTS | changes)

    with pytest.raises(SystemExit):
        read_settings(ReceiptsSettings)

    assert problem in capsys.readouterr().err


@pytest.mark.parametrize("asked", ["NEVER", "SUCCESS,SUCCESS", "", "success"])
def test_a_relay_is_asked_only_what_the_rfc_knows(
    told: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], asked: str
) -> None:
    tell(told, LAPTOP | {"MAILER_NOTIFY": asked or ","})

    assert "MAILER_NOTIFY: must be some of SUCCESS,DELAY,FAILURE" in problems(capsys)


def test_letters_leave_with_the_return_path_that_is_set(told: pytest.MonkeyPatch) -> None:
    sender = Sender("Cổng", "from@kip.example", "returns@kip.example")

    assert compose(code_order(), PRIVATE.email, WORDS, sender).sender == "returns@kip.example"
    assert b"returns@" not in compose(code_order(), PRIVATE.email, WORDS, sender).octets
    tell(told, LAPTOP | {"MAILER_RETURN_PATH": "returns@kip.example"})
    assert read_settings(MailerSettings).return_path == "returns@kip.example"
