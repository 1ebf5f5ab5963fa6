"""In-memory twins of the mailer's ports, and the orders that its tests give."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from deploy.dev.inbox.behaviour import Action, Behaviour, Rule, Stage, parse_rules
from services.chassis.clock import Clock
from services.mailer.ports import (
    Carried,
    Checkpoints,
    LedgerAway,
    Letter,
    MovedOn,
    Owner,
    Seen,
    TakenOver,
    TryAgain,
)
from services.mailer.rules.letter import CodeRecipe, Lane, Message, Order, PrivatePart, Rendered
from services.mailer.rules.outcome import Deferred, HandedOver, NoReply, Outcome, Refused
from services.mailer.rules.receipt import Receipt
from services.mailer.rules.schedule import Retry
from services.mailer.rules.wish import Wish
from tests.fakes.clock import NOON

MINUTE = timedelta(minutes=1)
UNCLAIMED_LIFE = timedelta(hours=48)
NEWER_COUNTS = timedelta(minutes=10)
CODE_PARAMETERS = {
    "reference": "7F3K",
    "replaces": "",
    "code_in_subject": "",
    "asked_at": "19:00:00, 25/11/2026",
    "life_minutes": "5",
    "ends_at": "19:30",
}
NOTICE_PARAMETERS = {
    "dossier_number": "K01-261125-7F3K2M",
    "procedure_vi": "Cấp lại sổ bảo hiểm xã hội",
    "procedure_en": "Re-issue of a social insurance book",
    "state_vi": "Đã tiếp nhận",
    "state_en": "Accepted",
    "remark": "Mời chị mang theo căn cước.",
    "at": "2026-11-25T12:00:00Z",
}
PRIVATE = PrivatePart("lan@example.vn", {"name": "Nguyễn Thị Lan", "context": "Cấp lại sổ"})
WORDS = {
    "vi": Rendered("[7F3K] Mã xác nhận của bạn", "Mã của bạn: 904817\n", "<p>Mã của bạn: <b>904817</b></p>"),
    "en": Rendered("[7F3K] Your confirmation code", "Your code: 904817\n", "<p>Your code: <b>904817</b></p>"),
}
RECIPE = CodeRecipe("c1", "confirm-email", b"\x00" * 32, 6)


def code_order(number: int = 1, *, private: PrivatePart = PRIVATE, kid: str = RECIPE.kid) -> Order:
    """Return the order of a code that was asked for at noon."""
    return Order(
        lane=Lane.OTP,
        owner_id=f"challenge-{number}",
        generation=1,
        letter="code",
        locale="vi",
        asked_at=NOON,
        deadline=NOON + 14 * MINUTE,
        useless_at=NOON + 30 * MINUTE,
        parameters=CODE_PARAMETERS,
        open=lambda: private,
        code=replace(RECIPE, kid=kid),
    )


def notice_order(number: int = 1, *, letter: str = "dossier-advanced", locale: str = "vi") -> Order:
    """Return the order of a notice that was asked for at noon."""
    private = PrivatePart(PRIVATE.email, {**NOTICE_PARAMETERS, "name": PRIVATE.parameters["name"]})
    return Order(
        lane=Lane.NOTICE,
        owner_id=f"notice-{number}",
        generation=1,
        letter=letter,
        locale=locale,
        asked_at=NOON,
        deadline=NOON + timedelta(hours=48),
        useless_at=NOON + timedelta(days=30),
        parameters={},
        open=lambda: private,
    )


@dataclass
class _Entry:
    until: datetime
    owner: Owner | None = None
    since: datetime = NOON
    began: datetime | None = None
    outcome: Outcome | None = None


class InMemoryLedger:
    """Implements `Ledger`.

    Args:
        clock: decides when keys end.
    """

    def __init__(self, clock: Clock) -> None:
        self.away = False
        self.away_for: set[str] = set()
        """Names of methods that alone do not answer."""
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._wishes: dict[str, tuple[Wish, datetime]] = {}
        self.names: dict[tuple[str, str], tuple[str, datetime]] = {}
        """Letter id, and when it was accepted, by route and relay id."""
        self.times_asked = 0
        """How often `wish` was called."""

    async def claim(self, letter_id: str, owner: Owner, keep_until: datetime) -> Seen:
        """Implements `Ledger`."""
        self._answer("claim")
        entry = self._entry(letter_id)
        if entry.outcome is None:
            self._own(entry, owner)
        entry.until = keep_until
        return Seen(entry.outcome, entry.began, wish=self._wish(letter_id))

    async def handing_over(self, letter_id: str, owner: Owner, body_started_at: datetime) -> None:
        """Implements `Ledger`."""
        self._answer("handing_over")
        entry = self._entry(letter_id)
        if entry.outcome is not None:
            raise TakenOver
        self._own(entry, owner)
        entry.began = entry.began or body_started_at

    async def not_taken(self, letter_id: str, body_started_at: datetime) -> None:
        """Implements `Ledger`."""
        self._answer("not_taken")
        entry = self._entries.get(letter_id)
        if entry and entry.began == body_started_at:
            entry.began = None

    async def settle(self, letter_id: str, outcome: Outcome) -> None:
        """Implements `Ledger`."""
        self._answer("settle")
        entry = self._entry(letter_id)
        entry.outcome = entry.outcome or outcome
        if isinstance(outcome, HandedOver) and outcome.relay_id:
            self.names[outcome.route, outcome.relay_id] = (letter_id, outcome.at)

    async def heed(self, letter_id: str, wish: Wish, keep_until: datetime) -> Wish:
        """Implements `Ledger`."""
        self._answer("heed")
        return self.tell(letter_id, wish, keep_until)

    async def wish(self, letter_id: str) -> Wish:
        """Implements `Ledger`."""
        self.times_asked += 1
        self._answer("wish")
        return self._wish(letter_id)

    def tell(self, letter_id: str, wish: Wish, keep_until: datetime) -> Wish:
        """Heed a wish at once, as another process does in the middle of a conversation."""
        known = self._wish(letter_id)
        _, until = self._wishes.get(letter_id, (known, keep_until))
        self._wishes[letter_id] = (known.merged(wish), max(until, keep_until))
        return known

    def come_back_empty(self) -> None:
        """Lose everything."""
        self._entries.clear()
        self._wishes.clear()

    def knows(self, letter_id: str) -> Seen | None:
        """Return what is noted of a letter, without claiming it; None when there is no key."""
        entry = self._entries.get(letter_id)
        return Seen(entry.outcome, entry.began) if entry and entry.until > self._clock() else None

    def _wish(self, letter_id: str) -> Wish:
        wish, until = self._wishes.get(letter_id, (Wish(), self._clock()))
        return wish if until > self._clock() else Wish()

    def _own(self, entry: _Entry, owner: Owner) -> None:
        held = entry.owner
        if held is not None and held.attempt > owner.attempt:
            raise MovedOn
        if (
            held is not None
            and (held.attempt, held.topic) == (owner.attempt, owner.topic)
            and held.epoch > owner.epoch
            and self._clock() - entry.since < NEWER_COUNTS
        ):
            raise TakenOver
        entry.owner, entry.since = owner, self._clock()

    def _answer(self, method: str) -> None:
        if self.away or method in self.away_for:
            raise LedgerAway("away")

    def _entry(self, letter_id: str) -> _Entry:
        entry = self._entries.get(letter_id)
        if entry is None or entry.until <= self._clock():
            entry = self._entries[letter_id] = _Entry(self._clock() + UNCLAIMED_LIFE)
        return entry


class RelayInMemory:
    """A relay that keeps every mail, and misbehaves by the rules of `deploy/dev/inbox/behaviour.py`."""

    def __init__(self) -> None:
        self.kept: list[tuple[str, bytes]] = []
        """Recipient and octets of every mail that it took or kept all the same."""
        self.bodies: list[bytes] = []
        """Every body that was sent to it."""
        self._behaviour = Behaviour()

    def behave(self, *rules: Mapping[str, object]) -> None:
        """Put these rules in force instead of the present ones; none = behave."""
        self._behaviour.replace(parse_rules(json.dumps(rules).encode()))

    def times_used(self) -> list[int]:
        """Return how often each rule in force has acted."""
        return [used for _, used in self._behaviour.rules]

    def play(self, stage: Stage, recipient: str) -> Rule | None:
        """Return the rule that acts now; a delay is one beyond any time-out."""
        acting = self._behaviour.take(stage, [recipient])
        return acting[-1] if acting else None


@dataclass
class GatewayInMemory:
    """Implements `MailGateway` over a relay in memory; waits for nothing, and says what the wire would tell."""

    clock: Clock
    slots: int = 4
    relay: RelayInMemory = field(default_factory=RelayInMemory)
    imitated: int = 0
    at_stage: Callable[[Stage], None] = lambda _stage: None
    """Called at each stage: a test turns its clock here."""

    def __post_init__(self) -> None:
        """Make the slots."""
        self._free = asyncio.Semaphore(self.slots)

    async def send(self, message: Message, checkpoints: Checkpoints) -> HandedOver | Refused | NoReply:
        """Implements `MailGateway`."""
        async with self._slot():
            await checkpoints.still_wanted()
            for stage in (Stage.CONNECT, Stage.MAIL, Stage.RCPT):
                if refused := self._before_body(stage, message):
                    return refused
            await checkpoints.still_wanted()
            if refused := self._before_body(Stage.DATA, message):
                return refused
            began = self.clock()
            await checkpoints.handing_over(began)
            return self._body(message, began)

    async def imitate(self, checkpoints: Checkpoints) -> HandedOver:
        """Implements `MailGateway`."""
        async with self._slot():
            await checkpoints.still_wanted()
            self.imitated += 1
            now = self.clock()
            return HandedOver(at=now, body_started_at=now, route="relay-1", relay_id="")

    def _before_body(self, stage: Stage, message: Message) -> Refused | None:
        self.at_stage(stage)
        rule = self.relay.play(stage, message.recipient)
        if rule is None:
            return None
        if rule.action is Action.REPLY and stage is not Stage.CONNECT:
            return self._said_no(rule)
        raise TryAgain(f"{rule.action} at {stage}")

    def _body(self, message: Message, began: datetime) -> HandedOver | Refused | NoReply:
        self.relay.bodies.append(message.octets)
        for stage in (Stage.BODY, Stage.REPLY):
            self.at_stage(stage)
            rule = self.relay.play(stage, message.recipient)
            if rule is None:
                continue
            if rule.store:
                self.relay.kept.append((message.recipient, message.octets))
            if rule.action is Action.REPLY or (rule.action is Action.DOUBLE_REPLY and stage is Stage.BODY):
                return self._said_no(rule)
            if rule.action is not Action.DOUBLE_REPLY:
                return NoReply(began)
        self.relay.kept.append((message.recipient, message.octets))
        return HandedOver(at=self.clock(), body_started_at=began, route="relay-1", relay_id="4bXyZ1")

    def _said_no(self, rule: Rule) -> Refused:
        code = int(rule.reply[:3])
        if code < 500:
            raise TryAgain(f"the relay said {code}")
        return Refused(self.clock(), code, "5.7.1" if "5.7.1" in rule.text else "")

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        async with self._free:
            await asyncio.sleep(0)
            yield


class RecordingEvents:
    """Implements `EventSink`; fails as many times as it is told."""

    def __init__(self) -> None:
        self.announced: list[tuple[str, Outcome]] = []
        self.deferred: list[tuple[str, Deferred]] = []
        self.receipts: list[tuple[str, Receipt]] = []
        self.failures_left = 0

    async def announce(self, letter: Letter, news: Outcome | Deferred | Receipt) -> None:
        """Implements `EventSink`."""
        if self.failures_left:
            self.failures_left -= 1
            raise TryAgain("no broker")
        if isinstance(news, Deferred):
            self.deferred.append((letter.id, news))
        elif isinstance(news, Receipt):
            self.receipts.append((letter.id, news))
        else:
            self.announced.append((letter.id, news))


class RetriesInMemory:
    """Implements `Retries`; fails as many times as it is told, and then has or has not kept the record."""

    def __init__(self) -> None:
        self.kept: list[tuple[Carried, Retry]] = []
        self.failures_left = 0
        self.keeps_although_it_fails = False

    async def put(self, carried: Carried, retry: Retry) -> None:
        """Implements `Retries`."""
        fails = self.failures_left > 0
        self.failures_left -= fails
        if not fails or self.keeps_although_it_fails:
            self.kept.append((carried, retry))
        if fails:
            raise TryAgain("no broker")
