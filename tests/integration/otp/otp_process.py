"""otp as a process of its own, over a Redis of the test's own and without Kafka: what it promises stays in its outbox.

Codes are made here from the key ring that the process reads, as the mailer would make them.
"""

from __future__ import annotations

import hashlib
import os
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import redis
from kip.otp.v1 import otp_service_pb2 as pb

from deploy.dev.key_files import write_secrets
from deploy.dev.server_process import ServerProcess
from deploy.dev.valkey_server import ValkeyServer
from services.chassis.keyring import digits, read_keyring
from services.otp.actions.verify import CODE_LABEL
from services.otp.outbound.yaml_policy import read_policy
from services.otp.rules.quota import Dimension
from services.otp.settings import PACKAGED_POLICY
from tests.conditions import wait_until
from tests.e2e.portal import Citizen, Portal, refusal_of
from tests.process_pages import fetch, value_on

ROOT = Path(__file__).parents[3]
NOBODY = "127.0.0.1:1"  # a port that nothing listens on: Kafka that is away
AT_ONCE = read_policy(PACKAGED_POLICY).limits.letters[Dimension.ADDRESS].at_once
"""Letters to one mailbox."""
BACK_WITHIN_S = 10.0
NO_HANDLE = f"c00{'0' * 26}.{'0' * 43}"


class OtpProcess(ServerProcess):
    """One process over one folder; started again it is the same service after a crash.

    Args:
        folder: keys, callers and log.
        redis: HOST:PORT of its store.
    """

    def __init__(self, folder: Path, redis: str) -> None:
        super().__init__("otp", folder / "otp.log", {"grpc": None, "http": None, "probe": None})
        self._folder = folder
        self._redis = redis
        self.tokens = write_secrets(folder / "secrets")

    def command(self) -> list[str]:
        """Run the module."""
        return [sys.executable, "-m", "services.otp"]

    def working_directory(self) -> Path:
        """Run where nothing of the checkout is found by accident."""
        return self._folder

    def environment(self) -> dict[str, str]:
        """Return only what the service needs."""
        addresses, secrets = self.addresses(), self._folder / "secrets"
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{ROOT / 'protos'}:{ROOT}",
            "TMPDIR": str(self._folder),
            "OTP_PROFILE": "laptop",
            "OTP_GRPC_ADDRESS": addresses["grpc"],
            "OTP_HTTP_ADDRESS": addresses["http"],
            "OTP_PROBE_ADDRESS": addresses["probe"],
            "OTP_KAFKA_BROKERS": NOBODY,
            "OTP_REDIS_URL": f"redis://{self._redis}/0",
            "OTP_CALLERS_FILE": str(secrets / "callers.json"),
            **{
                f"OTP_{ring.upper().replace('-', '_')}_KEYS_FILE": str(secrets / f"{ring}-keys.json")
                for ring in ("code", "handle", "index", "seal-code")
            },
        }

    def is_ready(self) -> bool:
        """Ask its own word."""
        return fetch(self.addresses()["http"], "/readyz")[0] == 200 and '"serving"' in self.log_text()

    def value(self, name: str, **labels: str) -> float:
        """Return the one sample of that name and those labels."""
        return value_on(self.addresses()["http"], name, **labels)

    def portal(self) -> Portal:
        """Return a caller who has no scope."""
        return Portal(self.addresses()["grpc"], NOBODY, self.tokens.portal)

    def code_of(self, asked: pb.RequestCodeResponse, citizen: Citizen) -> str:
        """Return the code that the first letter of a challenge would carry."""
        key = read_keyring(self._folder / "secrets" / "code-keys.json").minting(datetime.now(UTC))
        context = hashlib.sha256(citizen.context.encode()).digest()
        challenge = asked.challenge
        parts = (CODE_LABEL, challenge.purpose, challenge.challenge_id, "1", context)
        return digits(key, *parts, count=challenge.code_length)


class RedisOfOtp(ValkeyServer):
    """A Redis whose file may be cut or lost while it is down, and a look at what lies in it."""

    @property
    def files(self) -> Path:
        """Return the folder of its append-only files."""
        return self._directory / "appendonlydir"

    @property
    def log_of_writes(self) -> Path:
        """Return the file that writes are appended to."""
        (file,) = self.files.glob("*.incr.aof")
        return file

    @contextmanager
    def looked_at(self) -> Iterator[Any]:
        """Yield a client of its own, past every road."""
        with redis.Redis.from_url(self.url) as client:
            yield client

    def written(self) -> int:
        """Wait until all that was acknowledged has left for the file; return how long the file is then, in octets."""
        with self.looked_at() as client:
            wait_until(lambda: client.info("persistence")["aof_buffer_length"] == 0, what="an empty buffer")
        return self.log_of_writes.stat().st_size

    def keys(self, pattern: str) -> list[str]:
        """Return the keys of a pattern."""
        with self.looked_at() as client:
            return sorted(key.decode() for key in client.scan_iter(match=pattern, count=1_000))

    def letters(self) -> list[str]:
        """Return which letters wait in the outboxes, each as `challenge id.generation`."""
        with self.looked_at() as client:
            return [
                fields[b"l"].decode()
                for outbox in self.keys("otp:*:outbox")
                for _, fields in client.xrange(outbox)
                if b"l" in fields
            ]

    def takes(self, dimension: Dimension) -> list[str]:
        """Return the tokens that have taken from the buckets of a dimension."""
        with self.looked_at() as client:
            return [
                token.decode()
                for bucket in self.keys(f"otp:{{quota:{dimension}:*")
                for token in client.zrange(bucket, 0, -1)
                if token
            ]


def household(count: int) -> list[Citizen]:
    """Return so many accounts with one mailbox, each by a spelling of its own."""
    mark = uuid.uuid4().hex[:12]
    return [Citizen("family", mark=f"{mark}+{number}") for number in range(count)]


def ended(call: Callable[[], object]) -> grpc.StatusCode:
    """Make a call; return how it ended."""
    try:
        call()
    except grpc.RpcError as error:
        return refusal_of(error).status
    return grpc.StatusCode.OK


def wait_until_served(portal: Portal) -> None:
    """Wait until otp has found its Redis again, by a look that changes nothing."""
    wait_until(
        lambda: ended(lambda: portal.look(NO_HANDLE)) is grpc.StatusCode.OK,
        within_s=BACK_WITHIN_S,
        what="an otp that has found its Redis again",
    )
