"""The mailer as a process of its own, over one folder, seen only through its ports, its topics and its mails."""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from deploy.dev.server_process import ServerProcess
from tests.process_pages import fetch, value_on

ROOT = Path(__file__).parents[3]
RINGS = {"code": "c1", "seal-code": "s1", "seal-notice": "n1"}
NOBODY = "127.0.0.1:1"  # a port that nothing listens on


def secret_of(ring: str, kid: str | None = None) -> bytes:
    """Return the 32 octets of a ring's first key, or of one that was rolled out later."""
    rolled = "" if kid in {None, RINGS[ring]} else f"-{kid}"
    return f"made-up-secret-of-{ring}{rolled}".ljust(32, "-").encode()


class MailerProcess(ServerProcess):
    """One process; started again it is the same service after a crash.

    Args:
        folder: keys and log.
        brokers: Kafka.
        redis: HOST:PORT of the ledger.
        relay: HOST:PORT.
        settings: more of the environment.
        name: tells the log of a second process apart.
    """

    def __init__(
        self,
        folder: Path,
        *,
        brokers: str,
        redis: str,
        relay: str,
        settings: Mapping[str, str] | None = None,
        name: str = "mailer",
    ) -> None:
        super().__init__(name, folder / f"{name}.log", {"http": None, "probe": None}, stop_within_s=40)
        self._folder = folder
        self.kids = {ring: [kid] for ring, kid in RINGS.items()}
        """Of the keys in each ring; a start writes the rings."""
        self._environment = {
            "MAILER_KAFKA_BROKERS": brokers,
            "MAILER_REDIS_URL": f"redis://{redis}/0",
            "MAILER_RELAY_ADDRESS": relay,
            **(settings or {}),
        }

    def prepare(self) -> None:
        """Write the rings."""
        for ring, kids in self.kids.items():
            keys = [_key(ring, kid) for kid in kids]
            (self._folder / f"{ring}.json").write_text(json.dumps({"keys": keys}))

    def command(self) -> list[str]:
        """Run the module."""
        return [sys.executable, "-m", "services.mailer"]

    def working_directory(self) -> Path:
        """Run where nothing of the checkout is found by accident."""
        return self._folder

    def environment(self) -> dict[str, str]:
        """Return only what the service needs."""
        addresses = self.addresses()
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{ROOT / 'protos'}:{ROOT}",
            "TMPDIR": str(self._folder),
            "MAILER_PROFILE": "laptop",
            "MAILER_HTTP_ADDRESS": addresses["http"],
            "MAILER_PROBE_ADDRESS": addresses["probe"],
            "MAILER_RELAY_STARTTLS": "false",
            "MAILER_CODE_KEYS_FILE": str(self._folder / "code.json"),
            "MAILER_SEAL_CODE_KEYS_FILE": str(self._folder / "seal-code.json"),
            "MAILER_SEAL_NOTICE_KEYS_FILE": str(self._folder / "seal-notice.json"),
            **self._environment,
        }

    def is_ready(self) -> bool:
        """Ask its own word."""
        return self.page("/readyz")[0] == 200

    def page(self, path: str) -> tuple[int, str]:
        """Return status and text of a page; status 0 when it does not answer."""
        return fetch(self.addresses()["http"], path)

    def value(self, name: str, **labels: str) -> float:
        """Return the one sample of that name and those labels."""
        return value_on(self.addresses()["http"], name, **labels)


def _key(ring: str, kid: str) -> dict[str, str | None]:
    secret = base64.b64encode(secret_of(ring, kid)).decode()
    return {"kid": kid, "secret": secret, "not_before": "2026-01-01T00:00:00Z", "until": None}
