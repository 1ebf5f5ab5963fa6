"""Files that say who is who, followed while the server runs: callers, our certificate, whose certificates we accept.

A file is looked at every few seconds, and taken when its content has changed: certificates live for weeks and callers
change on any day, and neither is a reason to cut calls. What is wrong with a new file is told in the log and counted,
and the old one goes on. Content is compared, not times: mounted secrets are switched by links.

Certificates are asked for at each handshake, so a new one is shown to whoever connects next. A caller who is taken out
of the file is refused from the next call on, and its open streams are ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Protocol

import grpc
import structlog

from services.chassis.grpc_callers import Callers, callers_of, read_callers

LOOK_PAUSE = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of a server."""

    certificate: Path
    """With its chain."""
    key: Path
    client_ca: Path | None = None
    """Who signs the certificates of callers; none: callers show tokens."""

    def octets(self) -> tuple[bytes, ...]:
        """Return the content of all. Raises `OSError`."""
        files = (self.certificate, self.key, self.client_ca)
        return tuple(file.read_bytes() for file in files if file is not None)


def tls_files(certificate: Path | None, key: Path | None, client_ca: Path | None = None) -> TlsFiles | None:
    """Return what the settings name, or none when they name nothing (a laptop).

    Raises:
        ValueError: one is named without what it needs, or cannot be read.
    """
    if certificate is None and key is None:
        if client_ca is not None:
            raise ValueError(f"{client_ca} is named alone; callers can show certificates only where we show one")
        return None
    if certificate is None or key is None:
        raise ValueError(
            f"{certificate or key} is named alone; a certificate and its key go together: name both or none"
        )
    files = TlsFiles(certificate, key, client_ca)
    try:
        files.octets()
    except OSError as error:
        raise ValueError(f"{error.filename} cannot be read: {error.strerror}") from error
    return files


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Return credentials that look at the files again at each handshake."""
    shown = files.octets()

    def configured(octets: tuple[bytes, ...]) -> grpc.ServerCertificateConfiguration:
        certificate, key, *client_ca = octets
        return grpc.ssl_server_certificate_configuration([(key, certificate)], client_ca[0] if client_ca else None)

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        """Return what has changed; runs in a thread of gRPC, which logs what is raised and goes on with what it has."""
        nonlocal shown
        try:
            fresh = files.octets()
        except OSError:
            return None
        if fresh == shown:
            return None
        shown = fresh
        return configured(fresh)

    return grpc.dynamic_ssl_server_credentials(
        configured(shown),
        fetch,  # type: ignore[arg-type] # may return nothing, which means no change (grpc.dynamic_ssl_server_credentials)
        require_client_authentication=files.client_ca is not None,
    )


class KnownCallers(Protocol):
    """Who may call, followed while a server runs."""

    @property
    def callers(self) -> Callers:
        """Who may call now."""

    @property
    def on_change(self) -> list[Callable[[Callers], None]]:
        """Called with the callers after each change."""

    async def follow(self, looked: Callable[[bool], None]) -> None:
        """Look for changes until cancelled; tell `looked` of each whether it was taken."""


class CallersFile:
    """Implements `KnownCallers`: the callers file.

    Args:
        path: of the file.

    Raises:
        ValueError: what is wrong with it now.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.callers = read_callers(path)
        self._octets = path.read_bytes()
        self.on_change: list[Callable[[Callers], None]] = []
        """Called with the callers after each change."""

    def look(self) -> bool | None:
        """Take the file if it has changed; return whether it was taken, `None` when it is as it was."""
        try:
            octets = self._path.read_bytes()
        except OSError:
            return None  # between two links
        if octets == self._octets:
            return None
        self._octets = octets
        try:
            self.callers = callers_of(self._path, octets)
        except ValueError as error:
            structlog.get_logger().error("callers_refused", why=str(error))
            return False
        structlog.get_logger().info("callers_taken", callers=[caller.name for caller in self.callers.entries])
        for call in self.on_change:
            call(self.callers)
        return True

    async def follow(self, looked: Callable[[bool], None], pause: timedelta = LOOK_PAUSE) -> None:
        """Implements `KnownCallers`."""
        while True:
            await asyncio.sleep(pause.total_seconds())
            taken = self.look()
            if taken is not None:
                looked(taken)
