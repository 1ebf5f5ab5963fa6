"""A second otp beside the one of a stack: the same stores, keys and callers, other ports."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from deploy.dev.python_process import CHECKOUT
from deploy.dev.server_process import ServerProcess
from deploy.dev.stack import Stack
from tests.e2e.metrics_page import page_of

MOVED = {"OTP_GRPC_ADDRESS": "grpc", "OTP_HTTP_ADDRESS": "http", "OTP_PROBE_ADDRESS": "probe"}


class OtpReplica(ServerProcess):
    """A context manager: it runs inside.

    Args:
        stack: whose otp it stands beside.
        folder: for its log.
        brokers: its Kafka, if not that of the first: one that is not there makes it deaf.
    """

    def __init__(self, stack: Stack, folder: Path, *, brokers: str = "") -> None:
        super().__init__("otp-2", folder / "otp-2.log", {"grpc": None, "http": None, "probe": None})
        self._first = stack["otp"]
        self._brokers = {"OTP_KAFKA_BROKERS": brokers} if brokers else {}
        self.addresses()

    def command(self) -> list[str]:
        """Run what the first one runs."""
        return self._first.command()

    def environment(self) -> dict[str, str]:
        """Return what the first one gets, with ports of its own."""
        moved = {name: self.addresses()[port] for name, port in MOVED.items()}
        return self._first.environment() | moved | self._brokers

    def working_directory(self) -> Path:
        """Run where the first one runs."""
        return CHECKOUT

    def is_ready(self) -> bool:
        """Ask its metrics page, and that it has joined the group; of a deaf one, that it serves."""
        try:
            is_up = "otp_build_info" in page_of(self.addresses()["http"])
            return is_up and ("serving" if self._brokers else "partitions_assigned") in self.log_text()
        except OSError:
            return False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
