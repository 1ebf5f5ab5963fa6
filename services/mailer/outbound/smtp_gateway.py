"""One relay: a pool of connections, each transaction by its stages.

At which stage a transaction broke decides everything: before the body a letter can be sent again at once; after it,
only a 4xx or 5xx says that it was not taken, and anything else says nothing. So the stages are called one by one. A
connection goes back to the pool only after a clean reply; after anything else (a cut, a time-out, a cancel, a reply
too many) it is closed, because a late reply would be taken for the answer to the next command. A connection that
rested may be closed at the other end by now: if that shows at `MAIL`, the letter goes out at once on a new one.
"""

from __future__ import annotations

import asyncio
import random
import re
import ssl
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import NoReturn

import aiosmtplib
import structlog

from services.chassis.clock import Clock
from services.mailer.metrics import MailerMetrics
from services.mailer.outbound.keyring_envelopes import KeyringEnvelopes
from services.mailer.outbound.smtp_connection import ClosedMeanwhile, SmtpConnection
from services.mailer.ports import Checkpoints, NoLongerWanted, TryAgain
from services.mailer.rules.letter import Lane, LetterName, Message
from services.mailer.rules.outcome import HandedOver, NoReply, Refused

COMMAND_TIMEOUT_S = 20.0  # a relay that needs longer for MAIL or RCPT is not there
IDLE_S = 8.0  # Postfix under stress closes after 10 s: let go first
MAILS_PER_CONNECTION = 100
REMEMBERED = 100  # durations to draw from for a letter that is not sent
ENHANCED = re.compile(r"\b([245]\.\d{1,3}\.\d{1,3})\b")  # RFC 3463
QUEUE_ID = re.compile(r"queued as ([A-Za-z0-9]{6,20})")  # Postfix; other relays say it otherwise or not at all


@dataclass(frozen=True, slots=True)
class Relay:
    """Where and how a relay is reached."""

    name: str
    """Of the route, in events."""
    address: str
    tls: ssl.SSLContext | None
    """STARTTLS is demanded, and the certificate checked with this; `None` = in clear, on a laptop."""
    user: str | None = None
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Notifications:
    """What a relay that offers DSN is asked to tell (RFC 3461)."""

    envelopes: KeyringEnvelopes
    notify: str
    """Such as `DELAY,FAILURE`."""


