"""One relay over aiosmtplib: a pool of connections, each transaction by its stages.

aiosmtplib's own `sendmail` hides at which stage a transaction broke, and that decides everything: before the body a
letter can be sent again at once; after it, nobody knows. So the stages are called one by one. A connection goes back to
the pool only after a clean reply; after anything else (a cut, a time-out, a cancel) it is closed, because a late reply
would be taken for the answer to the next command.
"""

from __future__ import annotations

import asyncio
import random
import re
import ssl
from collections import deque
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from time import monotonic

import aiosmtplib
import structlog

from services.chassis.clock import Clock
from services.chassis.settings import split_host_port
from services.mailer.metrics import MailerMetrics
from services.mailer.ports import Checkpoints, NoLongerWanted, TryAgain
from services.mailer.rules.letter import Lane, Message
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
    starttls: bool
    ca_file: Path | None = None
    user: str | None = None
    password: str | None = None


@dataclass(slots=True)
class _Connection:
    client: aiosmtplib.SMTP
    mails: int = 0
    idle_since: float = 0.0


class SmtpGateway:
    """Implements `MailGateway` for one lane."""

    def __init__(
        self, relay: Relay, *, lane: Lane, slots: int, reply_timeout: timedelta, clock: Clock, metrics: MailerMetrics
    ) -> None:
        """Hold at most `slots` transactions at once; wait `reply_timeout` for the reply after the body."""
        self._relay = relay
        self._lane = lane
        self._slots = asyncio.Semaphore(slots)
        self._reply_timeout_s = reply_timeout.total_seconds()
        self._clock = clock
        self._metrics = metrics
        self._idle: list[_Connection] = []
        self._durations: deque[float] = deque([0.05], maxlen=REMEMBERED)
        metrics.slots.labels(lane).set(slots)
        metrics.slots_in_use.labels(lane).set(0)

    async def send(self, message: Message, checkpoints: Checkpoints) -> HandedOver | Refused | NoReply:
        """Implements `MailGateway`."""
        async with self._slot():
            checkpoints.still_wanted()
            connection = await self._connected()
            started = monotonic()
            result: HandedOver | Refused | NoReply | None = None
            try:
                result = await self._transact(connection.client, message, checkpoints)
            finally:
                clean = isinstance(result, HandedOver)
                self._release(connection, clean=clean)
                if clean:
                    self._durations.append(monotonic() - started)
                    self._metrics.transaction.labels(self._lane).observe(monotonic() - started)
            return result

    async def imitate(self, checkpoints: Checkpoints) -> HandedOver:
        """Implements `MailGateway`."""
        async with self._slot():
            checkpoints.still_wanted()
            began = self._clock()
            await asyncio.sleep(random.choice(self._durations))  # noqa: S311 - looks like a mail, keeps no secret
            return HandedOver(at=self._clock(), body_started_at=began, route=self._relay.name, relay_id="")

    async def close(self) -> None:
        """Say good-bye on every idle connection."""
        while self._idle:
            connection = self._idle.pop()
            connection.client.close()

    async def _transact(
        self, client: aiosmtplib.SMTP, message: Message, checkpoints: Checkpoints
    ) -> HandedOver | Refused | NoReply:
        refused = await self._before_body(client.mail(message.sender)) or await self._before_body(
            client.rcpt(message.recipient)
        )
        if refused is not None:
            return refused
        try:
            checkpoints.still_wanted()
        except NoLongerWanted:
            self._count("not_wanted")
            raise
        body_started_at = self._clock()
        await checkpoints.handing_over(body_started_at)
        try:
            reply = await client.data(message.octets, timeout=self._reply_timeout_s)
        except aiosmtplib.SMTPDataError as said:
            return self._said_no(said)
        except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
            structlog.get_logger().warning("smtp_no_reply", letter=message.letter_id, error=type(error).__name__)
            self._count("no_reply")
            return NoReply(body_started_at)
        self._count("accepted")
        queue_id = QUEUE_ID.search(reply.message)
        return HandedOver(
            at=self._clock(),
            body_started_at=body_started_at,
            route=self._relay.name,
            relay_id=queue_id.group(1) if queue_id else "",
        )

    async def _before_body(self, command: Awaitable[object]) -> Refused | None:
        """Await MAIL or RCPT; nothing has left when it fails."""
        try:
            await command
        except aiosmtplib.SMTPResponseException as said:
            return self._said_no(said)
        except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
            self._count("cut")
            raise TryAgain(f"the relay broke off before the body: {type(error).__name__}") from error
        return None

    def _said_no(self, said: aiosmtplib.SMTPResponseException) -> Refused:
        status = ENHANCED.search(said.message)
        if said.code >= 500:
            self._count("refused")
            return Refused(at=self._clock(), reply_code=said.code, status=status.group(1) if status else "")
        self._count("deferred")
        raise TryAgain(f"the relay said {said.code} {status.group(1) if status else ''}".strip()) from said

    async def _connected(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.client.is_connected and monotonic() - connection.idle_since < IDLE_S:
                return connection
            connection.client.close()
        return _Connection(await self._connect())

    async def _connect(self) -> aiosmtplib.SMTP:
        relay = self._relay
        host, port = split_host_port(relay.address)
        client = aiosmtplib.SMTP(
            hostname=host,
            port=port,
            timeout=COMMAND_TIMEOUT_S,
            start_tls=relay.starttls,
            tls_context=ssl.create_default_context(cafile=relay.ca_file) if relay.starttls else None,
            username=relay.user,
            password=relay.password,
        )
        try:
            await client.connect()
        except (aiosmtplib.SMTPException, OSError, TimeoutError, ValueError) as error:
            client.close()
            self._count("connect_error")
            raise TryAgain(f"the relay cannot be reached: {type(error).__name__}") from error
        return client

    def _release(self, connection: _Connection, *, clean: bool) -> None:
        connection.mails += 1
        if clean and connection.client.is_connected and connection.mails < MAILS_PER_CONNECTION:
            connection.idle_since = monotonic()
            self._idle.append(connection)
        else:
            connection.client.close()

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
