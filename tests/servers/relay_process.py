"""The scripted relay as a process, and how a test talks to it."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

from deploy.dev.server_process import ServerProcess
from tests.servers.scripted_relay import Conversation, Record

ROOT = Path(__file__).parents[2]
ANSWER_S = 60


class RelayProcess(ServerProcess):
    """One process with any number of relays.

    Args:
        folder: its log.
        certificate: PEM of a key and its certificate, for scripts that offer STARTTLS.
    """

    def __init__(self, folder: Path, *, certificate: Path | None = None) -> None:
        super().__init__("relay", folder / "relay.log", {"control": None})
        self._certificate = certificate

    def command(self) -> list[str]:
        """Run the module."""
        certificate = [] if self._certificate is None else [str(self._certificate)]
        return [sys.executable, "-m", "tests.servers.scripted_relay", str(self.port("control")), *certificate]

    def working_directory(self) -> Path:
        """Run in the checkout."""
        return ROOT

    def environment(self) -> dict[str, str]:
        """Return what Python needs."""
        return {"PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT / 'protos'}:{ROOT}"}

    def is_ready(self) -> bool:
        """Call the control port."""
        try:
            socket.create_connection(("127.0.0.1", self.port("control")), timeout=0.5).close()
        except OSError:
            return False
        return True

    def open(self, **script: Any) -> int:
        """Open a relay that follows the `Script`; return its port."""
        return int(self._ask({"open": script}))

    def speak(self, port: int) -> None:
        """Make a relay say its piece on its newest connection; it has left when this returns."""
        self._ask({"speak": port})

    def count(self, port: int) -> tuple[int, int]:
        """Return how many mails a relay got whole, repeats not counted, and how many bodies have no reply yet."""
        mails, unanswered = self._ask({"count": port})
        return mails, unanswered

    def record(self, port: int) -> Record:
        """Return what happened at a relay so far."""
        told = self._ask({"record": port})
        conversations = [Conversation(**conversation) for conversation in told.pop("conversations")]
        return Record(**told, conversations=conversations)

    def _ask(self, question: dict[str, Any]) -> Any:
        with socket.create_connection(("127.0.0.1", self.port("control")), timeout=ANSWER_S) as connection:
            connection.sendall(json.dumps(question).encode() + b"\n")
            return json.loads(b"".join(iter(lambda: connection.recv(65536), b"")))
