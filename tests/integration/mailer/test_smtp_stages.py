"""Every stage of an SMTP conversation × every failure: what the gateway makes of it. One table.

The relay is `tests/servers/scripted_relay.py`, a process that says what no library would; its record of octets and ends
shows that each fault happened, how often a body left, and on which connection. All conversations run at once, each with
a relay of its own: first the letter that meets the fault, then a letter after it, which must go out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from services.chassis.clock import system_clock
from services.mailer.metrics import MailerMetrics
from services.mailer.outbound.smtp_gateway import Relay, SmtpGateway, relay_tls
from services.mailer.ports import TryAgain
from services.mailer.rules.letter import Lane
from services.mailer.rules.outcome import HandedOver, NoReply, Refused
from tests.conditions import eventually
from tests.integration.mailer.smtp_wire import Steps, letter
from tests.servers.certificates import certificate
from tests.servers.relay_process import RelayProcess
from tests.servers.scripted_relay import USUAL, Record

HASTY_S = 2.0  # how long a silence is listened to, where there is one
LATE_S = 3.0  # when a late reply comes: the letter after it is on its way by then
PATIENT_S = 60.0  # where every reply comes: a busy machine must not be taken for a silent relay
AT_ONCE = 24
SEEN_S = 30.0

# again       nothing of the letter left: it is tried again later
# elsewhere   the connection was an old one: it is sent at once on a new one
# not taken   the body left, and the relay said clearly that it did not take it: tried again later
# unknown     the body may have been taken: the same bytes are sent again
# refused     for good
# kept        handed over, and the connection is used again: what is odd about a banner is not about a letter
# closed      handed over, and the connection is not used again
# -           cannot happen there
MEANING = {
    "a": "again", "e": "elsewhere", "n": "not taken", "u": "unknown", "r": "refused", "k": "kept", "c": "closed"
}  # fmt: skip
TABLE = """
            cut half late 421 451 550 odd garbage binary 2500 mixed long two open
connect      a   -    a    -   -   -   -    -      -     -     -    -    -   -
banner       a   a    a    a   a   a   a    a      a     k     k    a    a   a
ehlo         a   a    a    a   a   a   a    a      a     a     a    a    a   a
starttls     a   a    a    a   a   a   a    a      a     a     a    a    a   a
ehlo+        a   a    a    a   a   a   a    a      a     a     a    a    a   a
auth         a   a    a    a   a   a   a    a      a     a     a    a    a   a
mail         a   a    a    a   a   r   a    a      a     a     a    a    a   a
rcpt         a   a    a    a   a   r   a    a      a     a     a    a    a   a
data         a   a    a    a   a   r   a    a      a     a     a    a    a   a
body         u   u    u    n   n   r   u    u      u     u     u    u    n   u
reply        u   u    u    n   n   r   u    u      u     u     u    u    c   u
quit         c   c    c    c   c   c   c    c      c     c     c    c    c   c
idle         e   e    -    e   e   e   e    e      e     e     e    e    e   e
next         e   e    a    e   a   r   a    a      a     a     a    a    a   a
"""  # ehlo+: after STARTTLS. idle: between two letters. next: at the second one's MAIL.


@dataclass(frozen=True)
class Cell:
    stage: str
    failure: str
    expected: str

    @property
    def usual(self) -> str:
        """The reply that should have come, without its end."""
        known = {"ehlo": "250 scripted.test", "body": USUAL["reply"], "next": USUAL["mail"], "idle": USUAL["reply"]}
        return known.get(self.stage.rstrip("+")) or USUAL[self.stage]

    @property
    def said(self) -> str:
        """What the relay says instead."""
        usual, code = self.usual, self.usual[:3]
        return {
            "cut": "",
            "half": usual[: len(usual) // 2],
            "late": f"{usual}\r\n",
            "421": "421 4.3.2 closing\r\n",
            "451": "451 4.7.1 later\r\n",
            "550": "554 5.7.1 never\r\n" if self.stage == "banner" else "550 5.7.1 never\r\n",
            "odd": "250 2.0.0 ok\r\n" if code == "354" else "354 go ahead\r\n",
            "garbage": "hello, who is there?\r\n",
            "binary": "".join(map(chr, [*range(0x80, 0x100), 0, 7])) + "\r\n",
            "2500": f"{code}0 octets are free\r\n",
            "mixed": f"550-5.7.1 never\r\n{usual}\r\n",
            "long": f"{code} {'x' * 9000}\r\n",
            "two": "421 4.3.2 closing\r\n" * 2 if self.stage == "body" else f"{usual}\r\n" * 2,
            "open": f"{code}-and\r\n{code}-so on\r\n",
        }[self.failure]

    @property
    def then(self) -> str:
        if self.failure in {"cut", "half", "421"}:
            return "close"
        return "hang" if self.failure == "open" and self.stage != "idle" else "go on"

    @property
    def is_silent(self) -> bool:
        return self.failure in {"late", "open"}

    @property
    def script(self) -> dict[str, object]:
        offers = {"starttls": ["STARTTLS"], "ehlo+": ["STARTTLS"], "auth": ["AUTH PLAIN"]}.get(self.stage, [])
        if self.stage == "connect":
            return {"door": "shut" if self.failure == "cut" else "full"}
        stage, at = {"next": ("mail", 2), "ehlo+": ("ehlo", 2)}.get(self.stage, (self.stage, 1))
        delay_s = LATE_S if self.failure == "late" else 0
        return {"stage": stage, "at": at, "say": self.said, "then": self.then, "delay_s": delay_s, "offers": offers}


def cells() -> Iterator[Cell]:
    columns, *rows = (line.split() for line in TABLE.strip().splitlines())
    for stage, *marks in rows:
        for failure, mark in zip(columns, marks, strict=True):
            if mark != "-":
                yield Cell(stage, failure, MEANING[mark])


@dataclass
class Story:
    """What became of a cell's letters."""

    results: list[str] = field(default_factory=list)
    """Of the letter before, where there is one, of the one that met the fault, and of the one after."""
    record: Record = field(default_factory=Record)


