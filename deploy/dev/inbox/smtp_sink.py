"""The SMTP side: takes every mail, says 250 once it is written, and plays the rules of `behaviour.py`.

aiosmtpd reads and answers the commands. Its hooks cannot reach the greeting, the moments around the body, or an answer
that breaks off, so `_Conversation` adds those: it sends each reply itself, and reads the body itself.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, assert_never

from aiosmtpd.smtp import SMTP, Envelope, Session

from deploy.dev.inbox.behaviour import Action, Behaviour, Rule, Stage
from deploy.dev.inbox.mailbox import Mail, Mailbox
from deploy.dev.inbox.reading import clean
from deploy.dev.inbox.stats import Stats

HOST = "127.0.0.1"
MAX_MAIL_BYTES = 5 * 1024 * 1024
IDLE_S = 900  # above the longest delay a rule may ask for


@dataclass(frozen=True, slots=True)
class Sink:
    """What all conversations share."""

    mailbox: Mailbox
    behaviour: Behaviour
    stats: Stats


class SmtpServer:
    """Listens on 127.0.0.1 and holds the open conversations, so that a stop can end them."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._conversations: set[_Conversation] = set()

    async def start(self, port: int) -> int:
        """Listen on that port, or on a free one for 0, and return it. Raises: OSError."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._converse, HOST, port)
        listening: tuple[str, int] = self._server.sockets[0].getsockname()
        return listening[1]

    async def stop(self) -> None:
        """Stop listening and end every conversation; a mail without its 250 is the client's to send again."""
        self._server.close()
        for conversation in list(self._conversations):
            conversation.cut()
        await self._server.wait_closed()

    def _converse(self) -> _Conversation:
        return _Conversation(self._sink, self._conversations)


