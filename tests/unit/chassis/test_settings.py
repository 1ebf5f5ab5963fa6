"""What a process is told: all problems at once, each by the name that a person can set, and no secret in the text."""

from __future__ import annotations

import os
import re
from datetime import timedelta
from typing import TypeVar

import pytest
from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from services.chassis.settings import (
    KafkaSettings,
    ProcessSettings,
    Profile,
    demand,
    read_settings,
    reading_files,
    split_host_port,
)

SECRET = "made-up-secret"
S = TypeVar("S", bound=ProcessSettings)


class PostSettings(KafkaSettings):
    """A made-up service."""

    model_config = SettingsConfigDict(env_prefix="POST_")

    token: SecretStr = Field(min_length=20)
    slots: int = Field(4, ge=1, le=8)


@pytest.fixture(autouse=True)
def told(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Start from the least that a laptop needs."""
    for name in [name for name in os.environ if name.startswith("POST_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("POST_PROFILE", "laptop")
    monkeypatch.setenv("POST_KAFKA_BROKERS", "127.0.0.1:9092")
    monkeypatch.setenv("POST_TOKEN", "a-token-that-is-long-enough")
    return monkeypatch


def problems(capsys: pytest.CaptureFixture[str], kind: type[S] = PostSettings) -> str:  # type: ignore[assignment] # the usual one
    """Read settings that are wrong; return what stderr says."""
    with pytest.raises(SystemExit) as end:
        read_settings(kind)
    assert end.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    return output.err


def test_what_is_set_is_read_and_the_rest_has_defaults(told: pytest.MonkeyPatch) -> None:
    told.setenv("POST_DRAIN_GRACE", "PT2.5S")
    told.setenv("POST_HTTP_ADDRESS", "[::1]:9090")

    settings = read_settings(PostSettings)

    assert settings.profile is Profile.LAPTOP
    assert settings.kafka_brokers == "127.0.0.1:9092"
    assert settings.drain_grace == timedelta(seconds=2.5)
    assert (settings.slots, settings.probe_address) == (4, "0.0.0.0:50050")
    assert split_host_port(settings.http_address) == ("::1", 9090)


def test_every_problem_is_told_at_once_by_the_name_of_its_variable(
    told: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told.delenv("POST_KAFKA_BROKERS")
    told.setenv("POST_SLOTS", "9")
    told.setenv("POST_HTTP_ADDRESS", "9090")
    told.setenv("POST_DRAIN_GRACE", "PT0S")
    told.setenv("POST_PROFILE", "desk")
    told.setenv("POST_SLOTZ", "3")

    lines = problems(capsys).splitlines()

    assert lines[0] == "Cannot start: settings are wrong."
    assert sorted(line.strip().partition(":")[0] for line in lines[1:]) == [
        "POST_DRAIN_GRACE",
        "POST_HTTP_ADDRESS",
        "POST_KAFKA_BROKERS",
        "POST_PROFILE",
        "POST_SLOTS",
        "POST_SLOTZ",
    ]
    assert all(re.fullmatch(r"  POST_\w+: \S.+", line) for line in lines[1:])


def test_a_misspelt_variable_is_told_even_when_everything_needed_is_there(
    told: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told.setenv("POST_SLOT", "3")

    assert "POST_SLOT: no such setting" in problems(capsys)


def test_a_variable_of_another_service_is_nobodys_business(told: pytest.MonkeyPatch) -> None:
    told.setenv("POSTGRES_X", "1")
    told.setenv("OTHER_POST_X", "1")

    assert read_settings(PostSettings).slots == 4


def test_an_empty_variable_is_one_that_is_not_set(told: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    told.setenv("POST_SLOTS", "")
    assert read_settings(PostSettings).slots == 4

    told.setenv("POST_KAFKA_BROKERS", "")
    assert "POST_KAFKA_BROKERS: Field required" in problems(capsys)


@pytest.mark.parametrize("address", ["9090", ":9090", "host:", "host:port", "host:70000", "host:-1", "host"])
def test_an_address_without_host_or_port_is_refused_with_an_example(
    told: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], address: str
) -> None:
    told.setenv("POST_HTTP_ADDRESS", address)

    assert "POST_HTTP_ADDRESS: must be HOST:PORT, such as 127.0.0.1:50051" in problems(capsys)


def test_a_bad_secret_is_not_printed(told: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    told.setenv("POST_TOKEN", SECRET)
    told.setenv("POST_KAFKA_PASSWORD", SECRET)
    told.setenv("POST_TOKENN", SECRET)

    text = problems(capsys)

    assert "POST_TOKEN: " in text
    assert SECRET not in text


def test_a_good_secret_is_not_in_the_repr(told: pytest.MonkeyPatch) -> None:
    told.setenv("POST_TOKEN", f"{SECRET}-that-is-long")

    settings = read_settings(PostSettings)

    assert SECRET not in f"{settings!r} {settings}"
    assert settings.token.get_secret_value().startswith(SECRET)


def test_settings_cannot_be_changed() -> None:
    settings = read_settings(PostSettings)

    with pytest.raises(ValueError, match="frozen"):
        settings.slots = 5  # type: ignore[misc] # the point


@pytest.mark.parametrize(
    ("name", "value", "told_name"),
    [("POST_KAFKA_USER", "mailer", "kafka_user"), ("POST_KAFKA_PASSWORD", SECRET, "kafka_password")],
)
def test_user_and_password_go_together(
    told: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str, told_name: str
) -> None:
    told.setenv(name, value)

    text = problems(capsys)

    assert "go together: set both or none" in text
    assert told_name in text
    assert SECRET not in text


def test_production_is_the_default_and_demands_tls_and_a_user(
    told: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told.delenv("POST_PROFILE")

    text = problems(capsys)

    assert "kafka_tls, kafka_user must be set outside a laptop" in text


def test_production_with_everything_demanded_starts(told: pytest.MonkeyPatch) -> None:
    told.setenv("POST_PROFILE", "production")
    told.setenv("POST_KAFKA_TLS", "true")
    told.setenv("POST_KAFKA_USER", "mailer")
    told.setenv("POST_KAFKA_PASSWORD", SECRET)

    assert read_settings(PostSettings).profile is Profile.PRODUCTION


def test_a_demand_names_everything_that_is_missing_and_nothing_else() -> None:
    with pytest.raises(ValueError, match=r"^a, c must be set outside a laptop"):
        demand(c=False, b="set", a=None)

    demand(b="set")


def test_a_file_that_cannot_be_used_ends_the_process_with_its_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end, reading_files():
        raise ValueError("ring.json is not a key ring: KeyError")

    assert end.value.code == 2
    assert capsys.readouterr().err == "Cannot start: ring.json is not a key ring: KeyError\n"


def test_a_bug_while_files_are_read_is_no_bad_setting() -> None:
    with pytest.raises(ZeroDivisionError), reading_files():
        raise ZeroDivisionError
