"""A throw-away PostgreSQL cluster from Debian's packages, on loopback and a socket of its own.

PostgreSQL refuses to run as root; then it runs as Debian's user `postgres`. Nothing is synced to disk: a test's data
must survive a killed server, not a power cut, and fsync costs most of the time of a small test.
"""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

from deploy.dev.server_process import ServerProcess
from deploy.dev.temporary_home import TemporaryHome

PROGRAMS = Path("/usr/lib/postgresql")
USER = "kip"  # the cluster's superuser, who may come in from loopback without a password
INIT_WITHIN_S = 60


def why_missing() -> str | None:
    """Say how to get it, when it is not there."""
    if _find_programs() is None:
        return "PostgreSQL is not installed. Debian: apt-get install --no-install-recommends postgresql"
    return None


class PostgresqlServer(ServerProcess):
    """A cluster with one empty database, `postgres`; `remove` deletes it for good."""

    def __init__(self, port: int | None = None) -> None:
        self._user = "postgres" if os.geteuid() == 0 else None
        self._home = TemporaryHome(self._user)
        super().__init__("postgresql", self._home.path / "postgresql.log", {"postgresql": port})

    @property
    def url(self) -> str:
        """The database as SQLAlchemy's URL, with the driver that the services use."""
        return f"postgresql+asyncpg://{USER}@{self.addresses()['postgresql']}/postgres"

    def user(self) -> str | None:
        """Run as `postgres` when the tests run as root."""
        return self._user

    def prepare(self) -> None:
        """Make the cluster at the first start."""
        if not (self._data / "PG_VERSION").exists():
            subprocess.run(
                [
                    self._program("initdb"),
                    "-D",
                    self._data,
                    "-U",
                    USER,
                    "-A",
                    "trust",
                    "-E",
                    "UTF8",
                    "-N",
                    "--locale=C",
                ],
                user=self._user,
                group=self._user,
                extra_groups=None if self._user is None else [],
                cwd="/",
                stdout=subprocess.DEVNULL,
                timeout=INIT_WITHIN_S,
                check=True,
            )

    def command(self) -> list[str]:
        """Run the server in the foreground."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port("postgresql"),
            "unix_socket_directories": self._home.path,
            "fsync": "off",
        }
        arguments = [text for name, value in settings.items() for text in ("-c", f"{name}={value}")]
        return [str(self._program("postgres")), "-D", str(self._data), *arguments]

    def working_directory(self) -> Path:
        """Run in its own folder: the tests' may be closed to its user."""
        return self._home.path

    def is_ready(self) -> bool:
        """Ask whether it takes TLS: it answers one letter as soon as it accepts connections."""
        try:
            with socket.create_connection(("127.0.0.1", self.port("postgresql")), timeout=0.5) as connection:
                connection.sendall((8).to_bytes(4, "big") + (80877103).to_bytes(4, "big"))  # SSLRequest of the protocol
                answered = connection.recv(1) in {b"N", b"S"}
        except OSError:
            return False
        return answered and "ready to accept connections" in self.log_text().rpartition("starting PostgreSQL")[2]

    def remove(self) -> None:
        """Stop it and delete its data."""
        self.stop()
        self._home.remove()

    @property
    def _data(self) -> Path:
        return self._home.path / "data"

    def _program(self, name: str) -> Path:
        programs = _find_programs()
        if programs is None:
            raise LookupError(why_missing())
        return programs / name


def _find_programs() -> Path | None:
    def major(folder: Path) -> int:
        return int(folder.parent.name) if folder.parent.name.isdecimal() else 0

    return max((file.parent for file in PROGRAMS.glob("*/bin/initdb")), key=major, default=None)
