"""Delivery events off the wire: what they say is merged, what cannot be read is poison, and each is counted once."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from kip.mailer.v1 import mail_events_pb2 as pb
from prometheus_client import CollectorRegistry

from services.chassis.record_fate import Poison, Record
from services.otp.actions.issue import Issued
from services.otp.actions.resend import ResendOutcome
from services.otp.inbound.kafka_inbox import DeliveryInbox
from services.otp.metrics import OtpMetrics
from services.otp.ports import StoreUnavailable
from services.otp.rules.generation import Fate
from tests.fakes.otp import POLICY
from tests.unit.otp.desk import Desk
from tests.unit.otp.made_up import after, generation


class Office:
    """The inbox over in-memory ports, with one letter that was asked for at noon; now is a minute later."""

    def __init__(self) -> None:
        self.desk, self.registry = Desk(), CollectorRegistry()
        self.inbox = DeliveryInbox(self.desk.follow, self.desk.queue, OtpMetrics(self.registry, POLICY.purposes))

    async def ask(self) -> Issued:
        issued = await self.desk.ask()
        self.desk.later(60)
        return issued

    def count(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0


def _stamp(instant: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(instant)
    return stamp


def _record(value: bytes) -> Record:
    return Record("mail.delivery.otp.v1", 0, 0, b"", value, {}, after(60), 1)


def _delivery(issued: Issued, **fate: object) -> Record:
    event = pb.MailDelivery(owner_id=issued.challenge.id, generation=1, at=_stamp(after(40)), **fate)  # type: ignore[arg-type] # the fates are of many types
    return _record(event.SerializeToString())


HANDED_OVER = pb.HandedOver(body_started_at=_stamp(after(39)), route="a", relay_id="4X")

FATES = {
    "handed over": ({"handed_over": HANDED_OVER}, {"body_started_at": 39, "handed_over_at": 40}),
    "handed over, no start told": ({"handed_over": pb.HandedOver()}, {"body_started_at": 40, "handed_over_at": 40}),
    "deferred": ({"deferred": pb.Deferred(status="4.7.1")}, {"deferred_at": 40}),
    "deferred by the mailer": ({"deferred": pb.Deferred(), "source": pb.SOURCE_SMTP_REPLY}, {"deferred_at": 0}),
    "deferred until": (
        {"deferred": pb.Deferred(next_try_at=_stamp(after(340))), "source": pb.SOURCE_RELAY_LOG},
        {"deferred_at": 40, "next_try_at": 340},
    ),
    "delivered": ({"delivered": pb.Delivered()}, {"delivered_at": 40}),
    "delivered, says the log": ({"delivered": pb.Delivered(), "source": pb.SOURCE_RELAY_LOG}, {"delivered_at": 40}),
    "delivered, says a DSN": ({"delivered": pb.Delivered(), "source": pb.SOURCE_DSN}, {"said_delivered_at": 40}),
    "bounced": ({"bounced": pb.Bounced(status="5.1.1")}, {"bounced_at": 40}),
    "bounced, says a DSN": ({"bounced": pb.Bounced(), "source": pb.SOURCE_DSN}, {"said_bounced_at": 40}),
    "refused": ({"refused": pb.Refused(reply_code=550)}, {"refused_at": 40}),
    "refused, maybe exposed": ({"refused": pb.Refused(exposed=True)}, {"refused_at": 40, "exposed": True}),
    "dropped": ({"dropped": pb.Dropped(reason=pb.DROP_REASON_DEADLINE)}, {"dropped_at": 40}),
    "dropped, maybe exposed": ({"dropped": pb.Dropped(exposed=True)}, {"dropped_at": 40, "exposed": True}),
}


@pytest.mark.parametrize(("fate", "seen"), FATES.values(), ids=FATES.keys())
async def test_each_fate_is_merged_and_counted_once(fate: dict[str, object], seen: dict[str, Any]) -> None:
    office = Office()
    issued = await office.ask()

    for _ in range(2):
        await office.inbox(_delivery(issued, **fate))

    known = office.desk.stored(issued).generations[0]
    assert replace(known, code_fate=None) == generation(reference=known.reference, **seen)
    assert office.count("otp_deliveries_followed_total", fate=known.fate.value) == 1


@pytest.mark.parametrize("turned", [False, True], ids=["in order", "out of order"])
async def test_a_letter_that_the_mailer_deferred_and_handed_over_is_handed_over(*, turned: bool) -> None:
    office = Office()
    issued = await office.ask()
    deferred = _delivery(issued, deferred=pb.Deferred(), source=pb.SOURCE_SMTP_REPLY)
    # A body without a reply, found out to be all that was done: it is told after the deferral, and happened before it.
    event = pb.MailDelivery(owner_id=issued.challenge.id, generation=1, at=_stamp(after(20)), handed_over=HANDED_OVER)
    handed_over = _record(event.SerializeToString())

    for record in (handed_over, deferred) if turned else (deferred, handed_over):
        await office.inbox(record)

    assert office.desk.stored(issued).generations[0].fate is Fate.HANDED_OVER


async def test_the_wait_from_request_to_hand_over_is_measured_once() -> None:
    office = Office()
    issued = await office.ask()

    for _ in range(2):
        await office.inbox(_delivery(issued, handed_over=HANDED_OVER))
    await office.inbox(_delivery(issued, delivered=pb.Delivered()))

    assert office.count("otp_hand_over_wait_seconds_count") == 1
    assert office.count("otp_hand_over_wait_seconds_sum") == 40


async def test_the_queue_hears_of_each_hand_over_once_and_of_nothing_else() -> None:
    office = Office()
    issued = await office.ask()
    stranger = pb.MailDelivery(owner_id="c00" + "0" * 32, generation=1, at=_stamp(after(41)), handed_over=HANDED_OVER)

    for _ in range(2):
        await office.inbox(_delivery(issued, handed_over=HANDED_OVER))
    await office.inbox(_delivery(issued, delivered=pb.Delivered()))
    await office.inbox(_record(stranger.SerializeToString()))

    assert office.desk.queue.heard == [after(40)]


async def test_the_hand_over_of_a_second_letter_is_measured_from_its_own_wish() -> None:
    office = Office()
    issued = await office.ask()
    await office.inbox(_delivery(issued, refused=pb.Refused(reply_code=550)))
    office.desk.later(60)
    assert (await office.desk.click(issued.handle)).outcome is ResendOutcome.QUEUED
    event = pb.MailDelivery(owner_id=issued.challenge.id, generation=2, at=_stamp(after(150)), handed_over=HANDED_OVER)

    office.desk.later(40)
    await office.inbox(_record(event.SerializeToString()))

    assert office.count("otp_hand_over_wait_seconds_sum") == 30


async def test_what_is_not_ours_is_counted_apart() -> None:
    office = Office()
    event = pb.MailDelivery(owner_id="c00" + "0" * 32, generation=1, at=_stamp(after(1)), delivered=pb.Delivered())

    await office.inbox(_record(event.SerializeToString()))

    assert office.count("otp_deliveries_followed_total", fate="unknown") == 1
    assert office.count("otp_deliveries_followed_total", fate="delivered") == 0


@pytest.mark.parametrize(
    "value",
    [b"\xff\xff\xff", b"", pb.MailDelivery(owner_id="c00", generation=1).SerializeToString()],
    ids=["no protobuf", "nothing", "no fate"],
)
async def test_what_can_never_be_read_is_poison_with_a_reason(value: bytes) -> None:
    with pytest.raises(Poison) as poison:
        await Office().inbox(_record(value))

    assert str(poison.value)


async def test_a_time_that_no_calendar_has_is_poison() -> None:
    event = pb.MailDelivery(owner_id="c00", generation=1, at=Timestamp(seconds=10**17), delivered=pb.Delivered())

    with pytest.raises(Poison):
        await Office().inbox(_record(event.SerializeToString()))


async def test_while_the_store_is_away_the_record_is_not_done() -> None:
    office = Office()
    issued = await office.ask()
    office.desk.store.is_away = True

    with pytest.raises(StoreUnavailable):
        await office.inbox(_delivery(issued, handed_over=HANDED_OVER))

    office.desk.store.is_away = False
    await office.inbox(_delivery(issued, handed_over=HANDED_OVER))
    assert office.desk.stored(issued).newest.fate is Fate.HANDED_OVER
