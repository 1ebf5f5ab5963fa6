"""dossier as a process of its own, seen only through its ports, its database file and its topics."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import grpc
from kip.dossier.v1 import dossier_service_pb2 as pb
from kip.dossier.v1 import dossier_service_pb2_grpc

from deploy.dev.server_process import ServerProcess
from tests.process_pages import fetch, value_on

ROOT = Path(__file__).parents[3]
TOKEN = "made-up-token-of-the-portal-0001"
SECRET = b"made-up-secret-of-32-octets-0001"
ANSWER_S = 8
NOBODY = "127.0.0.1:1"  # a port that nothing listens on: Kafka that is away


class DossierProcess(ServerProcess):
    """One process over one folder; started again it is the same service after a crash.

    Args:
        folder: database, keys, callers and log.
        brokers: Kafka, or `NOBODY`.
        settings: more of the environment.
        name: tells the log of a second process apart.
        up_at: the page that answers 200 when `start` may return.
    """

    def __init__(
        self,
        folder: Path,
        brokers: str,
        *,
        settings: Mapping[str, str] | None = None,
        name: str = "dossier",
        up_at: str = "/readyz",
    ) -> None:
        super().__init__(name, folder / f"{name}.log", {"grpc": None, "http": None, "probe": None}, start_within_s=60)
        self.brokers = brokers
        self._folder = folder
        self._settings = dict(settings or {})
        self._up_at = up_at

    def prepare(self) -> None:
        """Write the callers and the ring."""
        digest = hashlib.sha256(TOKEN.encode()).hexdigest()
        callers = {"callers": [{"name": "portal", "token_sha256": digest, "rpcs": ["*"]}]}
        key = {"kid": "k1", "secret": base64.b64encode(SECRET).decode(), "not_before": "2026-01-01T00:00:00Z"}
        (self._folder / "callers.json").write_text(json.dumps(callers))
        (self._folder / "seal-notice.json").write_text(json.dumps({"keys": [key]}))

    def command(self) -> list[str]:
        """Run the module."""
        return [sys.executable, "-m", "services.dossier"]

    def working_directory(self) -> Path:
        """Run where nothing of the checkout is found by accident."""
        return self._folder

    def environment(self) -> dict[str, str]:
        """Return only what the service needs."""
        addresses = self.addresses()
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{ROOT / 'protos'}:{ROOT}",
            "PYTHONWARNINGS": os.environ.get("PYTHONWARNINGS", ""),
            "TMPDIR": str(self._folder),
            "DOSSIER_PROFILE": "laptop",
            "DOSSIER_GRPC_ADDRESS": addresses["grpc"],
            "DOSSIER_HTTP_ADDRESS": addresses["http"],
            "DOSSIER_PROBE_ADDRESS": addresses["probe"],
            "DOSSIER_KAFKA_BROKERS": self.brokers,
            "DOSSIER_DATABASE_URL": f"sqlite:///{self._folder}/dossier.db",
            "DOSSIER_CALLERS_FILE": str(self._folder / "callers.json"),
            "DOSSIER_SEAL_NOTICE_KEYS_FILE": str(self._folder / "seal-notice.json"),
            **self._settings,
        }

    def is_ready(self) -> bool:
        """Ask its own word."""
        return self.page(self._up_at)[0] == 200

    def outbox_is_empty(self) -> bool:
        """Tell what its page says."""
        return self.value("dossier_outbox_messages") == 0

    def page(self, path: str) -> tuple[int, str]:
        """Return status and text of a page; status 0 when it does not answer."""
        return fetch(self.addresses()["http"], path)

    def value(self, name: str, **labels: str) -> float:
        """Return the one sample of that name and those labels."""
        return value_on(self.addresses()["http"], name, **labels)

    @contextmanager
    def called(self) -> Iterator[Caller]:
        """Yield a caller with a channel of its own."""
        with grpc.insecure_channel(self.addresses()["grpc"]) as channel:
            yield Caller(dossier_service_pb2_grpc.DossierServiceStub(channel))


class Caller:
    """The portal."""

    def __init__(self, stub: dossier_service_pb2_grpc.DossierServiceStub) -> None:
        self._stub = stub
        self._with = {"timeout": ANSWER_S, "metadata": (("authorization", f"Bearer {TOKEN}"),)}

    def open(self, key: str) -> pb.Dossier:
        """Open a dossier."""
        request = pb.OpenDossierRequest(
            idempotency_key=key,
            procedure="book-reissue",
            subject="citizen-7",
            name="Nguyễn Thị Lan",
            email="lan@example.vn",
        )
        return self._stub.OpenDossier(request, **self._with).dossier  # type: ignore[arg-type] # two types in one dict

    def advance(self, dossier: pb.Dossier, to: pb.DossierState.ValueType, remark: str = "") -> pb.Dossier:
        """Move a dossier from the version given."""
        request = pb.AdvanceDossierRequest(
            dossier_id=dossier.dossier_id, expected_version=dossier.version, to=to, remark=remark
        )
        return self._stub.AdvanceDossier(request, **self._with).dossier  # type: ignore[arg-type] # two types in one dict

    def get(self, dossier_id: str) -> pb.Dossier:
        """Read a dossier."""
        request = pb.GetDossierRequest(dossier_id=dossier_id)
        return self._stub.GetDossier(request, **self._with).dossier  # type: ignore[arg-type] # two types in one dict


def notice_ids(dossier: pb.Dossier) -> list[str]:
    """Return the ids of a dossier's notices by rising version."""
    return [step.notice.notice_id for step in dossier.steps if step.HasField("notice")]
