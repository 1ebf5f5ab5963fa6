"""The demo inbox as a process of its own, and mails to send to it."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import aiosmtplib

from deploy.dev.inbox.client import InboxClient

ROOT = Path(__file__).parents[3]
SENDER = "bounce@otp.kip.test"
MAIL = b"From: kip@otp.kip.test\r\nTo: lan@example.vn\r\nSubject: hi\r\n\r\n.a line that begins with a dot\r\n..\r\n"


def command(directory: Path, *options: str) -> list[str]:
    """Return the command that starts an inbox on free ports, unless the options name some."""
    ports = ["--smtp-port", "0", "--http-port", "0"]
    return [sys.executable, "-m", "deploy.dev.inbox", *ports, "--directory", str(directory), *options]


@dataclass(frozen=True, slots=True)
class Wire:
    """A bare connection, for what no mail client would say or hear."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def say(self, command: bytes) -> None:
        """Send one command, or several lines."""
        self.writer.write(command + b"\r\n")
        await self.writer.drain()

    async def hear(self) -> bytes:
        """Return one whole reply, or what there is of it when the inbox closes."""
        heard = b""
        while line := await self.reader.readline():
            heard += line
            if line[3:4] == b" ":
                break
        return heard


@dataclass(frozen=True, slots=True)
class RunningInbox:
    """One process, its addresses, and the client to ask it."""

    process: subprocess.Popen[str]
    smtp_port: int
    base_url: str
    client: InboxClient

    async def connect(self) -> aiosmtplib.SMTP:
        """Return a client that is connected and has been greeted."""
        client = aiosmtplib.SMTP(hostname="127.0.0.1", port=self.smtp_port, use_tls=False, start_tls=False, timeout=10)
        await client.connect()
        return client

    @asynccontextmanager
    async def wire(self) -> AsyncIterator[Wire]:
        """Open a bare connection for at most 10 s and close it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.smtp_port)
        try:
            async with asyncio.timeout(10):
                yield Wire(reader, writer)
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def send(self, raw: bytes = MAIL, *to: str) -> str:
        """Send one mail on a connection of its own and return the text of the last reply."""
        async with asyncio.timeout(10), await self.connect() as client:
            _, reply = await client.sendmail(SENDER, to or ("lan@example.vn",), raw)
            return reply

    def stop(self) -> int:
        """Send SIGTERM, wait, and return the exit code."""
        self.process.terminate()
        return self.wait()

    def wait(self) -> int:
        """Wait for the end of the process, close its pipe, and return its exit code."""
        try:
            return self.process.wait(timeout=10)
        finally:
            self.process.kill()
            if self.process.stdout:
                self.process.stdout.close()


def start_inbox(directory: Path, *options: str) -> RunningInbox:
    """Start an inbox and return once it says where it listens."""
    process = subprocess.Popen(command(directory, *options), cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r"SMTP 127\.0\.0\.1:(\d+), page (http://127\.0\.0\.1:\d+)/", line)
    assert found, f"the inbox did not start: {line!r}"
    return RunningInbox(process, int(found[1]), found[2], InboxClient(found[2]))
