"""One lane of the mailer over twins, and what its tests do with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import pytest

from deploy.dev.inbox.behaviour import Stage
from services.chassis.keyring import Key, Keyring
from services.mailer.actions.deliver import DeliverLetter
from services.mailer.outbound.jinja_texts import JinjaTexts
from services.mailer.ports import Owner, TryAgain
from services.mailer.rules.letter import Order, Sender
from services.mailer.rules.outcome import Outcome
from services.mailer.rules.wish import Wish
from tests.fakes.clock import NOON, FakeClock
from tests.fakes.mailer import RECIPE, GatewayInMemory, InMemoryLedger, RecordingEvents, code_order, notice_order

CODE_KEY = Key(RECIPE.kid, b"made-up-secret-of-32-octets-0001", NOON)
SECOND = timedelta(seconds=1)
FIRST = Owner(0, "orders.v1", 1)
CODE, NOTICE = code_order(), notice_order()


@dataclass
class Delivers:
    """The verb, tried by the one owner that there is unless a test names another."""

    verb: DeliverLetter

    async def __call__(self, order: Order, owner: Owner = FIRST) -> Outcome:
        """Deliver."""
        return await self.verb(order, owner)


@dataclass
class Mailer:
    """One lane over twins."""

    texts: JinjaTexts
    slots: int = 4

    def __post_init__(self) -> None:
        self.clock = FakeClock()
        self.ledger = InMemoryLedger(self.clock)
        self.gateway = GatewayInMemory(self.clock, self.slots)
        self.relay = self.gateway.relay
        self.events = RecordingEvents()
        self.deliver = self.anew()

    def anew(self) -> Delivers:
        """Return the verb of a process that has just started: it remembers nothing of its own."""
        verb = DeliverLetter(
            self.gateway,
            self.ledger,
            self.events,
            self.texts,
            clock=self.clock,
            sender=Sender("Cổng", "khong-tra-loi@kip.example"),
            code_keys=Keyring([CODE_KEY]),
        )
        return Delivers(verb)

    async def fails(self, order: Order, why: str | None = None) -> None:
        """Deliver in vain."""
        with pytest.raises(TryAgain, match=why):
            await self.deliver(order)

    @property
    def fate(self) -> Outcome:
        """The one outcome that was announced."""
        ((_, outcome),) = self.events.announced
        return outcome

    def says(self, order: Order, wish: Wish) -> None:
        """Let the owner of a letter say something, which is in the ledger at once."""
        self.ledger.tell(order.id, wish, order.useless_at + timedelta(hours=24))


def turn_at(mailer: Mailer, stage: Stage, by: timedelta) -> Callable[[Stage], None]:
    """Return what turns the clock when a conversation reaches a stage."""

    def turn(reached: Stage) -> None:
        if reached is stage:
            mailer.clock.pass_by(by)

    return turn


def say_at(mailer: Mailer, stage: Stage, order: Order, wish: Wish) -> Callable[[Stage], None]:
    """Return what says it when a conversation reaches a stage."""

    def say(reached: Stage) -> None:
        if reached is stage:
            mailer.says(order, wish)

    return say
