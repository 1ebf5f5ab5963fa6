"""The return path and what a relay is asked to write to it: on a wire, through a real Postfix."""

from __future__ import annotations

import asyncio
import smtplib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from prometheus_client import CollectorRegistry

from deploy.dev import postfix_relay
from deploy.dev.postfix_relay import PostfixRelay
from services.chassis.clock import system_clock
from services.chassis.keyring import Key, Keyring
from services.mailer.actions.settle import SettleReceipt
from services.mailer.inbound.smtp_returns import Limits, TakeReport, returns_listening
from services.mailer.metrics import MailerMetrics, ReceiptMetrics
from services.mailer.outbound.keyring_envelopes import KeyringEnvelopes
from services.mailer.outbound.smtp_gateway import Notifications, Relay, SmtpGateway
from services.mailer.rules.letter import Lane, LetterName
from services.mailer.rules.outcome import HandedOver
from services.mailer.rules.receipt import Source, Told
from tests.conditions import eventually
from tests.fakes.clock import NOON
from tests.fakes.mailer import InMemoryLedger, RecordingEvents
from tests.fakes.mailer_receipts import InMemoryReceiptBook
from tests.integration.inbox.running_inbox import RunningInbox
from tests.integration.mailer.smtp_wire import PATIENT_S, Steps, letter, smtp_wire
from tests.servers.relay_process import RelayProcess
from tests.servers.relay_reports import report
from tests.servers.require import require

T = TypeVar("T")
ENVELOPES = KeyringEnvelopes(Keyring([Key("r1", b"made-up-secret-of-32-octets-0001", NOON)]))
OURS = ENVELOPES.envelope_id(LetterName(Lane.OTP, "challenge-1", 1), NOON) or ""
MAILBOX = "khong-tra-loi@kip.example"
NOTIFY = "SUCCESS,DELAY,FAILURE"


@dataclass
class Returns:
    """A return path that listens."""

    port: int
    book: InMemoryReceiptBook
    events: RecordingEvents
    registry: CollectorRegistry

    def ignored(self, reason: str) -> float | None:
        """Return how many had no effect for that reason."""
        return self.registry.get_sample_value("mailer_receipts_ignored_total", {"source": "dsn", "reason": reason})

    def told(self) -> list[Told]:
        """Return what was told on."""
        return [receipt.told for _letter, receipt in self.events.receipts]

    async def ask(self, talk: Callable[[smtplib.SMTP], T]) -> T:
        """Talk to it."""

        def call() -> T:
            with smtplib.SMTP("127.0.0.1", self.port, timeout=20) as client:
                return talk(client)

        return await asyncio.to_thread(call)

    async def accepts(self) -> bool:
        """Say whether it takes a report."""
        try:
            return await self.send(report(envelope_id=OURS)) == "accepted"
        except smtplib.SMTPException:
            return False

    async def send(self, mail: bytes, *, sender: str = "<>", to: str = MAILBOX) -> str:
        """Send a mail; return `accepted`, or the code of the refusal."""

        def talk(client: smtplib.SMTP) -> str:
            try:
                client.sendmail(sender, [to], mail)
            except smtplib.SMTPRecipientsRefused as refused:
                return str(refused.recipients[to][0])
            except smtplib.SMTPResponseException as refused:
                return str(refused.smtp_code)
            return "accepted"

        return await self.ask(talk)


@asynccontextmanager
async def listening(**limits: Any) -> AsyncIterator[Returns]:
    registry = CollectorRegistry()
    book, events = InMemoryReceiptBook(InMemoryLedger(system_clock)), RecordingEvents()
    metrics = ReceiptMetrics(registry)
    take = TakeReport(ENVELOPES, SettleReceipt(book, events), metrics, system_clock)
    async with returns_listening("127.0.0.1:0", MAILBOX, take, metrics, Limits(**limits)) as port:
        yield Returns(port, book, events, registry)


async def test_a_report_is_settled_before_its_250_and_put_off_while_it_cannot_be() -> None:
    async with listening() as returns:
        returns.book.away_for = {"note"}
        put_off = await returns.send(report(envelope_id=OURS))
        returns.book.away_for = set()
        taken = await returns.send(report(envelope_id=OURS))

    assert (put_off, taken) == ("451", "accepted")
    assert set(returns.told()) == {Told.BOUNCED}
    assert returns.ignored("put_off") == 1


async def test_people_and_other_mailboxes_are_told_so() -> None:
    async with listening() as returns:
        assert await returns.send(b"Call me", sender="lan@example.vn") == "550"
        assert await returns.send(report(envelope_id=OURS), to="root@kip.example") == "550"
        assert await returns.send(report(envelope_id=OURS), to=MAILBOX.upper()) == "accepted"

    assert len(returns.told()) == 1


async def test_ten_megabytes_are_refused_and_not_kept() -> None:
    async with listening() as returns:
        said = await returns.send(report(envelope_id=OURS, human=("x" * 70 + "\r\n") * 150_000))
        after = await returns.send(report(envelope_id=OURS))

    assert (said, after) == ("552", "accepted")
    assert returns.ignored("too_large") == 1


