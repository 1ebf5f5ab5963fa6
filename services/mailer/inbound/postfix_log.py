r"""The log of a Postfix relay → settle: what became of the letters that it took.

Read are the lines of its delivery agents and of its queue manager (each in one line of syslog, whatever stands before):

    … postfix/smtp[71]: 4bXyZ1: to=<…>, relay=…, delay=0.31, delays=0.05/0/0.1/0.16, dsn=2.0.0, status=sent (250 …)
    … postfix/qmgr[70]: 4bXyZ1: from=<…>, status=expired, returned to sender
    … postfix/qmgr[70]: 4bXyZ1: removed

The queue id is what the relay told us with its 250. The mailer notes it a moment later, so a line of an id that nobody
knows is looked at again for `HELD`; then it is of somebody else's mail. `delay` runs from the arrival of the mail, so a
receipt is dated *our* 250 + delay: neither the relay's clock nor its time zone matters, and a repeat has the same date.
`removed` lets go of the id, because Postfix may give a short one to another mail.

The bookmark stands before the first line that is still held, and moves after what the lines say is announced. What is
stored if the process dies: a bookmark that may be too early, never one too late; lines that come again are repeats.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import monotonic

import structlog

from services.chassis.clock import Clock
from services.chassis.retry import patiently
from services.mailer.actions.settle import SettleReceipt
from services.mailer.inbound.file_tail import FileTail, Line, Place
from services.mailer.metrics import ReceiptMetrics
from services.mailer.ports import LedgerAway, ReceiptBook, Relayed, TryAgain
from services.mailer.rules.receipt import Backoff, News, Receipt, Source, Told

LOOK_EVERY_S = 0.1  # a stat and a read: whoever watches shall know within a second
HELD_S = 5.0  # a mailer that lives notes the id within 50 ms of the 250
MOST_HELD = 2_000  # lines; a megabyte or so
# Syslog's own words first, then the program, its process id, the queue id, and what is said. Text of other hosts comes
# last in a line and in parentheses, so none of it can stand where these fields do.
LINE = re.compile(r"[^\[\]]{0,200}? [\w.-]{1,40}/(?:[\w-]+/)?(\w[\w-]*)\[\d+\]: ([0-9A-Za-z]{6,20}): (.*)")
DELIVERY = re.compile(
    r"to=<[^>]*>, (?:orig_to=<[^>]*>, )?relay=[^,]*(?:, conn_use=\d+)?, delay=(\d{1,9}(?:\.\d+)?), delays=[\d./]+, "
    r"dsn=([245]\.\d{1,3}\.\d{1,3}), status=(\w+)\b"
)
EXPIRED = re.compile(r"from=<[^>]*>, status=(?:force-)?expired\b")
REPLACED = "\ufffd"  # what stands for octets that are no UTF-8
STATUS_EXPIRED = "4.4.7"  # RFC 3463: delivery time expired
TOLD = {"sent": Told.DELIVERED, "deferred": Told.DEFERRED, "bounced": Told.BOUNCED}


@dataclass(frozen=True, slots=True)
class Entry:
    """What a line says of a mail."""

    relay_id: str
    told: Told | None
    """None: the relay has done with it, and lets go of its id."""
    age: timedelta | None = None
    """Of the mail then; none: not told."""
    status: str = ""


def read_line(text: str) -> Entry | None:
    """Return what a line says; `None` when it is about something else, or no line of Postfix's."""
    line = LINE.match(text)
    if line is None:
        return None
    part, relay_id, said = line.groups()
    if part == "qmgr":
        if said == "removed":
            return Entry(relay_id, None)
        return Entry(relay_id, Told.BOUNCED, status=STATUS_EXPIRED) if EXPIRED.match(said) else None
    delivery = DELIVERY.match(said)
    told = TOLD.get(delivery[3]) if delivery else None
    if delivery is None or told is None:
        return None
    return Entry(relay_id, told, timedelta(seconds=float(delivery[1])), delivery[2])


def is_garbage(text: str) -> bool:
    """Return whether a line holds octets that are no text: a log that is torn, or another file."""
    return REPLACED in text or not text.replace("\t", " ").rstrip().isprintable()


@dataclass(slots=True)
class _Held:
    entry: Entry
    place: Place
    since: float
    is_done: bool = False


