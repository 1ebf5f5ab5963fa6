"""Prometheus and Alertmanager of a laptop: they scrape the stack's pages, know the rules, and pass alerts on."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.dev import monitoring
from deploy.dev.monitoring import COMPONENT, PROGRAMS, Alertmanager, Prometheus, find_program, why_unwatched
from services.chassis.telemetry import new_registry
from tests.conditions import wait_until
from tests.integration.dev.metrics_server import metrics_server
from tests.servers.prometheus_tools import checked
from tests.servers.require import require


def ask(address: str, path: str) -> Any:
    with urllib.request.urlopen(f"http://{address}{path}", timeout=5) as answer:
        return json.load(answer)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Both servers, over one page of ours; their addresses by name."""
    require(why_unwatched())
    place = tmp_path_factory.mktemp("monitoring")
    with metrics_server(new_registry("lagwatch", "1")) as page:
        alertmanager = Alertmanager(place / "alertmanager", None, log=place / "alertmanager.log")
        targets = {"lagwatch": page, **alertmanager.addresses()}
        prometheus = Prometheus(place / "prometheus", None, log=place / "prometheus.log", targets=lambda: targets)
        try:
            alertmanager.start()
            prometheus.start()
            yield alertmanager.addresses() | prometheus.addresses()
        finally:
            prometheus.stop()
            alertmanager.stop()


def test_every_page_is_scraped(watched: dict[str, str]) -> None:
    def up() -> list[str]:
        result = ask(watched["prometheus"], "/api/v1/query?query=up==1")["data"]["result"]
        return [series["metric"]["job"] for series in result]

    wait_until(lambda: up() == ["lagwatch"], within_s=40, what="a scrape")


def test_the_rules_of_the_cluster_are_loaded_and_an_alert_reaches_alertmanager(watched: dict[str, str]) -> None:
    groups = ask(watched["prometheus"], "/api/v1/rules")["data"]["groups"]

    def heard() -> set[str]:
        return {alert["labels"]["alertname"] for alert in ask(watched["alertmanager"], "/api/v2/alerts")}

    assert {group["name"] for group in groups} == {"kip-queue", "kip-queue-alerts", "kip-objectives"}
    wait_until(lambda: "Watchdog" in heard(), within_s=60, what="the watchdog at Alertmanager")


STAGES = ("slow", "predicted", "doomed", "dying")


@pytest.mark.parametrize("worst", STAGES)
def test_of_the_stages_of_one_overload_only_the_worst_is_said(watched: dict[str, str], worst: str) -> None:
    stages = STAGES[: STAGES.index(worst) + 1]
    for stage in stages:
        _raise(watched, f"Made{stage}", f"stage={stage}", f"slo=of-{worst}", "severity=page")
    _raise(watched, "MadeElsewhere", "stage=slow", f"slo=beside-{worst}", "severity=page")

    def states() -> dict[str, str]:
        alerts = ask(watched["alertmanager"], "/api/v2/alerts")
        ours = [alert for alert in alerts if alert["labels"].get("slo") in {f"of-{worst}", f"beside-{worst}"}]
        return {alert["labels"]["alertname"]: alert["status"]["state"] for alert in ours}

    expected = {f"Made{stage}": "suppressed" for stage in stages} | {
        f"Made{worst}": "active",
        "MadeElsewhere": "active",
    }
    wait_until(lambda: states() == expected, within_s=30, what=f"{expected}")


def test_a_budget_that_burns_needs_no_ticket_that_it_leaks(watched: dict[str, str]) -> None:
    _raise(watched, "OtpEmailErrorBudgetBurn", "slo=budget", "severity=page")
    for name in ("OtpEmailErrorBudgetLeak", "OtpPromptnessBurn"):
        _raise(watched, name, "slo=budget", "severity=ticket")

    def inhibited() -> str:
        url = f"--alertmanager.url=http://{watched['alertmanager']}"
        return checked("amtool", "alert", "query", "--inhibited", "slo=budget", url)

    tickets = ["OtpEmailErrorBudgetLeak", "OtpPromptnessBurn"]
    wait_until(lambda: all(name in inhibited() for name in tickets), within_s=30, what="the inhibited tickets")
    assert "OtpEmailErrorBudgetBurn" not in inhibited()


def _raise(watched: dict[str, str], name: str, *labels: str) -> None:
    checked("amtool", "alert", "add", name, *labels, f"--alertmanager.url=http://{watched['alertmanager']}")


def test_where_they_are_not_installed_it_is_said_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(COMPONENT))

    assert [find_program(name) for name in PROGRAMS] == [None, None]
    assert why_unwatched() == (
        "Nobody watches: prometheus and alertmanager not installed. "
        "Get it: apt-get install --no-install-recommends prometheus prometheus-alertmanager"
    )


def test_debians_name_of_alertmanager_is_known_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "prometheus-alertmanager"
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert monitoring.find_program("alertmanager") == str(program)
