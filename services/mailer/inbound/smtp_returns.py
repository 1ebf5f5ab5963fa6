"""Mails to the return path → settle: a small SMTP server for the notifications (DSN) of relays.

It takes mails from `<>` to one address and nothing else: whoever answers a letter is told so by a refusal. A report
that says something of a letter of ours, with a valid MAC, is settled before its 250, so what cannot be settled now is
kept and sent again by the relay that has it (451); nothing is stored here. What is of no use gets its 250 too and is
counted with its reason: a refusal would make a relay write to nobody about it.

Bounded are the size of a mail, connections, mails in a second, and how long a connection may rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any

import structlog
from aiosmtpd.smtp import SMTP, Envelope, Session

from services.chassis.clock import Clock
from services.chassis.keyring import UnknownKey
from services.chassis.settings import split_host_port
from services.mailer.actions.settle import SettleReceipt
from services.mailer.inbound.mime_reports import NoUse, Reported, read_report
from services.mailer.metrics import ReceiptMetrics
from services.mailer.outbound.keyring_envelopes import KeyringEnvelopes, NotOurs
from services.mailer.ports import LedgerAway, TryAgain
from services.mailer.rules.receipt import News, Receipt, Source

OK = "250 2.0.0 Ok"
LATER = "451 4.3.0 not now, please keep it"
TOO_FAST = "451 4.7.0 too many mails in a second"
TOO_MANY = "421 4.7.0 too many connections"
NOT_A_MAILBOX = "550 5.7.1 only delivery status notifications are read here"
NOBODY = "550 5.1.1 no such mailbox"


@dataclass(frozen=True, slots=True)
class Limits:
    """What whoever writes here can use up."""

    octets: int = 64 * 1024
    """Of a mail; a report holds headers only (RET=HDRS), or all of a letter of ours. Read within 50 ms at the worst."""
    connections: int = 50
    mails_per_s: float = 200.0
    """Over all connections; as many more may come at once."""
    idle_s: float = 60.0


class TakeReport:
    """Takes in one mail."""

    def __init__(
        self, envelopes: KeyringEnvelopes, settle: SettleReceipt, metrics: ReceiptMetrics, clock: Clock
    ) -> None:
        """Know our letters by their envelope ids."""
        self._envelopes = envelopes
        self._settle = settle
        self._metrics = metrics
        self._clock = clock

    async def __call__(self, octets: bytes) -> None:
        """Settle what the mail says, or count why it says nothing.

        Raises:
            LedgerAway, TryAgain, UnknownKey: not now.
        """
        try:
            reported = read_report(octets, self._clock())
        except NoUse as why:
            self._metrics.ignore(Source.DSN, why.reason)
            return
        for each in reported:
            await self._take(each)

    async def _take(self, reported: Reported) -> None:
        try:
            letter = self._envelopes.letter(reported.envelope_id)
        except NotOurs:
            self._metrics.ignore(Source.DSN, "forged" if reported.envelope_id else "no_envelope_id")
            return
        receipt = Receipt(reported.told, Source.DSN, reported.at, reported.status)
        news = await self._settle(letter, receipt)
        if news is News.NEWS:
            self._metrics.receipts.labels(Source.DSN, receipt.told).inc()
        else:
            self._metrics.ignore(Source.DSN, news)


class _Door:
    """What all connections share, and aiosmtpd's hooks."""

    def __init__(self, take: TakeReport, mailbox: str, limits: Limits, metrics: ReceiptMetrics) -> None:
        self.limits = limits
        self.metrics = metrics
        self.connections: set[_Conversation] = set()
        self._take = take
        self._mailbox = mailbox.lower()
        self._room = limits.mails_per_s
        self._looked_at = monotonic()

    def has_room(self) -> bool:
        """Take the room of one mail, if there is any (a token bucket)."""
        now = monotonic()
        refilled = self._room + (now - self._looked_at) * self.limits.mails_per_s
        self._room, self._looked_at = min(refilled, self.limits.mails_per_s), now
        if self._room < 1:
            return False
        self._room -= 1
        return True

    async def handle_MAIL(  # noqa: N802  aiosmtpd's name
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address not in {"", "<>"}:
            self.metrics.ignore(Source.DSN, "no_report")
            return NOT_A_MAILBOX
        if not self.has_room():
            self.metrics.ignore(Source.DSN, "too_fast")
            return TOO_FAST
        envelope.mail_from = "<>"  # "" would be taken for no sender at all
        envelope.mail_options.extend(options)
        return OK

    async def handle_RCPT(  # noqa: N802  aiosmtpd's name
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if address.lower() != self._mailbox:
            return NOBODY
        envelope.rcpt_tos.append(address)
        return OK

    async def handle_DATA(  # noqa: N802  aiosmtpd's name
        self, _server: SMTP, _session: Session, envelope: Envelope
    ) -> str:
        octets = envelope.content
        try:
            await self._take(octets if isinstance(octets, bytes) else b"")
        except (LedgerAway, TryAgain, UnknownKey) as error:
            structlog.get_logger().warning("report_put_off", why=type(error).__name__)
            self.metrics.ignore(Source.DSN, "put_off")
            return LATER
        return OK


class _Conversation(SMTP):
    """One connection."""

    def __init__(self, door: _Door) -> None:
        super().__init__(
            door,
            data_size_limit=door.limits.octets,
            hostname="returns.kip",
            ident="Kip returns",
            timeout=door.limits.idle_s,
            loop=asyncio.get_running_loop(),
        )
        self._door = door

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if len(self._door.connections) >= self._door.limits.connections:
            self._door.metrics.ignore(Source.DSN, "too_many_connections")
            if isinstance(transport, asyncio.WriteTransport):
                transport.write(f"{TOO_MANY}\r\n".encode())
                transport.close()
            return
        self._door.connections.add(self)
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        if self in self._door.connections:
            self._door.connections.discard(self)
            super().connection_lost(error)

    async def push(self, status: Any) -> None:
        if str(status).startswith("552"):
            self._door.metrics.ignore(Source.DSN, "too_large")
        await super().push(status)

    def end(self) -> None:
        """Let go of whoever is connected."""
        if self.transport is not None:
            self.transport.close()


@asynccontextmanager
async def returns_listening(
    address: str, mailbox: str, take: TakeReport, metrics: ReceiptMetrics, limits: Limits | None = None
) -> AsyncIterator[int]:
    """Listen at HOST:PORT for mails to a mailbox while the context is open; yield the port, which may be given as 0.

    Raises:
        OSError: the address cannot be used.
    """
    door = _Door(take, mailbox, limits or Limits(), metrics)
    host, port = split_host_port(address)
    server = await asyncio.get_running_loop().create_server(lambda: _Conversation(door), host, port)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for conversation in list(door.connections):
            conversation.end()