class PostfixLog:
    """Follows one relay's log, for ever."""

    def __init__(
        self,
        tail: FileTail,
        settle: SettleReceipt,
        book: ReceiptBook,
        metrics: ReceiptMetrics,
        *,
        route: str,
        backoff: Backoff,
        clock: Clock,
        held_s: float = HELD_S,
    ) -> None:
        """Follow.

        Args:
            tail: the log, at its bookmark.
            settle: takes what is said of our letters.
            book: knows the letters by the relay's ids; keeps the bookmark under the name of the route.
            metrics: of the process.
            route: whose relay writes it, as the mailer's `HandedOver` names it.
            backoff: how the relay is set up to try again.
            clock: dates what has no delay.
            held_s: how long a line of an unknown id is looked at again.
        """
        self._tail = tail
        self._settle = settle
        self._book = book
        self._metrics = metrics
        self._route = route
        self._backoff = backoff
        self._clock = clock
        self._held_s = held_s
        self._held: deque[_Held] = deque()
        self._read_to: Place | None = None
        self._kept: Place | None = None

    async def follow(self) -> None:
        """Read, settle, keep the bookmark; a Redis or a Kafka that is away is waited for."""
        self._metrics.has_a_line(self._route, self._clock())
        while True:
            is_busy = await self.step()
            if not is_busy:
                await asyncio.sleep(LOOK_EVERY_S)

    async def step(self) -> bool:
        """Do what is to be done now; say whether there were new lines."""
        lines = await self._new_lines()
        await patiently(self._settle_held, what="settling receipts", on=(LedgerAway, TryAgain), within=None)
        self._metrics.log_behind.set(self._tail.behind())
        if lines is not None:
            self._metrics.was_read(self._route, self._clock())
        if lines:
            self._metrics.has_a_line(self._route, self._clock())
        return bool(lines)

    async def _new_lines(self) -> list[Line] | None:
        """Return what was added; `None` when the log cannot be read."""
        try:
            lines = await asyncio.to_thread(self._tail.read)
        except OSError as error:
            structlog.get_logger().warning("log_unreadable", why=error.strerror)
            return None
        for line in lines:
            entry = read_line(line.text)
            if entry is not None:
                self._held.append(_Held(entry, line.place, monotonic()))
            elif is_garbage(line.text):
                self._metrics.ignore(Source.RELAY_LOG, "garbage")
            self._read_to = line.place
        return lines

    async def _settle_held(self) -> None:
        """Settle what is known by now and give up what is held too long; may be repeated from any point."""
        waiting = [held for held in self._held if not held.is_done]
        known = await self._book.relayed(self._route, {held.entry.relay_id for held in waiting})
        too_many = len(waiting) - MOST_HELD
        for place, held in enumerate(waiting):
            relayed = known.get(held.entry.relay_id)
            if relayed is not None:
                await self._settle_one(held.entry, relayed)
                held.is_done = True
            elif monotonic() - held.since >= self._held_s or place < too_many:
                if held.entry.told is not None:
                    self._metrics.ignore(Source.RELAY_LOG, "unknown_letter")
                held.is_done = True
        await self._keep_bookmark()

    async def _settle_one(self, entry: Entry, relayed: Relayed) -> None:
        if entry.told is None:
            await self._book.let_go(self._route, entry.relay_id)
            return
        receipt = self._receipt(entry, entry.told, relayed.accepted_at)
        news = await self._settle(relayed.letter, receipt)
        if news is News.NEWS:
            self._metrics.receipts.labels(Source.RELAY_LOG, receipt.told).inc()
        else:
            self._metrics.ignore(Source.RELAY_LOG, news)

    def _receipt(self, entry: Entry, told: Told, accepted_at: datetime) -> Receipt:
        at = self._clock() if entry.age is None else accepted_at + max(entry.age, timedelta(milliseconds=1))
        age = entry.age or timedelta(0)
        next_try_at = self._backoff.next_try_at(at, age) if told is Told.DEFERRED else None
        return Receipt(told, Source.RELAY_LOG, at, entry.status, next_try_at)

    async def _keep_bookmark(self) -> None:
        last: Place | None = None
        while self._held and self._held[0].is_done:
            last = self._held.popleft().place
        place = last if self._held else self._read_to
        if place is not None and place != self._kept:
            await self._book.keep_bookmark(self._route, place.packed())
            self._kept = place
