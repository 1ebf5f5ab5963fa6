"""One connection to a relay over aiosmtplib: greeted, and in step or of no more use.

In step means that the next reply will be the answer to the next command. The library gives no way to tell: it drops
octets that nobody asked for, keeps those behind a reply for the next command, and takes a line that only begins like a
reply for one. So its protocol is made strict here, and whoever uses a connection asks `in_step` after every reply.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import cast

import aiosmtplib
from aiosmtplib.protocol import SMTPProtocol
from aiosmtplib.response import SMTPResponse

from services.chassis.settings import split_host_port

REPLY = re.compile(rb"([2-5][0-9]{2})(?:-[^\n]*\n\1)*(?: [^\n]*)?\r?\n")  # RFC 5321 §4.2: one code on all its lines
CLOSING = aiosmtplib.SMTPStatus.domain_unavailable  # 421


class ClosedMeanwhile(Exception):
    """The relay closed a connection that rested; it was asked nothing yet."""


class SmtpConnection:
    """Every method raises an `aiosmtplib.SMTPException`, an `OSError` or a `TimeoutError` when the relay fails."""

    def __init__(self, client: aiosmtplib.SMTP) -> None:
        """Use `opened`."""
        self._client = client
        self.mails = 0
        """Transactions so far; whoever makes them counts."""
        self.idle_since = 0.0

    @classmethod
    async def opened(
        cls, address: str, *, tls: ssl.SSLContext | None, login: tuple[str, str] | None, timeout_s: float
    ) -> SmtpConnection:
        """Call, greet, encrypt and log in: all that is not about a letter, so that no refusal here is one of a letter.

        Args:
            address: HOST:PORT.
            tls: demands STARTTLS and checks the certificate; `None` = in clear.
            login: user and password.
            timeout_s: for each reply.

        Raises:
            aiosmtplib.SMTPException, OSError, TimeoutError, ValueError: not possible; nothing is left open.
        """
        host, port = split_host_port(address)
        client = aiosmtplib.SMTP(hostname=host, port=port, timeout=timeout_s, start_tls=False, tls_context=tls)
        connection = cls(client)
        steps: list[Callable[[], Awaitable[object]]] = [connection._call, client.ehlo]
        if tls is not None:
            steps += [client.starttls, client.ehlo]
        if login is not None:
            steps += [partial(client.login, *login)]
        try:
            for step in steps:
                await step()
                connection.demand_in_step()
        except BaseException:
            connection.close()
            raise
        return connection

    @property
    def in_step(self) -> bool:
        """Whether it is open, and nothing was heard beyond the replies that were due."""
        protocol = self._client.protocol
        return isinstance(protocol, _StrictProtocol) and protocol.is_connected and not protocol.heard_too_much

    def demand_in_step(self) -> None:
        """See that it is in step.

        Raises:
            ConnectionAbortedError: it is not.
        """
        if not self.in_step:
            raise ConnectionAbortedError("out of step")

    def offers(self, extension: str) -> bool:
        """Say whether the relay has offered an extension."""
        return self._client.supports_extension(extension)

    async def mail(self, sender: str, options: Sequence[str] = ()) -> None:
        """Begin a transaction; options are of extensions that it offers.

        Raises:
            ClosedMeanwhile: this one was kept, and the relay has let go of it.
        """
        try:
            await self._client.mail(sender, options=options)
        except (aiosmtplib.SMTPServerDisconnected, ConnectionError, aiosmtplib.SMTPResponseException) as error:
            if self.mails and getattr(error, "code", CLOSING) == CLOSING:  # no reply at all is as good as a 421
                raise ClosedMeanwhile from error
            raise

    async def rcpt(self, recipient: str, options: Sequence[str] = ()) -> None:
        """Name the recipient; options as of `mail`."""
        await self._client.rcpt(recipient, options=options)

    async def data(self) -> None:
        """Ask whether the body may come."""
        reply = await self._client.execute_command(b"DATA")
        if reply.code != aiosmtplib.SMTPStatus.start_input:
            raise aiosmtplib.SMTPDataError(reply.code, reply.message)

    async def body(self, octets: bytes, *, timeout_s: float) -> SMTPResponse:
        """Send a body, whose lines end with CRLF, and return the reply. If it raises, the body may have left."""
        protocol = self._client.protocol
        if protocol is None:
            raise ConnectionResetError
        protocol.write(_stuffed(octets) + b".\r\n")
        return await protocol.read_response(timeout=timeout_s)

    def say_good_bye(self) -> None:
        """Say it (RFC 5321 §4.1.1.10) and close, without waiting for an answer that can change nothing."""
        if self.in_step and self._client.protocol is not None:
            self._client.protocol.write(b"QUIT\r\n")
        self.close()

    def close(self) -> None:
        """Close without a word."""
        self._client.close()

    async def _call(self) -> None:
        await self._client.connect()
        if self._client.protocol is not None:
            self._client.protocol.__class__ = _StrictProtocol  # the library makes its own, and asks nobody
            strict = cast("_StrictProtocol", self._client.protocol)
            strict.heard_too_much = bool(strict._buffer)  # noqa: SLF001 - after the banner, which came before


class _StrictProtocol(SMTPProtocol):
    """Hears what the library overlooks."""

    heard_too_much = False

    def data_received(self, data: bytes) -> None:
        """Note what comes while no reply is due."""
        due = self._response_waiter
        if due is None or due.done() or not self._response_pending:
            self.heard_too_much = True
        super().data_received(data)

    def _read_response_from_buffer(self) -> SMTPResponse | None:
        """Refuse `2500 octets` and `550-no, 250 yes`; the library takes both for a 250."""
        heard = bytes(self._buffer)
        response = super()._read_response_from_buffer()
        if response is None:
            return None
        if not REPLY.match(heard):
            raise aiosmtplib.SMTPResponseException(aiosmtplib.SMTPStatus.invalid_response, "no reply")
        self.heard_too_much = self.heard_too_much or bool(self._buffer)
        return response


def _stuffed(octets: bytes) -> bytes:
    """Double each dot at the start of a line (RFC 5321 §4.5.2); lines end with CRLF already."""
    return (b"\r\n" + octets).replace(b"\r\n.", b"\r\n..").removeprefix(b"\r\n")