class SmtpGateway:
    """Implements `MailGateway` for one lane."""

    def __init__(
        self,
        relay: Relay,
        *,
        lane: Lane,
        slots: int,
        reply_timeout: timedelta,
        clock: Clock,
        metrics: MailerMetrics,
        notifications: Notifications | None = None,
        command_timeout_s: float = COMMAND_TIMEOUT_S,
        idle_s: float = IDLE_S,
    ) -> None:
        """Hold at most `slots` transactions at once.

        Args:
            relay: where to.
            lane: whose letters; labels the metrics.
            slots: transactions at once.
            reply_timeout: for the reply after the body; then the letter's fate is unknown.
            clock: the time of outcomes.
            metrics: of the process.
            notifications: asked for; none = none.
            command_timeout_s: for the reply to anything before the body.
            idle_s: a connection that rested longer is not used again.
        """
        self._relay = relay
        self._lane = lane
        self._slots = asyncio.Semaphore(slots)
        self._reply_timeout_s = reply_timeout.total_seconds()
        self._command_timeout_s = command_timeout_s
        self._idle_s = idle_s
        self._clock = clock
        self._metrics = metrics
        self._notifications = notifications
        self._idle: list[SmtpConnection] = []
        self._durations: deque[float] = deque([0.05], maxlen=REMEMBERED)
        metrics.slots.labels(lane).set(slots)
        metrics.slots_in_use.labels(lane).set(0)

    async def send(self, message: Message, checkpoints: Checkpoints) -> HandedOver | Refused | NoReply:
        """Implements `MailGateway`."""
        async with self._slot():
            await checkpoints.still_wanted()
            kept = self._kept()
            if kept is not None:
                with suppress(ClosedMeanwhile):
                    return await self._send_on(kept, message, checkpoints)
            return await self._send_on(await self._connect(), message, checkpoints)

    async def imitate(self, checkpoints: Checkpoints) -> HandedOver:
        """Implements `MailGateway`."""
        async with self._slot():
            await checkpoints.still_wanted()
            began = self._clock()
            await asyncio.sleep(random.choice(self._durations))  # noqa: S311 - looks like a mail, keeps no secret
            return HandedOver(at=self._clock(), body_started_at=began, route=self._relay.name, relay_id="")

    async def close(self) -> None:
        """Say good-bye on every idle connection."""
        while self._idle:
            self._idle.pop().say_good_bye()

    async def _send_on(
        self, connection: SmtpConnection, message: Message, checkpoints: Checkpoints
    ) -> HandedOver | Refused | NoReply:
        started = monotonic()
        result: HandedOver | Refused | NoReply | None = None
        try:
            result = await self._transact(connection, message, checkpoints)
        finally:
            clean = isinstance(result, HandedOver)
            self._release(connection, clean=clean)
            if clean:
                self._durations.append(monotonic() - started)
                self._metrics.transaction.labels(self._lane).observe(monotonic() - started)
        return result

    async def _transact(
        self, connection: SmtpConnection, message: Message, checkpoints: Checkpoints
    ) -> HandedOver | Refused | NoReply:
        of_mail, of_rcpt = self._options(connection, message)
        refused = await self._before_body(
            connection, connection.mail(message.sender, of_mail)
        ) or await self._before_body(connection, connection.rcpt(message.recipient, of_rcpt))
        if refused is not None:
            return refused
        try:
            await checkpoints.still_wanted()
        except NoLongerWanted:
            self._count("not_wanted")
            raise
        refused = await self._before_body(connection, connection.data())
        if refused is not None:
            return refused
        body_started_at = self._clock()
        await checkpoints.handing_over(body_started_at)
        return await self._body(connection, message, body_started_at)

    def _options(self, connection: SmtpConnection, message: Message) -> tuple[Sequence[str], Sequence[str]]:
        """Return what to add to MAIL and RCPT, so that the relay tells what becomes of the letter."""
        asked = self._notifications
        if asked is None or not connection.offers("dsn"):
            return (), ()
        owner_id, _, generation = message.letter_id.rpartition(".")
        envelope_id = asked.envelopes.envelope_id(LetterName(self._lane, owner_id, int(generation)), self._clock())
        return ((), ()) if envelope_id is None else (["RET=HDRS", f"ENVID={envelope_id}"], [f"NOTIFY={asked.notify}"])

    async def _before_body(self, connection: SmtpConnection, command: Awaitable[None]) -> Refused | None:
        """Await a command; nothing has left when it fails, or when more was said than it asked for."""
        try:
            await command
            connection.demand_in_step()
        except aiosmtplib.SMTPResponseException as said:
            return self._said_no(said.code, said.message) or self._broke_off(said)
        except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
            return self._broke_off(error)
        return None

    async def _body(
        self, connection: SmtpConnection, message: Message, body_started_at: datetime
    ) -> HandedOver | Refused | NoReply:
        if not connection.in_step:
            self._broke_off(ConnectionResetError())
        try:
            code, text = await connection.body(message.octets, timeout_s=self._reply_timeout_s)
        except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
            return self._no_reply(message, body_started_at, type(error).__name__)
        if code != aiosmtplib.SMTPStatus.completed:
            return self._said_no(code, text) or self._no_reply(message, body_started_at, f"reply {code}")
        self._count("accepted")
        queue_id = QUEUE_ID.search(text)
        return HandedOver(
            at=self._clock(),
            body_started_at=body_started_at,
            route=self._relay.name,
            relay_id=queue_id.group(1) if queue_id else "",
        )

    def _said_no(self, code: int, text: str) -> Refused | None:
        """Return the refusal of a 5xx, raise on a 4xx; any other code says nothing."""
        found = ENHANCED.search(text)
        status = found.group(1) if found else ""
        if 500 <= code < 600:
            self._count("refused")
            return Refused(at=self._clock(), reply_code=code, status=status)
        if 400 <= code < 500:
            self._count("deferred")
            raise TryAgain(f"the relay said {code} {status}".strip(), status=status)
        return None

    def _broke_off(self, error: Exception) -> NoReturn:
        self._count("cut")
        raise TryAgain(f"the relay broke off before the body: {type(error).__name__}") from error

    def _no_reply(self, message: Message, body_started_at: datetime, why: str) -> NoReply:
        structlog.get_logger().warning("smtp_no_reply", letter=message.letter_id, why=why)
        self._count("no_reply")
        return NoReply(body_started_at)

    def _kept(self) -> SmtpConnection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.in_step and monotonic() - connection.idle_since < self._idle_s:
                return connection
            connection.say_good_bye()
        return None

    async def _connect(self) -> SmtpConnection:
        relay = self._relay
        login = None if relay.user is None else (relay.user, relay.password or "")
        try:
            return await SmtpConnection.opened(
                relay.address, tls=relay.tls, login=login, timeout_s=self._command_timeout_s
            )
        except (aiosmtplib.SMTPException, OSError, TimeoutError, ValueError) as error:
            self._count("connect_error")
            raise TryAgain(f"the relay cannot be reached: {type(error).__name__}") from error

    def _release(self, connection: SmtpConnection, *, clean: bool) -> None:
        connection.mails += 1
        if not clean:
            connection.close()
        elif connection.in_step and connection.mails < MAILS_PER_CONNECTION:
            connection.idle_since = monotonic()
            self._idle.append(connection)
        else:
            connection.say_good_bye()

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        in_use = self._metrics.slots_in_use.labels(self._lane)
        async with self._slots:
            in_use.inc()
            try:
                yield
            finally:
                in_use.dec()

    def _count(self, result: str) -> None:
        self._metrics.attempts.labels(self._lane, result).inc()


def relay_tls(ca_file: Path | None) -> ssl.SSLContext:
    """Return what checks the relay's certificate: against `ca_file`, or the system's authorities.

    Raises:
        ValueError: the file cannot be used; says why.
    """
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise ValueError(f"{ca_file} holds no certificate of an authority: {error.strerror or error}") from error