class _Conversation(SMTP):
    """One connection."""

    # aiosmtpd uses it as the size of its read buffer; the body is read without a limit for lines.
    line_length_limit = 64 * 1024

    def __init__(self, sink: Sink, conversations: set[_Conversation]) -> None:
        super().__init__(
            _Hooks(),
            data_size_limit=MAX_MAIL_BYTES,
            enable_SMTPUTF8=True,
            hostname="inbox.kip.test",
            ident="Kip demo inbox",
            timeout=IDLE_S,
            loop=asyncio.get_running_loop(),
        )
        self._sink = sink
        self._conversations = conversations
        self._greeted = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._conversations.add(self)
        self._sink.stats.connections += 1
        self._sink.stats.open_connections += 1
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._conversations.discard(self)
        self._sink.stats.open_connections -= 1
        super().connection_lost(error)

    def end(self) -> None:
        """Close the connection after what is already written."""
        if self.transport is not None:
            self.transport.close()

    def cut(self) -> None:
        """Break the connection at once."""
        if self.transport is not None:
            self._writer.transport.abort()

    async def push(self, status: Any) -> None:
        """Send one reply; the first is the greeting. A 421 and a refused greeting end the conversation."""
        is_greeting, self._greeted = not self._greeted, True
        if is_greeting:
            status = await self.play(Stage.CONNECT, ()) or status
        await super().push(status)
        if status.startswith("421") or (is_greeting and not status.startswith("2")):
            self.end()

    async def play(self, stage: Stage, recipients: Sequence[str], keep: Callable[[], Mail] | None = None) -> str | None:
        """Do what the rules say at this stage and return the reply they want; None: the usual one.

        Never returns when a rule breaks the connection: aiosmtpd cancels the conversation then.
        """
        for rule in self._sink.behaviour.take(stage, recipients):
            if rule.store and keep:
                keep()
            self._count(rule)
            match rule.action:
                case Action.DELAY:
                    await asyncio.sleep(rule.delay_s or 0)
                case Action.REPLY:
                    return rule.reply
                case Action.DOUBLE_REPLY:
                    return f"{rule.reply}\r\n{rule.reply}"
                case Action.CUT:
                    await self._break_off(b"")
                case Action.HALF_LINE:
                    await self._break_off(rule.reply.encode()[: len(rule.reply) // 2])
                case _:
                    assert_never(rule.action)
        return None

    async def smtp_DATA(self, arg: str | None) -> None:  # noqa: N802  aiosmtpd's name
        """Take one mail, from the command DATA to the last reply."""
        envelope = self.envelope
        if await self.check_helo_needed():
            return
        if not isinstance(envelope, Envelope) or not envelope.rcpt_tos or arg:
            await self.push("501 5.5.4 Syntax: DATA" if arg else "503 5.5.1 send RCPT first")
            return
        go_ahead = await self.play(Stage.DATA, envelope.rcpt_tos) or "354 end with a line of one dot"
        await self.push(go_ahead)
        if go_ahead.startswith("354"):
            body = await self._read_body(envelope.rcpt_tos)
            reply = await self._last_reply(envelope, body)
            self.envelope = self._create_envelope()
            await self.push(reply)

    async def _read_body(self, recipients: Sequence[str]) -> bytes | None:
        """Read to the lonely dot and undo dot-stuffing (RFC 5321 §4.5.2); None when it is larger than the limit."""
        body = bytearray(b"\r\n")  # as if a line had just ended: the first line may be the lonely dot
        body += await self._read_until(b"\r\n")
        await self._interrupt_body(recipients)
        is_too_large = False
        while not body.endswith(b"\r\n.\r\n"):
            body += await self._read_until(b".\r\n")
            is_too_large = is_too_large or len(body) > MAX_MAIL_BYTES
            if is_too_large:
                del body[:-5]  # what tells the end, and no more
        return None if is_too_large else bytes(body[:-3].replace(b"\r\n.", b"\r\n")[2:])

    async def _read_until(self, end: bytes) -> bytes:
        """Read up to and with `end`, or a piece of it all where that is longer than the read buffer."""
        try:
            return await self._reader.readuntil(end)
        except asyncio.LimitOverrunError as overrun:
            return await self._reader.read(overrun.consumed)

    async def _interrupt_body(self, recipients: Sequence[str]) -> None:
        reply = await self.play(Stage.BODY, recipients)
        if reply is not None:
            await self._break_off(f"{reply}\r\n".encode())

    async def _last_reply(self, envelope: Envelope, body: bytes | None) -> str:
        if body is None:
            return f"552 5.3.4 more than {MAX_MAIL_BYTES} bytes"
        keep = functools.cache(functools.partial(self._keep, envelope, body))  # once, however many rules ask
        try:
            reply = await self.play(Stage.REPLY, envelope.rcpt_tos, keep)
            if reply is None:
                reply = f"250 2.0.0 Ok: queued as {keep().id}"
            elif reply.startswith("2"):
                keep()
        except OSError as error:
            print(f"inbox: a mail could not be written: {error}", file=sys.stderr, flush=True)
            return f"452 4.3.1 the inbox cannot write: {os.strerror(error.errno or errno.EIO)}"
        self._sink.stats.accepted += reply.startswith("2")
        return reply

    def _keep(self, envelope: Envelope, body: bytes) -> Mail:
        rcpt_to = tuple(clean(address) for address in envelope.rcpt_tos)
        mail_from = "" if envelope.mail_from == "<>" else clean(envelope.mail_from or "")
        mail = self._sink.mailbox.keep(mail_from, rcpt_to, body)
        self._sink.stats.stored += 1
        return mail

    def _count(self, rule: Rule) -> None:
        if rule.action is not Action.REPLY or not rule.reply.startswith(("2", "3")):
            self._sink.stats.count_fault(rule.action, rule.stage)

    async def _break_off(self, last_words: bytes) -> None:
        """Write these bytes, end the connection and wait for the cancellation that follows from it."""
        if last_words:
            self._writer.write(last_words)
            self._writer.close()
        else:
            self.cut()
        await asyncio.get_running_loop().create_future()


class _Hooks:
    """What aiosmtpd calls once it has understood a MAIL or RCPT command."""

    async def handle_MAIL(  # noqa: N802  aiosmtpd's name
        self, server: _Conversation, _session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        reply = await server.play(Stage.MAIL, ()) or "250 2.1.0 Ok"
        if reply.startswith("2"):
            envelope.mail_from = address
            envelope.mail_options.extend(options)
        return reply

    async def handle_RCPT(  # noqa: N802  aiosmtpd's name
        self, server: _Conversation, _session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        reply = await server.play(Stage.RCPT, (address,)) or "250 2.1.5 Ok"
        if reply.startswith("2"):
            envelope.rcpt_tos.append(address)
            envelope.rcpt_options.extend(options)
        return reply
