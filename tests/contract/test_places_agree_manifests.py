"""The manifests of `deploy/k8s/base`: valid, hardened, and in step with settings, ports, versions and their README."""

from __future__ import annotations

import copy
import inspect
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from deploy.create_topics import TopicsSettings
from services.chassis.retry import patiently
from services.chassis.settings import KafkaSettings, Profile, read_settings, split_host_port
from services.mailer.settings import MailerSettings, ReceiptsSettings
from tests.quality.settings_tables import settings_of
from tests.quality.source_code import ROOT, SERVICES, quoted, table_with

BASE = ROOT / "deploy/k8s/base"
KUBECTL = Path(sys.executable).with_name("kubectl")
WORKLOADS = {"Deployment", "Job"}
SECRET_VALUES = {"redis-url": "rediss://redis.example", "database-url": "postgresql://db.example/kip"}
GOOD_BYES = timedelta(seconds=20)  # last commits and closed connections, after preStop and at most two drains

Manifest = Mapping[str, Any]


@pytest.fixture(scope="module")
def manifests() -> list[Manifest]:
    return rendered(BASE)


@pytest.fixture(scope="module")
def receiving() -> list[Manifest]:
    """The base with the component of the receipts."""
    return rendered(ROOT / "deploy/k8s/overlays/receiving")


def rendered(folder: Path) -> list[Manifest]:
    text = subprocess.run([KUBECTL, "kustomize", folder], check=True, capture_output=True, text=True).stdout
    return list(yaml.safe_load_all(text))


