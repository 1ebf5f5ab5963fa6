"""Settings: the tables in the READMEs, and what the laptop's process table sets."""

from __future__ import annotations

import os

import pytest
from pydantic_settings import BaseSettings

from deploy.create_topics import TopicsSettings
from deploy.dev.process_table import PROCESSES, RECEIPTS, ProcessSpec, filled, fixed_ports
from deploy.kafka_acls import AclsSettings
from services.chassis.settings import KafkaSettings, Profile, read_settings
from tests.quality import settings_tables
from tests.quality.settings_tables import all_settings_of, settings_of, table_of, with_table
from tests.quality.source_code import SERVICES

REQUIRED = {"redis_url": "rediss://redis", "database_url": "postgresql://db/kip", "relay_address": "relay:25"}
OURS = [spec for spec in PROCESSES if spec.module.startswith("services.")]


ALL = [kind for service in SERVICES for kind in all_settings_of(service)]


def prefix_of(kind: type[BaseSettings]) -> str:
    return str(kind.model_config["env_prefix"])


def test_every_settings_table_is_fresh() -> None:
    assert [(readme.parent.name, wrong) for readme, wrong, _fresh in settings_tables.stale()] == []


def test_a_table_that_was_edited_by_hand_is_stale() -> None:
    readme = f"# otp\n\n{table_of(settings_of('otp'))}\n"
    edited = readme.replace("`PT10S`", "`PT11S`")

    assert edited != readme
    assert with_table(edited, table_of(settings_of("otp"))) == readme


@pytest.mark.parametrize("text", ["no markers", f"{settings_tables.BEGIN} {settings_tables.END} " * 2])
def test_a_readme_without_one_place_for_the_table_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="exactly once"):
        with_table(text, "")


def test_a_table_shows_no_default_of_a_secret() -> None:
    rows = [row for kind in ALL for row in table_of(kind).splitlines()]

    secrets = [row for row in rows if "_PASSWORD`" in row or "_URL`" in row]

    assert len(secrets) > 4
    assert all(", secret |" in row for row in secrets)


@pytest.mark.parametrize("spec", [*OURS, RECEIPTS], ids=lambda spec: spec.name)
def test_a_laptop_gives_a_service_settings_that_it_knows_and_accepts(
    spec: ProcessSpec, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prefix = f"{spec.name.upper()}_"
    (kind,) = [each for each in ALL if prefix_of(each) == prefix]
    for name in [name for name in os.environ if name.startswith(prefix)]:
        monkeypatch.delenv(name)
    ports = {name: f"127.0.0.1:{port}" for name, port in fixed_ports(17_400).items()}
    ports |= dict.fromkeys(RECEIPTS.port_names(), "127.0.0.1:17499")  # not on every laptop
    folders = {"directory": "/somewhere", "secrets": "/somewhere/secrets"}
    for name, template in spec.environment.items():
        monkeypatch.setenv(name, filled(template, ports | folders))

    try:
        settings = read_settings(kind)
    except SystemExit:
        pytest.fail(capsys.readouterr().err)

    assert settings.model_dump()["profile"] is Profile.LAPTOP


@pytest.mark.parametrize("kind", [*ALL, TopicsSettings, AclsSettings], ids=lambda k: k.__name__)
@pytest.mark.parametrize("lacking", ["KAFKA_TLS", "KAFKA_USER"])
def test_whoever_reaches_kafka_outside_a_laptop_must_come_with_tls_and_a_name(
    kind: type[KafkaSettings], lacking: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prefix = str(kind.model_config["env_prefix"])
    told = {"KAFKA_BROKERS": "kafka:9093", "KAFKA_TLS": "true", "KAFKA_USER": "somebody", "KAFKA_PASSWORD": "made-up"}
    del told[lacking]
    if lacking == "KAFKA_USER":
        del told["KAFKA_PASSWORD"]
    for name in [name for name in os.environ if name.startswith(prefix)]:
        monkeypatch.delenv(name)
    for name, field in kind.model_fields.items():
        if field.is_required():
            monkeypatch.setenv(prefix + name.upper(), REQUIRED.get(name, "somewhere"))
    for name, value in told.items():
        monkeypatch.setenv(prefix + name, value)

    with pytest.raises(SystemExit):
        read_settings(kind)

    assert f"{lacking.lower()} must be set outside a laptop" in capsys.readouterr().err


def test_the_laptop_starts_every_service() -> None:
    assert {spec.module for spec in OURS} == {f"services.{name}" for name in SERVICES}
