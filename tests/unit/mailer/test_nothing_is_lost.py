"""Whatever fails, an order is acknowledged only with a durable successor or an announced outcome, and has an end.

Records are handled one by one, as the inboxes of a lane and its tiers would: a record that is handled is gone, one
that raises stays, and one whose process dies before the acknowledgement comes again to a newer epoch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from services.chassis.keyring import UnknownKey
from services.chassis.record_fate import Record
from services.mailer.actions.defer import DeferLetter
from services.mailer.inbound.kafka_inbox import LetterInbox
from services.mailer.metrics import MailerMetrics
from services.mailer.outbound.jinja_texts import JinjaTexts
from services.mailer.outbound.kafka_retries import ATTEMPT, tier_topic
from services.mailer.ports import TakenOver, TryAgain
from services.mailer.rules.letter import Order, PrivatePart
from services.mailer.rules.schedule import Schedule
from tests.fakes.clock import NOON
from tests.fakes.mailer import RetriesInMemory
from tests.unit.mailer.one_lane import CODE, NOTICE, SECOND, Mailer

TEXTS = JinjaTexts()
RELAY: dict[str, dict[str, object]] = {
    "greylisted": {"stage": "rcpt", "action": "reply", "code": 450},
    "cut before the body": {"stage": "data", "action": "cut"},
    "body not taken": {"stage": "reply", "action": "reply", "code": 451},
    "silence": {"stage": "reply", "action": "cut"},
    "silence, but kept": {"stage": "reply", "action": "cut", "store": True},
    "refused": {"stage": "rcpt", "action": "reply", "code": 550},
}
OTHERS = ("key unknown", "ledger away", "no claim", "tier away", "tier away, but kept", "killed", "hours pass", "well")
FAULTS = st.lists(st.sampled_from([*RELAY, *OTHERS]), max_size=12)


@dataclass
class Lane:
    """One letter, and the records of it that are not acknowledged."""

    order: Order

    def __post_init__(self) -> None:
        self.mailer = Mailer(TEXTS)
        self.retries = RetriesInMemory()
        self.epoch = 1
        self.key_is_here = True
        self.waiting = [Record("orders.v1", 0, 0, b"key", b"order", {}, NOON, 1)]
        self.inbox = self.anew()

    def anew(self) -> LetterInbox:
        """Return the inbox of a process that has just started."""
        mailer = self.mailer
        schedule = Schedule(self.order.lane, [1 * SECOND, 60 * SECOND, timedelta(hours=1)])
        defer = DeferLetter(self.retries, mailer.ledger, mailer.events, clock=mailer.clock, schedule=schedule)
        return LetterInbox(self.read, mailer.anew().verb, defer, MailerMetrics(CollectorRegistry()))

    def read(self, _value: bytes) -> Order:
        """Return the order, whose seal opens once its key is here."""

        def open_part() -> PrivatePart:
            if not self.key_is_here:
                raise UnknownKey("s2")
            return self.order.open()

        return replace(self.order, open=open_part)

    def suffer(self, fault: str) -> None:
        """Let this be so during the next step, and nothing else."""
        mailer = self.mailer
        mailer.relay.behave(*([RELAY[fault]] if fault in RELAY else []))
        self.key_is_here = fault != "key unknown"
        mailer.ledger.away = fault == "ledger away"
        mailer.ledger.away_for = {"claim"} if fault == "no claim" else set()
        self.retries.failures_left = int(fault.startswith("tier away"))
        self.retries.keeps_although_it_fails = "kept" in fault
        if fault.startswith("tier away"):
            mailer.relay.behave(RELAY["greylisted"])
        if fault == "hours pass":
            mailer.clock.pass_by(timedelta(hours=30))

    async def step(self, fault: str) -> None:
        """Handle the record that is due first; if it is acknowledged, see that something durable follows it."""
        record = self.waiting[0]
        kept, announced = len(self.retries.kept), len(self.mailer.events.announced)
        try:
            await self.inbox(replace(record, epoch=self.epoch))
        except (TryAgain, TakenOver):
            self.mailer.clock.pass_by(SECOND)
        else:
            self.acknowledge(record, kept, announced, killed=fault == "killed")
        for carried, retry in self.retries.kept[kept:]:
            headers = {**carried.headers, ATTEMPT: str(retry.attempt).encode()}
            topic = tier_topic(retry.tier)
            self.waiting.append(Record(topic, 0, len(self.retries.kept), b"key", carried.value, headers, NOON, 1))
            self.mailer.clock.now = max(self.mailer.clock.now, retry.not_before)
        if fault == "killed":
            self.epoch += 1
            self.inbox = self.anew()

    def acknowledge(self, record: Record, kept: int, announced: int, *, killed: bool) -> None:
        """The handler returned."""
        attempt = int(record.headers.get(ATTEMPT, b"0"))
        assert (
            len(self.mailer.events.announced) > announced
            or len(self.retries.kept) > kept
            or any(retry.attempt > attempt for _, retry in self.retries.kept)
        ), "acknowledged, and nothing follows"
        if not killed:
            self.waiting.remove(record)


@pytest.mark.parametrize("order", [CODE, NOTICE], ids=["code", "notice"])
@given(faults=FAULTS)
async def test_no_order_is_acknowledged_without_a_record_in_a_tier_or_an_announced_outcome(
    order: Order, faults: list[str]
) -> None:
    lane = Lane(order)

    for fault in [*faults, *["well"] * 60]:
        if lane.waiting:
            lane.suffer(fault)
            await lane.step(fault)

    assert lane.waiting == []
    assert lane.mailer.events.announced, "the owner knows how it ended"
    assert len(set(lane.mailer.relay.bodies)) <= 1, "the same bytes each time"
