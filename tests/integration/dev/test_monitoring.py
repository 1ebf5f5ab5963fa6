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
