"""Prometheus and Alertmanager of a laptop, where they are installed: they watch the stack by the rules of the cluster.

Both are ordinary programs from the system's packages. What they are to do is written anew at each start: whom to scrape
from the ports of the stack, the rules and routes from `deploy/k8s/components/monitoring`.
"""

from __future__ import annotations

import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from deploy.dev.server_process import ServerProcess

COMPONENT = Path(__file__).parents[1] / "k8s" / "components" / "monitoring"
PROGRAMS = {"prometheus": ("prometheus",), "alertmanager": ("alertmanager", "prometheus-alertmanager")}
HOW_TO_GET = "apt-get install --no-install-recommends prometheus prometheus-alertmanager"
UNIT_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
SHORTEST_SCRAPE_MS = 1_000  # more often, and a laptop would be busy with being looked at


def find_program(name: str) -> str | None:
    """Return the path of a program by the name of its project, whatever this system calls it; None: not installed."""
    return next(filter(None, map(shutil.which, PROGRAMS[name])), None)


def why_unwatched() -> str | None:
    """Say what is missing and how to get it; None when nothing is."""
    missing = [name for name in PROGRAMS if find_program(name) is None]
    return f"Nobody watches: {' and '.join(missing)} not installed. Get it: {HOW_TO_GET}" if missing else None


def shortened(duration: str, hurry: int, *, least_ms: int = 1) -> str:
    """Return a duration of Prometheus, such as `5m`, divided by `hurry`."""
    return f"{max(least_ms, int(duration[:-1]) * UNIT_MS[duration[-1]] // hurry)}ms"


def hurried(groups: list[dict[str, Any]], hurry: int) -> list[dict[str, Any]]:
    """Return groups of rules in which each interval, range and `for` is `hurry` times shorter, and nothing else."""

    def rule(told: dict[str, Any]) -> dict[str, Any]:
        expression = re.sub(r"\[(\d+[smhd])\]", lambda found: f"[{shortened(found[1], hurry)}]", told["expr"])
        return told | {"expr": expression} | ({"for": shortened(told["for"], hurry)} if "for" in told else {})

    return [
        group | {"interval": shortened(group["interval"], hurry), "rules": [*map(rule, group["rules"])]}
        for group in groups
    ]


class MonitoringServer(ServerProcess):
    """What both have in common.

    Args:
        name: `prometheus` or `alertmanager`.
        directory: configuration and data; kept at `stop`.
        port: None for a free one.
        log: the file its output is added to.
    """

    def __init__(self, name: str, directory: Path, port: int | None, *, log: Path) -> None:
        super().__init__(name, log, {name: port})
        self._directory = directory.absolute()

    def is_ready(self) -> bool:
        """Ask the page that is meant for this."""
        try:
            with urllib.request.urlopen(f"http://{self.addresses()[self.name]}/-/ready", timeout=0.5) as page:
                return bool(page.status == 200)
        except (OSError, urllib.error.URLError):
            return False

    def _program(self) -> str:
        return find_program(self.name) or self.name


class Alertmanager(MonitoringServer):
    """Routes alerts as in a cluster, to nobody: look at it with `amtool`."""

    def __init__(self, directory: Path, port: int | None, *, log: Path) -> None:
        super().__init__("alertmanager", directory, port, log=log)

    def prepare(self) -> None:
        """Make the directory."""
        self._directory.mkdir(parents=True, exist_ok=True)

    def command(self) -> list[str]:
        """Run it alone, without a cluster of its own."""
        return [
            self._program(),
            f"--config.file={COMPONENT / 'alertmanager.yaml'}",
            f"--storage.path={self._directory}",
            f"--web.listen-address={self.addresses()[self.name]}",
            "--cluster.listen-address=",
        ]


class Prometheus(MonitoringServer):
    """Scrapes the stack and evaluates the rules.

    Args:
        directory, port, log: see above.
        targets: returns the `host:port` of each service's page by the service's name, and that of `alertmanager`.
        hurry: how many times faster than in a cluster it looks and judges, for whoever cannot wait: see `hurried`.
    """

    def __init__(
        self, directory: Path, port: int | None, *, log: Path, targets: Callable[[], Mapping[str, str]], hurry: int = 1
    ) -> None:
        super().__init__("prometheus", directory, port, log=log)
        self._targets = targets
        self._hurry = hurry

    def prepare(self) -> None:
        """Write whom to scrape, and the rules as Prometheus itself reads them."""
        self._directory.mkdir(parents=True, exist_ok=True)
        groups = yaml.safe_load((COMPONENT / "rules.yaml").read_text())["spec"]["groups"]
        groups = groups if self._hurry == 1 else hurried(groups, self._hurry)
        (self._directory / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}))
        (self._directory / "prometheus.yaml").write_text(yaml.safe_dump(self._configuration()))

    def command(self) -> list[str]:
        """Run it with exemplars, and a day of memory."""
        return [
            self._program(),
            f"--config.file={self._directory / 'prometheus.yaml'}",
            f"--storage.tsdb.path={self._directory / 'data'}",
            "--storage.tsdb.retention.time=1d",
            f"--web.listen-address={self.addresses()[self.name]}",
            "--enable-feature=exemplar-storage",
            "--rules.alert.resend-delay=10s",  # an alert of before Alertmanager was found is told within seconds
        ]

    def _configuration(self) -> dict[str, object]:
        targets = dict(self._targets())
        alertmanager = targets.pop("alertmanager")
        (endpoint,) = yaml.safe_load((COMPONENT / "pod-monitor.yaml").read_text())["spec"]["podMetricsEndpoints"]
        interval, timeout = endpoint["interval"], endpoint["scrapeTimeout"]
        if self._hurry > 1:
            interval = timeout = shortened(interval, self._hurry, least_ms=SHORTEST_SCRAPE_MS)
        return {
            "global": {"scrape_interval": interval, "scrape_timeout": timeout},
            "rule_files": [str(self._directory / "rules.yaml")],
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]},
            "scrape_configs": [
                {"job_name": name, "static_configs": [{"targets": [address]}]} for name, address in targets.items()
            ],
        }
