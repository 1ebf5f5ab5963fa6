"""The map of a laptop: every process, its ports, and the environment it gets.

`{otp.grpc}` stands for the `host:port` of that name in `OFFSETS`, `{inbox.smtp:port}` for its number alone,
`{directory}` and `{secrets}` for folders of the stack. Everything here is data; `stack` gives it life.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from deploy.dev.problem import LaptopProblem

PORT_BASE = 17400  # below the kernel's range for outgoing connections, and nobody's well-known port
OFFSETS = {
    "otp.grpc": 0,
    "otp.http": 1,
    "otp.probe": 2,
    "mailer.http": 11,
    "mailer.probe": 12,
    "dossier.grpc": 20,
    "dossier.http": 21,
    "dossier.probe": 22,
    "lagwatch.http": 31,
    "lagwatch.probe": 32,
    "inbox.smtp": 40,
    "inbox.http": 41,
    "redis": 50,
    "kafka": 60,
    "kafka.controller": 61,
    "prometheus": 70,
    "alertmanager": 71,
}

CREATE_TOPICS = ("deploy.create_topics", "--brokers", "{kafka}")


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """One Python process of the stack.

    Attributes:
        name: names its log, its ports and it.
        module: what `python -m` runs.
        ports: the ends of its names in `OFFSETS`; one is `http`.
        ready_path: answers 200 on its http port once it serves.
        arguments, environment: may hold `{names}`, see above. Secrets go into files, never into arguments.
        is_service: started after the servers and the topics.
    """

    name: str
    module: str
    ports: tuple[str, ...]
    ready_path: str = "/readyz"
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    is_service: bool = True

    def port_names(self) -> list[str]:
        """Return the full names of its ports."""
        return [f"{self.name}.{port}" for port in self.ports]


def service(name: str, *ports: str, **environment: str) -> ProcessSpec:
    """Describe one of our services; settings are named without its prefix, those of every service are added."""
    everywhere = {
        "PROFILE": "laptop",
        "KAFKA_BROKERS": "{kafka}",
        "HTTP_ADDRESS": f"{{{name}.http}}",
        "PROBE_ADDRESS": f"{{{name}.probe}}",
    }
    prefixed = {f"{name.upper()}_{setting}": value for setting, value in (everywhere | environment).items()}
    return ProcessSpec(name, f"services.{name}", (*ports, "http", "probe"), environment=prefixed)


PROCESSES = (
    ProcessSpec(
        "inbox",
        "deploy.dev.inbox",
        ports=("smtp", "http"),
        ready_path="/api/health",
        arguments=(
            "--smtp-port",
            "{inbox.smtp:port}",
            "--http-port",
            "{inbox.http:port}",
            "--directory",
            "{directory}/inbox",
        ),
        is_service=False,
    ),
    service(
        "otp",
        "grpc",
        GRPC_ADDRESS="{otp.grpc}",
        REDIS_URL="redis://{redis}/0",
        CODE_KEYS_FILE="{secrets}/code-keys.json",
        HANDLE_KEYS_FILE="{secrets}/handle-keys.json",
        INDEX_KEYS_FILE="{secrets}/index-keys.json",
        SEAL_CODE_KEYS_FILE="{secrets}/seal-code-keys.json",
        CALLERS_FILE="{secrets}/callers.json",
    ),
    service(
        "mailer",
        REDIS_URL="redis://{redis}/0",
        CODE_KEYS_FILE="{secrets}/code-keys.json",
        SEAL_CODE_KEYS_FILE="{secrets}/seal-code-keys.json",
        SEAL_NOTICE_KEYS_FILE="{secrets}/seal-notice-keys.json",
        RECEIPT_KEYS_FILE="{secrets}/receipt-keys.json",
        RELAY_ADDRESS="{inbox.smtp}",
        RELAY_STARTTLS="false",
    ),
    service(
        "dossier",
        "grpc",
        GRPC_ADDRESS="{dossier.grpc}",
        DATABASE_URL="sqlite+aiosqlite:///{directory}/dossier.db",
        SEAL_NOTICE_KEYS_FILE="{secrets}/seal-notice-keys.json",
        CALLERS_FILE="{secrets}/callers.json",
    ),
    service("lagwatch"),
)


RECEIPTS = replace(
    service(
        "receipts",
        "smtp",
        REDIS_URL="redis://{redis}/0",
        SMTP_ADDRESS="{receipts.smtp}",
        RECEIPT_KEYS_FILE="{secrets}/receipt-keys.json",
    ),
    module="services.mailer.receipts",
)
"""The mailer's second process; only where a relay tells what became of letters, which the laptop's inbox does not."""


def fixed_ports(base: int) -> dict[str, int]:
    """Return every name with its number on a laptop whose ports begin at `base`."""
    return {name: base + offset for name, offset in OFFSETS.items()}


def port_base() -> int:
    """Return where this checkout's ports begin: `KIP_PORT_BASE`, else `PORT_BASE`.

    Raises:
        LaptopProblem: the variable is not a number, or leaves no room for the ports.
    """
    text = os.environ.get("KIP_PORT_BASE", str(PORT_BASE))
    highest = 65535 - max(OFFSETS.values())
    if not text.isdecimal() or not 1024 <= int(text) <= highest:
        raise LaptopProblem(
            f"KIP_PORT_BASE is {text!r}; it must be a number from 1024 to {highest}, for example 18400."
        )
    return int(text)


def filled(template: str, values: Mapping[str, str]) -> str:
    """Put values in the place of a template's `{names}`.

    Raises:
        KeyError: a name has no value.
    """
    return re.sub(r"\{([a-z.:]+)\}", lambda match: values[match[1]], template)