def named(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    (found,) = [m for m in manifests if m["kind"] == kind and m["metadata"]["name"] == name]
    return found


def pod_of(manifest: Manifest) -> Manifest:
    pod: Manifest = manifest["spec"]["template"]["spec"]
    return pod


def container_of(manifest: Manifest) -> Manifest:
    (container,) = pod_of(manifest)["containers"]
    assert isinstance(container, dict)
    return container


def environment_of(manifests: list[Manifest], service: str) -> Mapping[str, str]:
    """Return what the container gets: its ConfigMap, and a stand-in for each secret."""
    container = container_of(named(manifests, "Deployment", service))
    environment: dict[str, str] = {}
    for source in container["envFrom"]:
        environment |= named(manifests, "ConfigMap", source["configMapRef"]["name"])["data"]
    for variable in container["env"]:
        key = variable["valueFrom"]["secretKeyRef"]["key"]
        environment[variable["name"]] = SECRET_VALUES.get(key, "a made-up secret")
    return environment


def secrets_in(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Yield name and key of each secret that a workload refers to."""
    for variable in container_of(manifest).get("env", ()):
        yield variable["valueFrom"]["secretKeyRef"]["name"], variable["valueFrom"]["secretKeyRef"]["key"]
    for volume in pod_of(manifest)["volumes"]:
        for source in volume.get("projected", {}).get("sources", ()):
            for item in source["secret"]["items"]:
                yield source["secret"]["name"], item["key"]


def files_in(manifest: Manifest) -> set[str]:
    """Return the paths of all files that are mounted."""
    mounted = {mount["name"]: mount["mountPath"] for mount in container_of(manifest)["volumeMounts"]}
    return {
        f"{mounted[volume['name']]}/{item['path']}"
        for volume in pod_of(manifest)["volumes"]
        for source in volume.get("projected", {}).get("sources", ())
        for item in source["secret"]["items"]
    }


def test_everything_is_valid_in_the_strictest_sense(manifests: list[Manifest]) -> None:
    for manifest in manifests:
        kubernetes_validate.validate(manifest, "1.37", strict=True)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "template", "spec", "containers", 0, "readinessProb"), {}),
        (("spec", "template", "spec", "terminationGracePeriodSeconds"), "a minute"),
        (("spec", "strategy", "rollingUpdate", "maxUnavailabel"), 0),
        (("spec", "template", "spec", "containers", 0, "livenessProbe", "grpc", "serviceName"), "liveness"),
    ],
)
def test_a_broken_copy_is_refused(manifests: list[Manifest], path: tuple[str | int, ...], value: object) -> None:
    broken = copy.deepcopy(named(manifests, "Deployment", "otp"))
    place: Any = broken
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, "1.37", strict=True)


@pytest.mark.parametrize("service", SERVICES)
def test_a_process_is_told_only_what_it_knows_and_all_that_it_demands(
    service: str, manifests: list[Manifest], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kind = settings_of(service)
    prefix = str(kind.model_config["env_prefix"])
    for name in [name for name in os.environ if name.startswith(prefix)]:
        monkeypatch.delenv(name)
    environment = environment_of(manifests, service)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    try:
        settings = read_settings(kind)
    except SystemExit:
        pytest.fail(capsys.readouterr().err)

    assert settings.model_dump()["profile"] is Profile.PRODUCTION
    assert {name for name in environment if not name.startswith(prefix)} == set()


@pytest.mark.parametrize("service", SERVICES)
def test_every_secret_setting_comes_from_a_secret(service: str, manifests: list[Manifest]) -> None:
    config = named(manifests, "Deployment", service)
    plain = named(manifests, "ConfigMap", container_of(config)["envFrom"][0]["configMapRef"]["name"])["data"]

    assert [name for name in plain if "PASSWORD" in name or name.endswith("_URL")] == []


@pytest.mark.parametrize("service", SERVICES)
def test_the_files_that_settings_name_are_mounted_and_no_others(service: str, manifests: list[Manifest]) -> None:
    environment = environment_of(manifests, service)

    assert {value for name, value in environment.items() if name.endswith("_FILE")} == files_in(
        named(manifests, "Deployment", service)
    )


@pytest.mark.parametrize("service", SERVICES)
def test_ports_are_the_defaults_of_the_settings(service: str, manifests: list[Manifest]) -> None:
    fields = settings_of(service).model_fields
    expected = {
        name: split_host_port(fields[f"{name}_address"].default)[1]
        for name in ("grpc", "http", "probe")
        if f"{name}_address" in fields
    }

    container = container_of(named(manifests, "Deployment", service))
    offered = named(manifests, "Service", service)["spec"]["ports"]

    assert {port["name"]: port["containerPort"] for port in container["ports"]} == expected
    assert {port["name"]: port["port"] for port in offered} == {n: p for n, p in expected.items() if n != "probe"}
    assert all(port["targetPort"] == port["name"] for port in offered)
    for probe in ("startup", "readiness", "liveness"):
        assert container[f"{probe}Probe"]["grpc"] == {"port": expected["probe"], "service": probe}


@pytest.mark.parametrize("service", SERVICES)
def test_a_process_has_time_to_come_and_to_go(service: str, manifests: list[Manifest]) -> None:
    deployment = named(manifests, "Deployment", service)
    container = container_of(deployment)
    drain: timedelta = settings_of(service).model_fields["drain_grace"].default
    before = timedelta(seconds=container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0))
    startup = container["startupProbe"]

    grace = timedelta(seconds=pod_of(deployment)["terminationGracePeriodSeconds"])
    patience = inspect.signature(patiently).parameters["within"].default

    assert grace >= before + 2 * drain + GOOD_BYES
    assert timedelta(seconds=startup["periodSeconds"] * startup["failureThreshold"]) > patience
    assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_every_pod_is_hardened(manifests: list[Manifest]) -> None:
    workloads = [manifest for manifest in manifests if manifest["kind"] in WORKLOADS]

    assert len(workloads) == len(SERVICES) + 1
    for workload in workloads:
        pod, container = pod_of(workload), container_of(workload)
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert pod["serviceAccountName"] == workload["metadata"]["name"]
        assert pod["securityContext"].items() >= {"runAsNonRoot": True, "runAsUser": 65532, "runAsGroup": 65532}.items()
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert all("sizeLimit" in volume["emptyDir"] for volume in pod["volumes"] if "emptyDir" in volume)
        assert container["resources"]["requests"].keys() == {"cpu", "memory", "ephemeral-storage"}
        assert container["resources"]["limits"].keys() == {"memory"}


def test_no_secret_is_made_here(manifests: list[Manifest]) -> None:
    assert [manifest for manifest in manifests if manifest["kind"] == "Secret"] == []


def test_the_readme_lists_exactly_the_secrets_that_are_referred_to(manifests: list[Manifest]) -> None:
    used = {(*secret, m["metadata"]["name"]) for m in manifests if m["kind"] in WORKLOADS for secret in secrets_in(m)}

    listed = {
        (secret, key, user)
        for row in table_with((ROOT / "deploy/k8s/README.md").read_text(), "Secret")
        for secret in quoted(row["Secret"])
        for key in quoted(row["keys"])
        for user in (*SERVICES, "create-topics")
        if user in row["for"].split(", ") or (row["for"] == "each API" and secret.endswith(user))
    }

    assert listed == used


def test_images_carry_the_version_of_the_project_and_run_what_exists(manifests: list[Manifest]) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    workloads = {m["metadata"]["name"]: container_of(m) for m in manifests if m["kind"] in WORKLOADS}

    assert {name: container["image"] for name, container in workloads.items()} == {
        name: f"kip/{name}:{version}" for name in (*SERVICES, "create-topics")
    }
    for container in workloads.values():
        python, option, module = container["command"]
        assert (python, option) == ("python", "-m")
        assert (ROOT / module.replace(".", "/")).is_dir() or (ROOT / f"{module.replace('.', '/')}.py").is_file()


def test_the_job_of_the_topics_uses_only_options_and_settings_that_exist(manifests: list[Manifest]) -> None:
    container = container_of(named(manifests, "Job", "create-topics"))
    data = named(manifests, "ConfigMap", container["envFrom"][0]["configMapRef"]["name"])["data"]
    program = (ROOT / "deploy/create_topics.py").read_text()

    given = {*data, *(variable["name"] for variable in container["env"])}

    assert all(f'"{option}"' in program for option in container["args"][::2])
    assert {name.removeprefix("TOPICS_").lower() for name in given} <= TopicsSettings.model_fields.keys()


def test_the_receipts_and_the_mailer_beside_them_are_told_what_they_know_and_have_the_files_that_they_name(
    receiving: list[Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    for manifest in receiving:
        kubernetes_validate.validate(manifest, "1.37", strict=True)
    kinds: dict[str, type[KafkaSettings]] = {"receipts": ReceiptsSettings, "mailer": MailerSettings}
    for service, kind in kinds.items():
        environment = environment_of(receiving, service)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        assert read_settings(kind).model_dump()["receipt_keys_file"] == Path("/etc/kip/receipt-keys.json")
        named_files = {value for name, value in environment.items() if name.endswith("_FILE")}
        assert named_files == files_in(named(receiving, "Deployment", service))


def test_the_receipts_run_as_the_mailer_does_on_the_ports_of_their_settings(receiving: list[Manifest]) -> None:
    receipts, mailer = (named(receiving, "Deployment", name) for name in ("receipts", "mailer"))
    ours, theirs = container_of(receipts), container_of(mailer)
    environment = environment_of(receiving, "receipts")
    ports = {port["name"]: port["containerPort"] for port in ours["ports"]}
    offered = named(receiving, "Service", "receipts")["spec"]["ports"]

    assert ours["image"] == theirs["image"]
    assert ours["securityContext"] == theirs["securityContext"]
    assert pod_of(receipts)["securityContext"] == pod_of(mailer)["securityContext"]
    assert (ROOT / f"{ours['command'][-1].replace('.', '/')}.py").is_file()
    assert ports["smtp"] == split_host_port(environment["RECEIPTS_SMTP_ADDRESS"])[1]
    assert {port["name"]: port["port"] for port in offered} == {name: ports[name] for name in ("http", "smtp")}
    for probe in ("startup", "readiness", "liveness"):
        assert ours[f"{probe}Probe"]["grpc"] == {"port": ports["probe"], "service": probe}
