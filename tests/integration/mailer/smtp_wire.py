"""A gateway and the relay behind it, in memory or on a wire, and what a letter's conversation may meet.

Shared by the port suite and by the tests of what only a wire can do. The script of the relay is the demo inbox's
(`deploy/dev/inbox/behaviour.py`), and its counts show that each fault happened.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

from prometheus_client import CollectorRegistry

from services.chassis.clock import system_clock
from services.mailer.metrics import MailerMetrics
from services.mailer.outbound.smtp_gateway import Relay, SmtpGateway
from services.mailer.ports import MailGateway, NoLongerWanted, TryAgain
from services.mailer.rules.letter import Lane, Message, Sender, compose
from services.mailer.rules.outcome import DropReason, HandedOver, NoReply, Refused
from tests.fakes.mailer import PRIVATE, WORDS, GatewayInMemory, RelayInMemory, code_order
from tests.integration.inbox.running_inbox import RunningInbox

STAGES = ("connect", "mail", "rcpt", "data", "body", "reply")
SLOTS = 3
HASTY_S = 0.7  # how long a silence is listened to
PATIENT_S = 30  # where every reply comes: a busy machine must not be taken for a silent relay
SILENCE_S = 60  # beyond any time-out; the conversation ends when the client closes
NOTHING_LEFT, NOT_TAKEN, UNKNOWN = "nothing left", "not taken", "unknown"
REFUSED, HANDED_OVER = "refused", "handed over"
FAULTS: dict[str, dict[str, object]] = {
    "4xx": {"action": "reply", "code": 451, "text": "4.7.1 later"},
    "5xx": {"action": "reply", "code": 550, "text": "5.7.1 never"},
    "cut": {"action": "cut"},
    "silence": {"action": "delay", "delay_s": SILENCE_S},
    "half line": {"action": "half_line"},
    "double reply": {"action": "double_reply"},
}
COUNTED = {"4xx": "refused", "5xx": "refused", "silence": "delayed", "half line": "half_line"}


def letter(number: int = 1, to: str = PRIVATE.email) -> Message:
    return compose(code_order(number), to, WORDS, Sender("Cổng", "khong-tra-loi@kip.example"))


@dataclass
class Steps:
    """Implements `Checkpoints`; stops where it is told, and remembers."""

    wanted: list[bool] = field(default_factory=lambda: [True, True])
    fails: Exception | None = None
    began: datetime | None = None
    asked: int = 0

    async def still_wanted(self) -> None:
        """Say no where the test said so."""
        self.asked += 1
        if not self.wanted[self.asked - 1]:
            raise NoLongerWanted(DropReason.WITHDRAWN)

    async def handing_over(self, body_started_at: datetime) -> None:
        """Remember, or fail."""
        assert self.began is None, "told twice of one body"
        self.began = body_started_at
        if self.fails:
            raise self.fails


class Wire(Protocol):
    """A gateway and the relay behind it, whichever they are."""

    @property
    def gateway(self) -> MailGateway:
        """What is asked."""

    def behave(self, *rules: Mapping[str, object]) -> None:
        """Script the relay."""

    def times_used(self) -> list[int]:
        """How often each rule acted."""

    def arrived(self) -> list[tuple[str, bytes]]:
        """Recipient and octets of what the relay kept, oldest first."""


class WireInMemory:
    """The twin."""

    def __init__(self) -> None:
        self.gateway = GatewayInMemory(system_clock, SLOTS, RelayInMemory())
        self.behave = self.gateway.relay.behave
        self.times_used = self.gateway.relay.times_used

    def arrived(self) -> list[tuple[str, bytes]]:
        """Implements `Wire`."""
        return self.gateway.relay.kept


class SmtpWire:
    """The real gateway before the demo inbox."""

    def __init__(self, inbox: RunningInbox, *, timeout_s: float = PATIENT_S, **options: Any) -> None:
        self.inbox = inbox
        self.registry = CollectorRegistry()
        inbox.client.set_behaviour()
        inbox.client.clear()
        defaults: dict[str, Any] = {
            "relay": Relay("relay-1", f"127.0.0.1:{inbox.smtp_port}", None),
            "lane": Lane.OTP,
            "slots": SLOTS,
            "reply_timeout": timedelta(seconds=timeout_s),
            "command_timeout_s": timeout_s,
            "clock": system_clock,
            "metrics": MailerMetrics(self.registry),
        }
        self.gateway = SmtpGateway(**(defaults | options))
        self.behave = inbox.client.set_behaviour
        self.times_used = inbox.client.times_used

    def arrived(self) -> list[tuple[str, bytes]]:
        """Implements `Wire`."""
        client = self.inbox.client
        return [(mail.rcpt_to[0], client.raw(mail.id)) for mail in reversed(client.messages(limit=500))]

    def connections(self) -> int:
        """How many were ever made."""
        return self.inbox.client.stats().connections

    def count(self, name: str, **labels: str) -> float | None:
        """Return a sample of the lane."""
        return self.registry.get_sample_value(name, {"lane": "otp", **labels})


@asynccontextmanager
async def smtp_wire(inbox: RunningInbox, **options: Any) -> AsyncIterator[SmtpWire]:
    """Yield a wire to the inbox, and close its connections."""
    wire = SmtpWire(inbox, **options)
    try:
        yield wire
    finally:
        await wire.gateway.close()


async def result_of(wire: Wire, steps: Steps, message: Message) -> str:
    """Send, and say what the answer means."""
    try:
        answer = await wire.gateway.send(message, steps)
    except TryAgain:
        return NOT_TAKEN if steps.began else NOTHING_LEFT
    match answer:
        case HandedOver():
            assert answer.body_started_at == steps.began
            assert answer.at >= answer.body_started_at
            assert not answer.uncertain
            return HANDED_OVER
        case Refused():
            assert (answer.reply_code, answer.status) == (550, "5.7.1")
            return REFUSED
        case NoReply():
            assert answer.body_started_at == steps.began
            return UNKNOWN
