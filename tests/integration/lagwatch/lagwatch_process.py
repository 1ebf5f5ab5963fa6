"""lagwatch as a process of its own, seen only through its ports."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from deploy.dev.ports import FreePort
from tests.process_pages import Samples, fetch

ROOT = Path(__file__).parents[3]


class LagwatchProcess:
    """One process; `log` is where it writes."""

    def __init__(
        self,
        brokers: str,
        queues: str,
        log: Path,
        *,
        lanes: str = "none",
        poll_interval: str = "PT0.2S",
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """Start it; `settings` are more of its environment."""
        self._http, self._probe = FreePort(), FreePort()
        self.log = log
        own = {
            "LAGWATCH_PROFILE": "laptop",
            "LAGWATCH_KAFKA_BROKERS": brokers,
            "LAGWATCH_QUEUES": queues,
            "LAGWATCH_LANES": lanes,
            "LAGWATCH_POLL_INTERVAL": poll_interval,
            "LAGWATCH_HTTP_ADDRESS": f"127.0.0.1:{self._http.number}",
            "LAGWATCH_PROBE_ADDRESS": self.probe_address,
            "PYTHONPATH": f"{ROOT / 'protos'}:{ROOT}",
            **(settings or {}),
        }
        others = {name: value for name, value in os.environ.items() if not name.startswith("LAGWATCH_")}
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "services.lagwatch"], env=others | own, stdout=output, stderr=output, cwd=ROOT
            )

    @property
    def probe_address(self) -> str:
        """Where gRPC health is served."""
        return f"127.0.0.1:{self._probe.number}"

    def page(self, path: str) -> tuple[int, str]:
        """Return status and text of a page; status 0 when it does not answer in time.

        Raises:
            AssertionError: the process has ended; shows its log.
        """
        assert self._process.poll() is None, self.log.read_text()
        return fetch(f"127.0.0.1:{self._http.number}", path)

    def is_up(self) -> bool:
        """Whether the page answers."""
        return self.page("/healthz")[0] == 200

    def is_ready(self) -> bool:
        """Whether everything was measured once."""
        return self.page("/readyz")[0] == 200

    def shown(self) -> Samples:
        """Return everything on the page at one moment."""
        status, text = self.page("/metrics")
        assert status == 200, text
        return Samples(text)

    def value(self, name: str, **labels: str) -> float | None:
        """Return the one sample of that name and those labels, or none."""
        return self.shown().value(name, **labels)

    def failures(self, reason: str) -> float:
        """Return how many measurements failed for this reason."""
        count = self.value("lagwatch_poll_failures_total", reason=reason)
        assert count is not None
        return count

    def terminate(self) -> None:
        """Ask it to stop."""
        self._process.terminate()

    def exit_code(self, *, within_s: float) -> int:
        """Return its exit code, which must come in time."""
        return self._process.wait(within_s)

    def kill(self) -> None:
        """End it, if it has not ended."""
        self._process.kill()
        self._process.wait()


@contextmanager
def lagwatch_running(
    brokers: str, queues: str, log: Path, *, lanes: str = "none", settings: Mapping[str, str] | None = None
) -> Iterator[LagwatchProcess]:
    """Yield a process, and leave none."""
    process = LagwatchProcess(brokers, queues, log, lanes=lanes, settings=settings)
    try:
        yield process
    finally:
        process.kill()
