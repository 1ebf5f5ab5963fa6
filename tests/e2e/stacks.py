"""The whole stack as this suite runs it: what a laptop runs, with another caller and two purposes more.

Codes of ten digits are for the search of dumps: six digits are found by chance among the microseconds of a log. A pause
of a second between two letters is for those who click while a test lasts.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from deploy.dev.inbox.client import InboxClient
from deploy.dev.key_files import OPERATOR, OPERATORS_SCOPES, caller_entry, write_secrets
from deploy.dev.process_table import CREATE_TOPICS, filled
from deploy.dev.python_process import CHECKOUT, python_environment
from deploy.dev.stack import Stack
from tests.e2e.portal import Portal

LONG_CODES = "confirm-email-long"
SHORT_PAUSES = "confirm-email-hasty"
LOOK_EVERY = "PT0.5S"  # tests wait for what lagwatch sees


@dataclass(frozen=True, slots=True)
class Running:
    """A stack and the ways into it."""

    stack: Stack
    tokens: tuple[str, str]
    """Of two callers who know nothing of each other."""
    operator_token: str
    """Of a caller who has every scope."""

    @property
    def inbox(self) -> InboxClient:
        """Return the mailbox."""
        return InboxClient(f"http://{self.stack.address('inbox.http')}")

    def portal(self, token: str | None = None) -> Portal:
        """Return a caller: the first one, or whoever holds another token."""
        to_otp, to_dossier = self.stack.address("otp.grpc"), self.stack.address("dossier.grpc")
        return Portal(to_otp, to_dossier, self.tokens[0] if token is None else token)


def new_stack(directory: Path, more: Mapping[str, Mapping[str, str]] | None = None) -> Running:
    """Describe a stack of its own on free ports, with more settings by process; nothing is started."""
    made = write_secrets(directory / "secrets")
    tokens = (made.portal, secrets.token_urlsafe(32))
    callers, policy = directory / "callers.json", directory / "policy.yaml"
    names = zip(("demo-portal", "other-portal"), tokens, strict=True)
    entries = [caller_entry(name, token) for name, token in names]
    entries.append(caller_entry(OPERATOR, made.operator, OPERATORS_SCOPES))
    callers.write_text(json.dumps({"callers": entries}))
    policy.write_text(yaml.safe_dump(_policy_of_tests(), allow_unicode=True))
    settings = {
        "otp": {"OTP_CALLERS_FILE": str(callers), "OTP_POLICY_FILE": str(policy)},
        "dossier": {"DOSSIER_CALLERS_FILE": str(callers)},
        "lagwatch": {"LAGWATCH_POLL_INTERVAL": LOOK_EVERY},
    }
    for name, told in (more or {}).items():
        settings[name] = settings.get(name, {}) | dict(told)
    stack = Stack(directory, settings=settings)
    stack.addresses()  # chooses every port now: two processes that start side by side would choose for each other
    return Running(stack, tokens, made.operator)


def create_topics(stack: Stack) -> None:
    """Create the topics as the stack does, on a broker that was started by hand."""
    command = [sys.executable, "-m", *(filled(argument, stack.addresses()) for argument in CREATE_TOPICS)]
    subprocess.run(command, env=python_environment({}), cwd=CHECKOUT, capture_output=True, check=True, timeout=60)


def _policy_of_tests() -> object:
    """Return the packaged policy with two purposes more, and without a share of failures that would halve attempts.

    Else hundreds of wrong codes of one test would take attempts from the next ones for ten minutes.
    """
    policy = yaml.safe_load((CHECKOUT / "services" / "otp" / "policy.yaml").read_text())
    purposes, limits = policy["purposes"], policy["limits"]
    usual = purposes["confirm-email"]
    more = {LONG_CODES: usual | {"digits": 10}, SHORT_PAUSES: usual | {"cooldowns": ["1 s"]}}
    return policy | {
        "purposes": purposes | more,
        "limits": limits | {"guesses": limits["guesses"] | {"failure_ratio": 1.0}},
    }
