"""The map of the laptop hangs together: ports, names, secrets."""

from __future__ import annotations

import re

import pytest

from deploy.dev.key_files import KEY_IDS
from deploy.dev.problem import LaptopProblem
from deploy.dev.process_table import OFFSETS, PORT_BASE, PROCESSES, ProcessSpec, filled, fixed_ports, port_base

FOLDERS = {"directory": "/run", "secrets": "/run/secrets"}


def values() -> dict[str, str]:
    addresses = {name: f"127.0.0.1:{port}" for name, port in fixed_ports(PORT_BASE).items()}
    return addresses | {f"{name}:port": address.rpartition(":")[2] for name, address in addresses.items()} | FOLDERS


def test_no_two_ports_of_the_table_are_the_same() -> None:
    assert len(set(OFFSETS.values())) == len(OFFSETS)


@pytest.mark.parametrize("spec", PROCESSES, ids=lambda spec: spec.name)
def test_every_port_of_a_process_is_in_the_table(spec: ProcessSpec) -> None:
    assert set(spec.port_names()) <= OFFSETS.keys()
    assert f"{spec.name}.http" in spec.port_names()


@pytest.mark.parametrize("spec", PROCESSES, ids=lambda spec: spec.name)
def test_every_name_in_an_argument_or_setting_has_a_value(spec: ProcessSpec) -> None:
    texts = [filled(text, values()) for text in (*spec.arguments, *spec.environment.values())]

    assert not [text for text in texts if "{" in text]


@pytest.mark.parametrize("spec", [spec for spec in PROCESSES if spec.is_service], ids=lambda spec: spec.name)
def test_a_service_gets_settings_of_its_own_prefix_only(spec: ProcessSpec) -> None:
    assert {name.partition("_")[0] for name in spec.environment} == {spec.name.upper()}
    assert {
        f"{spec.name.upper()}_{name}" for name in ("PROFILE", "KAFKA_BROKERS", "HTTP_ADDRESS", "PROBE_ADDRESS")
    } <= set(
        spec.environment,
    )


def test_every_key_ring_that_a_service_reads_is_written() -> None:
    named = {
        name
        for spec in PROCESSES
        for text in spec.environment.values()
        for name in re.findall(r"([a-z-]+)-keys\.json", text)
    }

    assert named == set(KEY_IDS)


def test_no_secret_is_an_argument() -> None:
    assert not [argument for spec in PROCESSES for argument in spec.arguments if "{secrets}" in argument]


def test_all_ports_move_with_the_base(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIP_PORT_BASE", "18400")

    moved = fixed_ports(port_base())

    assert moved == {name: port + 1000 for name, port in fixed_ports(PORT_BASE).items()}


@pytest.mark.parametrize("text", ["", "many", "80", "-1", "65530", "1e4"])
def test_a_base_without_room_for_the_ports_is_refused_with_an_example(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KIP_PORT_BASE", text)

    with pytest.raises(LaptopProblem, match=r"KIP_PORT_BASE is '.*'; it must be a number .* for example 18400"):
        port_base()


def test_an_unknown_name_is_a_mistake_not_an_empty_text() -> None:
    with pytest.raises(KeyError):
        filled("redis://{rediss}", values())
