"""What a run was made on and with: numbers without it mean nothing."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import distributions
from pathlib import Path

from bench.cpu import own_cores
from bench.environment import VENV
from deploy.dev import kafka_jars
from tests.servers import postgresql_server

OURS = (
    "grpcio",
    "protobuf",
    "redis",
    "hiredis",
    "uvloop",
    "kafka-python",
    "msgspec",
    "cryptography",
    "email-validator",
)
THEIRS = ("django", "django-otp", "gunicorn", "psycopg", "psycopg-binary")
KAFKA_LOCK = Path(kafka_jars.__file__).with_name("kafka.lock")


def machine() -> dict[str, object]:
    """Return the processor, how many cores there are, and who ran on which."""
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "processor": model.group(1) if model else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "cores_of_the_service": own_cores(service=True),
        "cores_of_stores_and_load": own_cores(service=False),
        "load_average_1_min": os.getloadavg()[0],
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def versions(redis: str) -> dict[str, str | None]:
    """Return the version of everything that does the work; None for what is not installed."""
    kafka = re.search(r"Apache Kafka (\S+?)'s", KAFKA_LOCK.read_text())
    programs = postgresql_server.PROGRAMS.glob("*/bin/postgres")
    return {
        "redis server": redis,
        "kafka": kafka.group(1) if kafka else None,
        "postgresql": max((file.parts[-3] for file in programs), key=int, default=None),
        **_installed(OURS, None),
        **_installed(THEIRS, next((VENV / "lib").glob("python*/site-packages"))),
    }


def _installed(names: tuple[str, ...], where: Path | None) -> dict[str, str | None]:
    found = distributions() if where is None else distributions(path=[str(where)])
    by_name = {distribution.metadata["Name"].lower(): distribution.version for distribution in found}
    return {name: by_name.get(name) for name in names}
