from __future__ import annotations

from pathlib import Path

import pytest

from services.chassis.settings import EXIT_BAD_SETTINGS, read_settings
from services.dossier.settings import DossierSettings

LAPTOP = {
    "DOSSIER_PROFILE": "laptop",
    "DOSSIER_KAFKA_BROKERS": "127.0.0.1:9092",
    "DOSSIER_CALLERS_FILE": "callers.json",
    "DOSSIER_DATABASE_URL": "sqlite:///dossier.db",
    "DOSSIER_SEAL_NOTICE_KEYS_FILE": "seal-notice.json",
}
PRODUCTION = LAPTOP | {
    "DOSSIER_PROFILE": "production",
    "DOSSIER_KAFKA_TLS": "true",
    "DOSSIER_KAFKA_USER": "dossier",
    "DOSSIER_KAFKA_PASSWORD": "made-up",
    "DOSSIER_DATABASE_URL": "postgresql://dossier:made-up@db:5432/dossier",
    "DOSSIER_GRPC_CERTIFICATE_FILE": "tls.crt",
    "DOSSIER_GRPC_KEY_FILE": "tls.key",
    "DOSSIER_GRPC_CLIENT_CA_FILE": "ca.crt",
}


def _read(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> DossierSettings:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return read_settings(DossierSettings)


def _problems(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], environment: dict[str, str]) -> str:
    with pytest.raises(SystemExit) as refused:
        _read(monkeypatch, environment)
    assert refused.value.code == EXIT_BAD_SETTINGS
    return capsys.readouterr().err


def test_a_laptop_needs_only_files_a_database_and_brokers(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = _read(monkeypatch, LAPTOP)

    assert settings.agency == "K01"
    assert settings.procedures_dir.is_dir()
    assert settings.seal_notice_keys_file == Path("seal-notice.json")


def test_production_starts_with_what_protects_people(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _read(monkeypatch, PRODUCTION).kafka_tls


@pytest.mark.parametrize(
    "name", ["DOSSIER_GRPC_CERTIFICATE_FILE", "DOSSIER_GRPC_KEY_FILE", "DOSSIER_GRPC_CLIENT_CA_FILE"]
)
def test_production_demands_tls(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str) -> None:
    environment = {key: value for key, value in PRODUCTION.items() if key != name}

    assert name.removeprefix("DOSSIER_").lower() in _problems(monkeypatch, capsys, environment)


def test_production_demands_postgresql(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    told = _problems(monkeypatch, capsys, PRODUCTION | {"DOSSIER_DATABASE_URL": "sqlite:///dossier.db"})

    assert "use PostgreSQL" in told


def test_every_problem_is_told_at_once_and_no_secret(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = {"DOSSIER_DATABASE_URL": "mysql://root:hunter2@db/x", "DOSSIER_AGENCY": "k 01", "DOSSIER_GRPC_ADRESS": "x"}

    told = _problems(monkeypatch, capsys, LAPTOP | bad)

    for name in ("DOSSIER_DATABASE_URL", "DOSSIER_AGENCY", "DOSSIER_GRPC_ADRESS: no such setting"):
        assert name in told
    assert "hunter2" not in told
