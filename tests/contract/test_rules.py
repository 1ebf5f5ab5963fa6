"""Rules, alerts and their routes: checked by Prometheus's own tools, and in step with what we export.

Each alert fires and stays silent in a case of `alerts_test.yaml` or `objectives_test.yaml`, and has a page in the
runbook.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.contract.test_places_agree_metrics import exported_by_everybody
from tests.quality.crd_schemas import crd_schemas
from tests.quality.source_code import ROOT, SERVICES, section
from tests.servers.prometheus_tools import checked

MONITORING = ROOT / "deploy/k8s/components/monitoring"
CASES = ("alerts_test.yaml", "objectives_test.yaml")
ROUTES = MONITORING / "alertmanager.yaml"
RUNBOOK = ROOT / "docs/runbook.md"
SUFFIXES = ("_bucket", "_count", "_sum")
FOREIGN = {  # exported by others: the exporter of Redis, kube-state-metrics
    "redis_evicted_keys_total",
    "kube_horizontalpodautoscaler_status_current_replicas",
    "kube_horizontalpodautoscaler_spec_max_replicas",
}
LIVE = (ROOT / "tests/e2e/test_alerts.py", *sorted((ROOT / "tests/alerts").glob("test_*.py")))
ONLY_IN_A_CLUSTER = {"OtpAutoscalerExhausted", "OtpRedisEvicting"}  # what they read is `FOREIGN`
METRIC = re.compile(r"(?<![\w:\"./-])[a-z]+(?:_[a-z0-9]+)+(?![\w(:\"-])")
Rule = Mapping[str, Any]


def _groups() -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = yaml.safe_load((MONITORING / "rules.yaml").read_text())["spec"]["groups"]
    return groups


RULES: list[Rule] = [rule for group in _groups() for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the rules as Prometheus itself reads them, a file per group, and the cases beside them."""
    folder = tmp_path_factory.mktemp("rules")
    for group in _groups():
        (folder / f"{group['name']}.yaml").write_text(yaml.safe_dump({"groups": [group]}))
    for name in CASES:
        shutil.copy(MONITORING / name, folder)
    return folder


def test_prometheus_understands_the_rules(plain: Path) -> None:
    files = [plain / f"{group['name']}.yaml" for group in _groups()]

    said = checked("promtool", "check", "rules", "--lint=all", "--lint-fatal", *files)

    assert sum(map(int, re.findall(r"(\d+) rules found", said))) == len(RULES)


@pytest.mark.parametrize("name", CASES)
def test_every_case_comes_out_as_it_says(plain: Path, name: str) -> None:
    assert "SUCCESS" in checked("promtool", "test", "rules", plain / name, within_s=110)


def cases_of(alert: str) -> Iterator[bool]:
    """Yield of each case about an alert whether it is to fire."""
    for name in CASES:
        for case in yaml.safe_load((MONITORING / name).read_text())["tests"]:
            for expected in case.get("alert_rule_test", ()):
                if expected["alertname"] == alert:
                    yield bool(expected["exp_alerts"])


@pytest.mark.parametrize("alert", sorted(ALERTS.keys() - {"Watchdog"}))
def test_an_alert_has_a_case_in_which_it_fires_and_one_in_which_it_is_silent(alert: str) -> None:
    assert {*cases_of(alert)} == {True, False}


def test_every_alert_fires_in_a_live_run_but_those_that_only_a_cluster_has_the_series_for() -> None:
    told = "".join(file.read_text() for file in LIVE)

    assert {alert for alert in ALERTS if f'"{alert}"' not in told} == ONLY_IN_A_CLUSTER | {"Watchdog"}
    assert "ALWAYS" in told  # that is the watchdog


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_has_a_page_in_the_runbook_that_says_what_to_do(alert: str) -> None:
    page = section(RUNBOOK.read_text(), alert)

    assert ALERTS[alert]["annotations"]["runbook_url"].endswith(f"#{alert.lower()}")
    for part in ("**For citizens:**", "**Do:**", "**Do not:**"):
        assert part in page
    (commands,) = re.findall(r"```text\n(.*?)```", page, re.DOTALL)
    assert len(commands.splitlines()) == 3


def test_the_runbook_has_no_page_for_an_alert_that_is_no_more() -> None:
    assert set(re.findall(r"^## (.+)$", RUNBOOK.read_text(), re.MULTILINE)) == set(ALERTS)