async def test_a_size_that_is_announced_too_large_is_refused_at_once() -> None:
    async with listening() as returns:
        code, _ = await returns.ask(lambda client: (client.ehlo(), client.docmd("MAIL FROM:<> SIZE=10000000"))[1])

    assert code == 552


async def test_octets_of_any_kind_are_taken_counted_and_forgotten() -> None:
    async with listening() as returns:
        for mail in (bytes(range(1, 256)) * 20, b"", b"\x00" * 5000, b"Content-Type: multipart/report\r\n\r\n"):
            assert await returns.send(mail) in {"accepted", "500"}
        assert await returns.send(report(envelope_id=OURS)) == "accepted"

    assert len(returns.told()) == 1


async def test_more_mails_in_a_second_than_agreed_are_put_off() -> None:
    def many(client: smtplib.SMTP) -> list[int]:
        client.ehlo()
        return [(client.docmd("MAIL FROM:<>")[0], client.rset())[0] for _ in range(6)]

    async with listening(mails_per_s=3.0) as returns:
        codes = await returns.ask(many)

    assert codes[:3] == [250, 250, 250]
    assert 451 in codes
    assert returns.ignored("too_fast") == codes.count(451)


async def test_more_connections_than_agreed_are_sent_away_and_there_is_room_again_afterwards() -> None:
    async with listening(connections=2) as returns:
        kept = [socket.create_connection(("127.0.0.1", returns.port), timeout=20) for _ in range(2)]
        greetings = [await asyncio.to_thread(each.recv, 100) for each in kept]
        with socket.create_connection(("127.0.0.1", returns.port), timeout=20) as third:
            said = await asyncio.to_thread(third.recv, 100)
        for each in kept:
            each.close()
        taken: bool = await eventually(returns.accepts, within_s=20)

    assert all(greeting.startswith(b"220 ") for greeting in greetings)
    assert said.startswith(b"421 ")
    assert (returns.ignored("too_many_connections") or 0) >= 1
    assert taken


async def test_a_connection_that_rests_is_closed() -> None:
    async with listening(idle_s=0.2) as returns:
        with socket.create_connection(("127.0.0.1", returns.port), timeout=20) as idle:
            await asyncio.to_thread(idle.recv, 100)
            assert await asyncio.to_thread(_read_to_the_end, idle) is not None


def _read_to_the_end(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(100), b""))


# What a relay is asked


@pytest.mark.parametrize("offers", [("DSN",), ("PIPELINING", "SIZE 1000")], ids=["offered", "not offered"])
async def test_a_relay_is_asked_for_notifications_only_if_it_offers_them(
    tmp_path: Path, offers: tuple[str, ...]
) -> None:
    relay = RelayProcess(tmp_path)
    relay.start()
    try:
        port = relay.open(offers=["HELP", *offers])
        gateway = SmtpGateway(
            Relay("relay-1", f"127.0.0.1:{port}", None),
            lane=Lane.OTP,
            slots=1,
            reply_timeout=timedelta(seconds=PATIENT_S),
            clock=system_clock,
            metrics=MailerMetrics(CollectorRegistry()),
            notifications=Notifications(ENVELOPES, NOTIFY),
        )
        assert isinstance(await gateway.send(letter(), Steps()), HandedOver)
        await gateway.close()
        (talk,) = relay.record(port).conversations
    finally:
        relay.stop()

    mail, rcpt = (next(line for line in talk.heard if line.startswith(verb)) for verb in ("MAIL", "RCPT"))
    asked = (f"RET=HDRS ENVID={OURS}" in mail, f"NOTIFY={NOTIFY}" in rcpt)
    assert asked == ((True, True) if "DSN" in offers else (False, False))
    assert ("ENVID" in mail, "NOTIFY" in rcpt) == asked


async def test_a_real_relay_writes_to_the_return_path_that_a_letter_arrived_and_that_one_never_will(
    inbox: RunningInbox,
) -> None:
    require(postfix_relay.why_missing())
    async with listening() as returns:
        postfix = PostfixRelay(f"127.0.0.1:{inbox.smtp_port}", routes={"kip.example": f"127.0.0.1:{returns.port}"})
        await asyncio.to_thread(postfix.start)
        try:
            relay = Relay("relay-1", postfix.address, None)
            notifications = Notifications(ENVELOPES, NOTIFY)
            async with smtp_wire(inbox, relay=relay, notifications=notifications) as smtp:
                inbox.client.set_behaviour(
                    {"stage": "rcpt", "action": "reply", "code": 550, "text": "5.1.1 no", "to": "gone@example.vn"}
                )
                sent = [await smtp.gateway.send(letter(1), Steps())]
                sent += [await smtp.gateway.send(letter(2, "gone@example.vn"), Steps())]
            await eventually(lambda: len(returns.events.receipts) == 2, within_s=30)
        finally:
            await asyncio.to_thread(postfix.remove)

    assert all(isinstance(answer, HandedOver) for answer in sent)
    told = {letter_id: (receipt.told, receipt.source) for letter_id, receipt in returns.events.receipts}
    assert told == {
        "challenge-1.1": (Told.DELIVERED, Source.DSN),
        "challenge-2.1": (Told.BOUNCED, Source.DSN),
    }
