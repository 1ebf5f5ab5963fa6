"""A relay that does one thing wrong where a script says, and writes down every octet: a program of its own.

`python -m tests.servers.scripted_relay CONTROL_PORT [CERTIFICATE]` serves one line of JSON a connection on its control
port: `{"open": {…}}` opens a relay on a port of its own and answers its number, `{"record": PORT}` answers what
happened there, `{"count": PORT}` how many different mails it got whole and how many bodies have no reply yet,
`{"speak": PORT}` makes it say its piece on a connection that rests. Relays share nothing, so many scripts run at once.
It speaks octets, not a library's SMTP, because what it must say is what no library would.

A script has one fault: at the `at`-th time that `stage` is reached over all connections, wait `delay_s`, say `say`
(Latin-1, may be no reply at all), and `then` go on as if all were well, `close`, or `hang` until the client leaves.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import socket
import ssl
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

HOST = "127.0.0.1"
MOST = 4 * 1024 * 1024  # octets of a mail
FIRST_OF_BODY = 100  # octets that are read before a fault in the middle of a body
MESSAGE_ID = re.compile(rb"^message-id: *(\S+)", re.IGNORECASE | re.MULTILINE)
USUAL = {
    "banner": "220 scripted.test ESMTP",
    "helo": "250 scripted.test",
    "starttls": "220 2.0.0 go ahead",
    "auth": "235 2.7.0 welcome",
    "mail": "250 2.1.0 ok",
    "rcpt": "250 2.1.5 ok",
    "data": "354 end with a line of one dot",
    "reply": "250 2.0.0 ok: queued as 4bXyZ1",
    "quit": "221 2.0.0 bye",
    "rset": "250 2.0.0 ok",
}


@dataclass(frozen=True, slots=True)
class Script:
    """What a relay is told; the defaults are a relay that does nothing wrong."""

    stage: str = ""
    at: int = 1
    delay_s: float = 0
    say: str = ""
    then: str = "go on"
    door: str = "open"
    """`shut` = nobody listens; `full` = the queue of callers is full, so a call is not answered."""
    offers: tuple[str, ...] = ()
    """Lines of the answer to EHLO, such as STARTTLS."""
    pause_s: float = 0
    """Between the whole body and its reply, always."""
    slow_every: int = 0
    """Of so many bodies one waits `slow_s` instead."""
    slow_s: float = 0


@dataclass(slots=True)
class Conversation:
    """One connection, as the relay saw it."""

    heard: list[str] = field(default_factory=list)
    """Commands, in order."""
    heard_before_fault: int | None = None
    bodies: list[int] = field(default_factory=list)
    """Octets of each body that was begun."""
    ended_by: str = ""


@dataclass(slots=True)
class Record:
    """What happened at one relay."""

    faults: int = 0
    said: str = ""
    """Of the fault, octets as Latin-1."""
    conversations: list[Conversation] = field(default_factory=list)
    mails: dict[str, dict[str, int]] = field(default_factory=dict)
    """Whole mails: by Message-ID, by the SHA-256 of their octets, how many."""


class _Ended(Exception):
    """The conversation is over, and by whom."""


@dataclass(frozen=True, slots=True)
class _Talk:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    seen: Conversation


class Relay:
    """One port."""

    def __init__(self, script: Script, tls: ssl.SSLContext | None) -> None:
        self._script = script
        self._tls = tls
        self._reached: Counter[str] = Counter()
        self._newest: _Talk | None = None
        self._taken = 0
        self.unanswered = 0
        self._kept: list[socket.socket] = []
        self.record = Record()

    async def open(self) -> int:
        """Be at a free port, with the door as the script says."""
        if self._script.door == "open":
            server = await asyncio.start_server(self._converse, HOST, 0, limit=MOST)
            return int(server.sockets[0].getsockname()[1])
        door = socket.socket()
        door.bind((HOST, 0))
        self._kept.append(door)
        if self._script.door == "full":
            door.listen(0)
            for _ in range(3):  # one waits in the queue, the others' calls fall on deaf ears
                caller = socket.socket()
                caller.setblocking(False)
                with suppress(BlockingIOError):
                    caller.connect(door.getsockname())
                self._kept.append(caller)
        return int(door.getsockname()[1])

    async def speak(self) -> None:
        """Say the piece on the newest connection, and see that it left."""
        if self._newest is None:
            raise LookupError("nobody has called")
        with suppress(_Ended):
            await self._misbehave(self._newest)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._newest = talk = _Talk(reader, writer, Conversation())
        self.record.conversations.append(talk.seen)
        try:
            await self._play("banner", talk)
            while True:
                await self._command(talk)
        except _Ended as end:
            talk.seen.ended_by = talk.seen.ended_by or str(end)
        except (OSError, asyncio.IncompleteReadError):
            talk.seen.ended_by = talk.seen.ended_by or "client"
        finally:
            writer.close()

    async def _command(self, talk: _Talk) -> None:
        line = (await talk.reader.readuntil(b"\n")).decode("latin-1").strip()
        talk.seen.heard.append(line)
        verb = line.partition(" ")[0].lower()
        if verb == "data":
            await self._take_mail(talk)
        else:
            await self._play(verb, talk)
        if verb == "quit":
            raise _Ended("client")
        if verb == "starttls" and self._tls is not None:
            await talk.writer.start_tls(self._tls)

    async def _take_mail(self, talk: _Talk) -> None:
        said = await self._play("data", talk)
        if not said.startswith("354"):
            return
        body = await talk.reader.read(FIRST_OF_BODY)
        if not body:
            raise _Ended("client")
        talk.seen.bodies.append(len(body))
        self.unanswered += 1
        try:
            await self._take_body(talk, body)
        finally:
            self.unanswered -= 1

    async def _take_body(self, talk: _Talk, body: bytes) -> None:
        if self._acts("body"):
            await self._misbehave(talk)
            await talk.reader.readuntil(b"\r\n.\r\n")
            return
        body += await talk.reader.readuntil(b"\r\n.\r\n")
        talk.seen.bodies[-1] = len(body)
        self._keep(body)
        self._taken += 1
        is_slow = self._script.slow_every and self._taken % self._script.slow_every == 0
        await asyncio.sleep(self._script.slow_s if is_slow else self._script.pause_s)
        await self._play("reply", talk)

    def _keep(self, body: bytes) -> None:
        found = MESSAGE_ID.search(body)
        copies = self.record.mails.setdefault(found[1].decode("latin-1") if found else "", {})
        digest = hashlib.sha256(body).hexdigest()
        copies[digest] = copies.get(digest, 0) + 1

    async def _play(self, stage: str, talk: _Talk) -> str:
        """Answer as usual, or as the script has it; return what was said."""
        if self._acts(stage):
            await self._misbehave(talk)
            return self._script.say
        usual = self._greeting() if stage == "ehlo" else USUAL.get(stage, "502 5.5.1 what?") + "\r\n"
        talk.writer.write(usual.encode("latin-1"))
        await talk.writer.drain()
        return usual

    def _greeting(self) -> str:
        lines = ["scripted.test", *self._script.offers]
        return "".join(f"250{' ' if line is lines[-1] else '-'}{line}\r\n" for line in lines)

    def _acts(self, stage: str) -> bool:
        self._reached[stage] += 1
        return self._script.stage == stage and self._reached[stage] == self._script.at

    async def _misbehave(self, talk: _Talk) -> None:
        script = self._script
        talk.seen.heard_before_fault = len(talk.seen.heard)
        await asyncio.sleep(script.delay_s)
        with suppress(OSError):  # the client did not wait
            talk.writer.write(script.say.encode("latin-1"))
            await talk.writer.drain()
        self.record.faults += 1
        self.record.said = script.say
        if script.then == "close":
            talk.seen.ended_by = "relay"
            talk.writer.close()
            raise _Ended("relay")
        if script.then == "hang":
            while await talk.reader.read(MOST):  # what still comes in is not answered
                pass
            raise _Ended("client")


class Control:
    """Opens relays and tells of them."""

    def __init__(self, certificate: str | None) -> None:
        self._relays: dict[int, Relay] = {}
        self._tls: ssl.SSLContext | None = None
        if certificate is not None:
            self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self._tls.load_cert_chain(certificate)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one line."""
        line = await reader.readline()
        if line:  # an empty one is somebody who looks whether we are there
            writer.write(json.dumps(await self._answer(json.loads(line))).encode() + b"\n")
            await writer.drain()
        writer.close()

    async def _answer(self, asked: dict[str, Any]) -> Any:
        if "open" in asked:
            relay = Relay(Script(**asked["open"]), self._tls)
            port = await relay.open()
            self._relays[port] = relay
            return port
        [(what, port)] = asked.items()
        relay = self._relays[port]
        if what == "count":
            return [len(relay.record.mails), relay.unanswered]
        if what == "speak":
            await relay.speak()
        return asdict(relay.record)


async def _main() -> None:
    control = Control(sys.argv[2] if len(sys.argv) > 2 else None)
    server = await asyncio.start_server(control.serve, HOST, int(sys.argv[1]))
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main())