def metrics_named_in(text: str) -> set[str]:
    """Return the raw series that an expression, or a command with one, names; recorded ones have colons."""
    bare = re.sub(r'"[^"]*"|\b(?:by|on|group_left|ignoring)\s*\([^)]*\)', "", text)
    return {name for name in METRIC.findall(bare) if "_" in name}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_a_rule_reads_only_what_somebody_exports(rule: Rule) -> None:
    words = {"min_over_time", "last_over_time", "clamp_min", "histogram_quantile", "label_replace", "group_left"}
    bare = re.sub(r"\{[^}]*\}", "", rule["expr"])

    assert metrics_named_in(bare) - words - FOREIGN - exported_by_everybody() == set()


def test_a_rule_that_reads_what_is_recorded_reads_what_is_there() -> None:
    recorded = {rule["record"] for rule in RULES if "record" in rule}
    read = {name for rule in RULES for name in re.findall(r"[a-z_]+:[a-z_]+:[a-z0-9_]+", rule["expr"])}

    assert read - recorded == set()


@pytest.mark.parametrize("name", ["queue_deadline", "queue_slow", "queue_prompt"])
def test_an_alert_compares_with_what_the_policy_says(name: str) -> None:
    assert any(f"scalar(otp:{name}:seconds)" in rule["expr"] for rule in ALERTS.values())


def test_no_wait_of_a_code_is_compared_with_a_number_of_our_own() -> None:
    waits = r"(?:lane|partition|otp):(?:queue_age|wait_predicted|first_death_in|outbox_age):seconds"
    literal = re.compile(waits + r'(?:\{lane="otp"\})?\)? [<>]=? \d+(?! [*])')

    found = {name: literal.findall(rule["expr"]) for rule in RULES for name in [rule.get("alert") or rule["record"]]}

    assert {name: said for name, said in found.items() if said} == {
        "lane:queue_age:seconds": ["otp:outbox_age:seconds > 0"],
        "lane:wait_predicted:seconds": ['lane:queue_age:seconds{lane="otp"} > 0'],
    }


def test_prometheus_finds_no_fault_with_the_routes_and_alertmanager_knows_them() -> None:
    assert "3 receivers" in checked("amtool", "check-config", ROUTES)


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_reaches_who_is_to_hear_of_it(alert: str) -> None:
    labels = {"alertname": alert, **ALERTS[alert]["labels"]}
    expected = {"page": "page", "ticket": "ticket", "none": "watchdog"}[labels["severity"]]

    words = [f"{name}={value}" for name, value in labels.items()]
    said = checked("amtool", "config", "routes", "test", f"--config.file={ROUTES}", *words)

    assert expected in said.splitlines()


@pytest.fixture(scope="module")
def rendered() -> list[Mapping[str, Any]]:
    """What the component adds to an overlay."""
    kubectl, overlay = Path(sys.executable).with_name("kubectl"), ROOT / "deploy/k8s/overlays/monitored"
    out = subprocess.run([kubectl, "kustomize", overlay], check=True, capture_output=True, text=True).stdout
    return [manifest for manifest in yaml.safe_load_all(out) if "monitoring.coreos.com" in manifest["apiVersion"]]


def test_the_operator_would_take_what_the_component_adds(rendered: list[Mapping[str, Any]]) -> None:
    schemas = crd_schemas()

    assert {manifest["kind"] for manifest in rendered} == set(schemas)
    for manifest in rendered:
        jsonschema.validate(manifest, schemas[manifest["kind"]])


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("PodMonitor", ("spec", "podMetricsEndpoints", 0, "every"), "5s"),
        ("PodMonitor", ("spec", "podMetricsEndpoints", 0, "interval"), "5 sec"),
        ("PrometheusRule", ("spec", "groups", 0, "rules", 0, "expression"), "up"),
        ("PrometheusRule", ("spec", "groups", 0, "interval"), 10),
    ],
)
def test_a_broken_copy_is_refused(
    rendered: list[Mapping[str, Any]], kind: str, path: tuple[str | int, ...], value: object
) -> None:
    (manifest,) = [yaml.safe_load(yaml.safe_dump(each)) for each in rendered if each["kind"] == kind]
    place: Any = manifest
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(manifest, crd_schemas()[kind])


def test_every_service_is_scraped(rendered: list[Mapping[str, Any]]) -> None:
    (monitor,) = [each for each in rendered if each["kind"] == "PodMonitor"]

    (expression,) = monitor["spec"]["selector"]["matchExpressions"]
    assert expression == {"key": "app.kubernetes.io/name", "operator": "In", "values": [*SERVICES, "receipts"]}
    assert monitor["spec"]["sampleLimit"] == 500
    assert [endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]] == ["http"]
