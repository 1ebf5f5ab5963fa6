"""What otp is told from outside: every problem at once, no secret repeated, and production never without protection."""

from __future__ import annotations

import pytest

from services.chassis.settings import EXIT_BAD_SETTINGS, read_settings
from services.otp.settings import PACKAGED_POLICY, OtpSettings

LAPTOP = {
    "OTP_PROFILE": "laptop",
    "OTP_KAFKA_BROKERS": "127.0.0.1:9092",
    "OTP_REDIS_URL": "redis://:made-up@127.0.0.1:6379/0",
    "OTP_CALLERS_FILE": "callers.json",
    "OTP_CODE_KEYS_FILE": "code.json",
    "OTP_HANDLE_KEYS_FILE": "handle.json",
    "OTP_INDEX_KEYS_FILE": "index.json",
    "OTP_SEAL_CODE_KEYS_FILE": "seal-code.json",
}
PRODUCTION = LAPTOP | {
    "OTP_PROFILE": "production",
    "OTP_REDIS_URL": "rediss://:made-up@redis:6379/0",
    "OTP_KAFKA_TLS": "true",
    "OTP_KAFKA_USER": "otp",
    "OTP_KAFKA_PASSWORD": "made-up",
    "OTP_GRPC_CERTIFICATE_FILE": "tls.crt",
    "OTP_GRPC_KEY_FILE": "tls.key",
    "OTP_GRPC_CLIENT_CA_FILE": "ca.crt",
}


def _read(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> OtpSettings:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return read_settings(OtpSettings)


def _problems(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], environment: dict[str, str]) -> str:
    with pytest.raises(SystemExit) as refused:
        _read(monkeypatch, environment)
    assert refused.value.code == EXIT_BAD_SETTINGS
    return capsys.readouterr().err


def test_a_laptop_needs_only_files_a_store_and_brokers(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = _read(monkeypatch, LAPTOP)

    assert settings.policy_file == PACKAGED_POLICY
    assert PACKAGED_POLICY.is_file()


def test_production_starts_with_what_protects_people(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _read(monkeypatch, PRODUCTION).kafka_tls


@pytest.mark.parametrize(
    "missing", ["OTP_GRPC_CERTIFICATE_FILE", "OTP_GRPC_KEY_FILE", "OTP_GRPC_CLIENT_CA_FILE", "OTP_KAFKA_TLS"]
)
def test_production_does_not_start_without(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    environment = {name: value for name, value in PRODUCTION.items() if name != missing}

    assert missing.removeprefix("OTP_").lower() in _problems(monkeypatch, capsys, environment)


def test_production_does_not_talk_to_its_store_in_clear(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = _problems(monkeypatch, capsys, PRODUCTION | {"OTP_REDIS_URL": "redis://:made-up@redis:6379/0"})

    assert "rediss://" in told
    assert "made-up" not in told


def test_production_does_not_let_in_more_than_its_queue_can_serve(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "admission" in _problems(monkeypatch, capsys, PRODUCTION | {"OTP_ADMISSION": "false"})


def test_all_that_is_missing_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = _problems(monkeypatch, capsys, {"OTP_PROFILE": "laptop", "OTP_REDIS_ULR": "redis://127.0.0.1:6379"})

    for name in ("REDIS_URL", "KAFKA_BROKERS", "CALLERS_FILE", "CODE_KEYS_FILE", "HANDLE_KEYS_FILE", "INDEX_KEYS_FILE"):
        assert f"OTP_{name}: " in told
    assert "OTP_REDIS_ULR: no such setting" in told


def test_a_secret_is_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "made-up" not in repr(_read(monkeypatch, PRODUCTION))