def gateway_to(relay: Relay, timeout_s: float) -> SmtpGateway:
    return SmtpGateway(
        relay,
        lane=Lane.OTP,
        slots=1,
        reply_timeout=timedelta(seconds=timeout_s),
        clock=system_clock,
        metrics=MailerMetrics(CollectorRegistry()),
        command_timeout_s=timeout_s,
        idle_s=PATIENT_S,
    )


class Telling:
    """Lives one cell through."""

    def __init__(self, relays: RelayProcess, ca_file: Path, cell: Cell) -> None:
        self._relays = relays
        self._cell = cell
        self._port = relays.open(**cell.script)
        self._story = Story()
        timeout_s = HASTY_S if cell.is_silent else PATIENT_S
        self._gateway = gateway_to(
            Relay(
                "relay-1",
                f"127.0.0.1:{self._port}",
                relay_tls(ca_file) if cell.stage in {"starttls", "ehlo+"} else None,
                *(("mailer", "made-up-secret") if cell.stage == "auth" else ()),
            ),
            timeout_s,
        )

    async def __call__(self) -> Story:
        """Send the letters, and see everything end."""
        if self._cell.stage in {"idle", "next"}:
            await self._send(0)
        if self._cell.stage == "idle":
            await asyncio.to_thread(self._relays.speak, self._port)
            await asyncio.sleep(0)  # the loop has heard it
        await self._send(1)
        if self._cell.stage == "quit":
            await self._gateway.close()
        await self._send(2)
        await self._gateway.close()
        if self._cell.stage != "connect":
            with suppress(AssertionError):  # a test of its own says so
                await eventually(self._is_over, within_s=SEEN_S)
        return self._story

    async def _send(self, number: int) -> None:
        steps = Steps()
        try:
            answer = await self._gateway.send(letter(number), steps)
        except TryAgain:
            self._story.results.append("not taken" if steps.began else "again")
        else:
            names = {HandedOver: "handed over", Refused: "refused", NoReply: "unknown"}
            self._story.results.append(names[type(answer)])

    def _is_over(self) -> bool:
        self._story.record = self._relays.record(self._port)
        ended = all(each.ended_by for each in self._story.record.conversations)
        return ended and bool(self._story.record.faults)


