"""A stack that Prometheus and Alertmanager watch, and in which alarms come within seconds.

Only configuration makes them fast: the rules as they are shipped, with each duration of theirs divided by `HURRY`; a
policy of short times; two retry tiers; a lagwatch that looks twice a second. What is a number in an expression or in
the code (a measurement counts for 30 s, a head is old after 5 s) stays.
"""

from __future__ import annotations

import json
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from deploy.dev.key_files import write_secrets
from deploy.dev.monitoring import why_unwatched
from deploy.dev.process_table import PROCESSES, RECEIPTS
from deploy.dev.python_process import CHECKOUT
from deploy.dev.stack import Stack
from tests.conditions import wait_until
from tests.e2e.metrics_page import page_of, total
from tests.e2e.stacks import LOOK_EVERY, Running
from tests.servers import shifted_clock
from tests.servers.require import require
from tests.servers.shifted_clock import ShiftedClock

HURRY = 12
DEADLINE_S, RESERVE_S, SLOW_S, PROMPT_S = 20, 6, 6, 4
SLOTS = 12
FIRES_WITHIN_S = 60.0  # a multiple of what each takes: a machine may be busy
ALWAYS = frozenset({"Watchdog"})


@dataclass(frozen=True, slots=True)
class Alarmed:
    """A watched stack, and what its watchers say."""

    running: Running
    clock: ShiftedClock
    """Of dossier."""

    @property
    def stack(self) -> Stack:
        """Return its processes."""
        return self.running.stack

    def told(self, **labels: str) -> set[str]:
        """Return the names of the alerts with these labels that Alertmanager has now, silenced by others or not."""
        alerts = _ask(self.stack.address("alertmanager"), "/api/v2/alerts")
        return {alert["labels"]["alertname"] for alert in alerts if labels.items() <= alert["labels"].items()}

    def paged(self) -> set[str]:
        """Return the names of those that wake somebody: routed to the pager, and nothing worse silences them."""
        found = _ask(self.stack.address("alertmanager"), "/api/v2/alerts?inhibited=false&silenced=false&receiver=page")
        return {alert["labels"]["alertname"] for alert in found}

    def value(self, expression: str) -> float | None:
        """Ask Prometheus; none when there is no such series."""
        found = self._found(expression)
        assert len(found) < 2, f"{expression} has more than one value: {found}"
        return float(found[0]["value"][1]) if found else None

    def fired(self, since: float) -> set[str]:
        """Return the names of the alerts that fired at any time since then (Unix time)."""
        lasted = max(1, int(time.time() - since))
        found = self._found(f'last_over_time(ALERTS{{alertstate="firing"}}[{lasted}s])')
        return {series["metric"]["alertname"] for series in found}

    def wait_until_told(self, *names: str, within_s: float = FIRES_WITHIN_S, **labels: str) -> None:
        """Wait until Alertmanager has all of these."""
        wait_until(lambda: set(names) <= self.told(**labels), within_s=within_s, what=f"{', '.join(names)} {labels}")

    def wait_until_over(self, *names: str, within_s: float = FIRES_WITHIN_S) -> None:
        """Wait until Alertmanager has none of these any more."""
        wait_until(lambda: not self.told() & set(names), within_s=within_s, what=f"the end of {', '.join(names)}")

    @contextmanager
    def without(self, *services: str) -> Iterator[None]:
        """Stop these, and start them again at the end; together, for each takes seconds."""
        for name in services:
            self.stack[name].stop()
        try:
            yield
        finally:
            with ThreadPoolExecutor(len(services)) as threads:
                for start in [threads.submit(self.stack[name].start) for name in services]:
                    start.result()

    def restart(self, *services: str) -> None:
        """Stop these, and start them again, as a new release does."""
        with self.without(*services):
            pass

    @contextmanager
    def relay(self, **rule: object) -> Iterator[None]:
        """Let the relay do this at each recipient; it behaves again at the end."""
        self.running.inbox.set_behaviour({"stage": "rcpt", **rule})
        try:
            yield
        finally:
            self.running.inbox.set_behaviour()

    @contextmanager
    def clock_off(self, seconds: float) -> Iterator[None]:
        """Let the clock of dossier be that far ahead; it is right again at the end."""
        self.clock.shift(seconds)
        try:
            yield
        finally:
            self.clock.shift(0)

    def _found(self, expression: str) -> list[Any]:
        query = urllib.parse.urlencode({"query": expression})
        found: list[Any] = _ask(self.stack.address("prometheus"), f"/api/v1/query?{query}")["data"]["result"]
        return found

    def counted(self, service: str, metric: str, **labels: str) -> float:
        """Return what a process itself shows."""
        return total(page_of(self.stack.address(f"{service}.http")), metric, **labels)


@contextmanager
def alarmed_stack(
    directory: Path,
    *,
    deadline_s: int = DEADLINE_S,
    admission: bool = False,
    promises: Mapping[str, str] | None = None,
    reissues: Mapping[str, object] | None = None,
    relay_log: Path | None = None,
) -> Iterator[Alarmed]:
    """Run a watched stack; skips the test, or fails it in CI, where its watchers are not installed.

    Args:
        directory: of the stack.
        deadline_s: how long a code may wait in the queue.
        admission: refuse who would wait too long; without it codes die, as most alerts want to see.
        promises: of every purpose, beside those times.
        reissues: limits of what the machine makes by itself, in place of the shipped ones.
        relay_log: run the receipts too, and let them follow this file.
    """
    require(why_unwatched())
    require(shifted_clock.why_missing())
    made = write_secrets(directory / "secrets")
    policy, clock = directory / "policy.yaml", ShiftedClock(directory / "shift")
    policy.write_text(yaml.safe_dump(short_policy(deadline_s, promises, reissues), allow_unicode=True))
    settings: Mapping[str, Mapping[str, str]] = {
        "otp": {"OTP_POLICY_FILE": str(policy), "OTP_ADMISSION": str(admission).lower()},
        "mailer": {"MAILER_SLOTS_OTP": str(SLOTS), "MAILER_RETRY_DELAYS_OTP": "PT1S,PT3S"},
        "dossier": clock.environment(),
        "lagwatch": {"LAGWATCH_POLL_INTERVAL": LOOK_EVERY},
    }
    processes = PROCESSES if relay_log is None else (*PROCESSES, RECEIPTS)
    if relay_log is not None:
        settings = {**settings, "receipts": {"RECEIPTS_LOG_FILE": str(relay_log)}}
    stack = Stack(directory, settings=settings, is_watched=True, hurry=HURRY, processes=processes)
    stack.addresses()
    with stack:
        yield Alarmed(Running(stack, (made.portal, made.operator), made.operator), clock)


def short_policy(
    deadline_s: int, promises: Mapping[str, str] | None = None, reissues: Mapping[str, object] | None = None
) -> object:
    """Return the packaged policy with seconds for minutes; in the queue a code may wait that long."""
    policy = yaml.safe_load((CHECKOUT / "services" / "otp" / "policy.yaml").read_text())
    short = {
        "patience": f"{deadline_s + RESERVE_S} s",
        "reserve": f"{RESERVE_S} s",
        "prompt": f"{PROMPT_S} s",
        "slow": f"{SLOW_S} s",
    }
    limits = policy["limits"] | ({} if reissues is None else {"reissues": reissues})
    purposes = {name: shipped | short | (promises or {}) for name, shipped in policy["purposes"].items()}
    return policy | {"purposes": purposes, "limits": limits}


def _ask(address: str, path: str) -> Any:
    with urllib.request.urlopen(f"http://{address}{path}", timeout=10) as answer:
        return json.load(answer)
