"""Our side: one otp process as `make up` starts it, on a real Kafka and a real Redis; nobody else runs.

Without a mailer nothing is handed over and no queue drains. So that this is no reason to refuse anybody, however long
the run, people wait for a day here, and limits let one generator act for everybody; everything else is the packaged
policy.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import yaml

from bench.clients import PURPOSE
from bench.cpu import own_cores, pin
from bench.load import Plan, Seen
from deploy.dev.process_table import PROCESSES
from deploy.dev.python_process import CHECKOUT, python_environment
from deploy.dev.stack import Stack
from deploy.dev.terminal import Terminal
from services.otp.settings import PACKAGED_POLICY

GENERATE_WITHIN_S = 300


class OtpUnderLoad:
    """A context manager that leaves nothing running.

    Args:
        directory: of data, logs and secrets; new for each run.
        terminal: hears of the start.
    """

    def __init__(self, directory: Path, terminal: Terminal) -> None:
        policy = directory / "policy.yaml"
        directory.mkdir(parents=True)
        policy.write_text(_patient_policy())
        otp = [spec for spec in PROCESSES if spec.name == "otp"]
        settings = {"otp": {"OTP_POLICY_FILE": str(policy)}}
        self._stack = Stack(directory, settings=settings, processes=otp, terminal=terminal)
        self._stack.addresses()  # chooses every port now: two processes that start side by side would choose alike

    def __enter__(self) -> Self:
        self._stack.start()
        for name in ("kafka", "redis"):
            pin(self._stack[name].pid, own_cores(service=False))
        pin(self.pid, own_cores(service=True))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.stop()

    @property
    def pid(self) -> int:
        """Of the otp process."""
        return self._stack["otp"].pid

    @property
    def redis_url(self) -> str:
        """Of its store."""
        return f"redis://{self._stack.address('redis')}/0"

    def plan(self, in_flight: int, seconds: float, first_person: int, *, guess: bool = False) -> Plan:
        """Return what a generator is to do; with `guess`, wrong codes are typed at challenges of two live codes."""
        return Plan(
            side="otp",
            address=self._stack.address("otp.grpc"),
            token=self._stack.caller_token,
            in_flight=in_flight,
            seconds=seconds,
            first_person=first_person,
            watched={name: self._stack[process].pid for name, process in WATCHED.items()},
            cores=own_cores(service=False),
            code_keys=str(self._stack.directory / "secrets" / "code-keys.json"),
            guess_in=self.redis_url if guess else "",
        )


WATCHED = {"service": "otp", "store": "redis", "kafka": "kafka"}


def generate(plan: Plan) -> Seen:
    """Run the load generator.

    Raises:
        subprocess.CalledProcessError: it met an answer that the plan does not allow for; it said so on standard error.
    """
    done = subprocess.run(
        [sys.executable, "-m", "bench.load"],
        input=msgspec.json.encode(plan),
        stdout=subprocess.PIPE,
        env=python_environment({}),
        cwd=CHECKOUT,
        timeout=GENERATE_WITHIN_S,
        check=True,
    )
    return msgspec.json.decode(done.stdout, type=Seen)


def _patient_policy() -> str:
    policy = yaml.safe_load(PACKAGED_POLICY.read_text())
    why = "no mailer runs here, so nothing is ever handed over"
    roomy = {"at_once": 1_000_000, "one_each": "1 s"}  # one generator guesses and asks as a whole country does
    policy["limits"] |= {"client": roomy, "domain": roomy, "system": roomy}
    policy["limits"]["guesses"] |= {"client": roomy, "caller": roomy, "failure_ratio": 1.0}
    policy["purposes"][PURPOSE] |= {"patience": "23 h", "challenge_life": "24 h", "beyond_standard": why}
    return yaml.safe_dump(policy, allow_unicode=True)