@pytest.fixture(scope="module")
def ca_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def relays(tmp_path_factory: pytest.TempPathFactory, ca_file: Path) -> Iterator[RelayProcess]:
    relays = RelayProcess(tmp_path_factory.mktemp("relay"), certificate=ca_file)
    relays.start()
    yield relays
    relays.stop()


@pytest.fixture(scope="module")
def stories(relays: RelayProcess, ca_file: Path) -> dict[Cell, Story]:
    """Every cell, lived through; the silent ones first, because they wait and need no processor."""

    async def tell_all() -> dict[Cell, Story]:
        room = asyncio.Semaphore(AT_ONCE)

        async def tell(cell: Cell) -> Story:
            telling = await asyncio.to_thread(Telling, relays, ca_file, cell)
            if cell.is_silent:
                return await telling()
            async with room:
                return await telling()

        told = {cell: asyncio.create_task(tell(cell)) for cell in sorted(cells(), key=lambda cell: not cell.is_silent)}
        await asyncio.gather(*told.values())
        return {cell: task.result() for cell, task in told.items()}

    return asyncio.run(tell_all())


each_cell = pytest.mark.parametrize("cell", list(cells()), ids=lambda cell: f"{cell.stage}-{cell.failure}")


@each_cell
def test_the_outcome_says_no_more_than_is_known(stories: dict[Cell, Story], cell: Cell) -> None:
    handed_over = {"elsewhere", "kept", "closed"}
    expected = "handed over" if cell.expected in handed_over else cell.expected

    *before, result, after = stories[cell].results

    assert set(before) <= {"handed over"}
    assert result == expected
    assert after == ("again" if cell.stage == "connect" else "handed over")


@each_cell
def test_the_fault_happened(stories: dict[Cell, Story], cell: Cell) -> None:
    record = stories[cell].record

    if cell.stage == "connect":
        assert record.conversations == []
        return
    assert record.faults == 1
    assert record.said == cell.said
    (met,) = [each for each in record.conversations if each.heard_before_fault is not None]
    assert (met.ended_by == "relay") == (cell.then == "close")


@each_cell
def test_a_connection_is_used_again_only_when_nothing_can_be_mistaken(stories: dict[Cell, Story], cell: Cell) -> None:
    record = stories[cell].record
    if cell.stage == "connect":
        return
    (met,) = [each for each in record.conversations if each.heard_before_fault is not None]

    assert (met.heard[met.heard_before_fault :] == []) == (cell.expected != "kept")
    assert len(record.conversations) == (1 if cell.expected == "kept" else 2)


@each_cell
def test_a_body_leaves_once_at_most(stories: dict[Cell, Story], cell: Cell) -> None:
    record = stories[cell].record
    bodies = [octets for each in record.conversations for octets in each.bodies]
    left = cell.expected not in {"again", "refused"} or cell.stage in {"body", "reply"}
    others = 0 if cell.stage == "connect" else 2 if cell.stage in {"idle", "next"} else 1

    assert len(bodies) == left + others
    assert all(set(copies.values()) == {1} for copies in record.mails.values())
    assert f"<{letter(2).letter_id}@kip.example>" in record.mails or cell.stage == "connect"


async def test_a_250_that_comes_before_the_body_is_not_the_answer_to_it(relays: RelayProcess) -> None:
    port = relays.open(say=f"{USUAL['reply']}\r\n")

    class SpokenTo(Steps):
        async def handing_over(self, body_started_at: datetime) -> None:
            await super().handing_over(body_started_at)
            await asyncio.to_thread(relays.speak, port)
            await asyncio.sleep(0)  # the loop has heard it

    gateway = gateway_to(Relay("relay-1", f"127.0.0.1:{port}", None), PATIENT_S)

    with pytest.raises(TryAgain):
        await gateway.send(letter(), SpokenTo())

    await eventually(lambda: relays.record(port).conversations[0].ended_by == "client", within_s=SEEN_S)
    assert relays.record(port).faults == 1
    assert relays.record(port).mails == {}
