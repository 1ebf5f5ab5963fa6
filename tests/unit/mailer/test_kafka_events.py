"""What the owner of a letter is told, and what happens when nobody takes the word."""

from __future__ import annotations

from datetime import timedelta

import pytest
from kip.mailer.v1 import mail_events_pb2 as pb

from services.chassis.events import Envelope, envelope_of
from services.chassis.kafka_producer import BrokerAway, Producer, RecordPosition
from services.mailer.outbound.kafka_events import KafkaEvents
from services.mailer.ports import TryAgain
from services.mailer.rules.letter import Order
from services.mailer.rules.outcome import Deferred, Dropped, DropReason, HandedOver, Outcome, Refused
from services.mailer.rules.receipt import Receipt, Source, Told
from tests.fakes.clock import NOON, FakeClock
from tests.fakes.mailer import code_order, notice_order

SECOND = timedelta(seconds=1)
HANDED_OVER = HandedOver(NOON + SECOND, NOON, "relay-1", "4bXyZ1")


class RecordingProducer(Producer):
    """Keeps what it is given instead of sending it."""

    def __init__(self, error: Exception | None = None) -> None:
        self.published: list[Envelope] = []
        self._error = error

    async def publish(self, envelope: Envelope, *, within: timedelta) -> RecordPosition:
        assert within > timedelta(0)
        if self._error is not None:
            raise self._error
        self.published.append(envelope)
        return RecordPosition(0, len(self.published) - 1)


async def told(order: Order, outcome: Outcome | Deferred | Receipt) -> tuple[Envelope, pb.MailDelivery]:
    producer = RecordingProducer()
    await KafkaEvents(producer, FakeClock(NOON + 3 * SECOND)).announce(order, outcome)
    (envelope,) = producer.published
    return envelope, pb.MailDelivery.FromString(envelope.value)


@pytest.mark.parametrize(
    ("order", "topic", "owner"),
    [
        (code_order(), "mail.delivery.otp.v1", "challenge-1"),
        (notice_order(), "mail.delivery.notice.v1", "notice-1"),
    ],
)
async def test_each_lane_has_a_topic_of_its_own_keyed_by_the_owner(order: Order, topic: str, owner: str) -> None:
    envelope, event = await told(order, HANDED_OVER)

    assert (envelope.topic, envelope.key, envelope.subject) == (topic, owner.encode(), owner)
    assert (envelope.type, envelope.source) == ("kip.mailer.v1.MailDelivery", "mailer")
    assert (event.owner_id, event.generation) == (owner, 1)
    assert envelope_of(envelope.topic, envelope.key, envelope.value, dict(envelope.headers())) == envelope


async def test_a_hand_over_tells_when_its_body_left_and_how() -> None:
    envelope, event = await told(code_order(), HANDED_OVER)

    assert event.WhichOneof("fate") == "handed_over"
    assert event.handed_over.body_started_at.ToDatetime(tzinfo=NOON.tzinfo) == NOON
    assert (event.handed_over.route, event.handed_over.relay_id) == ("relay-1", "4bXyZ1")
    assert not event.handed_over.uncertain
    assert event.source == pb.SOURCE_SMTP_REPLY
    assert event.at.ToDatetime(tzinfo=NOON.tzinfo) == envelope.time == NOON + SECOND
    assert event.published_at.ToDatetime(tzinfo=NOON.tzinfo) == NOON + 3 * SECOND


async def test_an_uncertain_hand_over_says_so() -> None:
    _, event = await told(code_order(), HandedOver(NOON, NOON, "", "", uncertain=True))

    assert event.handed_over.uncertain


async def test_a_dead_letter_is_dropped_and_its_event_is_another_than_that_of_a_later_drop() -> None:
    dead, event = await told(code_order(), Dropped(NOON, DropReason.DEAD_LETTERED, exposed=True))
    late, _ = await told(code_order(), Dropped(NOON, DropReason.DEADLINE, exposed=False))

    assert event.dropped == pb.Dropped(reason=pb.DROP_REASON_DEAD_LETTERED, exposed=True)
    assert dead.id != late.id


async def test_a_refusal_tells_the_reply() -> None:
    _, event = await told(code_order(), Refused(NOON, 550, "5.1.1"))

    assert event.WhichOneof("fate") == "refused"
    assert (event.refused.reply_code, event.refused.status, event.refused.exposed) == (550, "5.1.1", False)


async def test_a_refusal_after_silence_says_that_a_copy_may_be_out() -> None:
    _, event = await told(code_order(), Refused(NOON, 550, "5.1.1", exposed=True))

    assert event.refused.exposed


@pytest.mark.parametrize("exposed", [True, False])
async def test_a_drop_tells_why_and_whether_a_body_may_have_left(*, exposed: bool) -> None:
    _, event = await told(code_order(), Dropped(NOON, DropReason.DEADLINE, exposed=exposed))

    assert event.WhichOneof("fate") == "dropped"
    assert (event.dropped.reason, event.dropped.exposed) == (pb.DROP_REASON_DEADLINE, exposed)


async def test_a_deferral_tells_when_it_is_tried_again_and_what_the_relay_said() -> None:
    envelope, event = await told(code_order(), Deferred(NOON, NOON + 3 * SECOND, 2, "4.7.1"))

    assert event.WhichOneof("fate") == "deferred"
    assert event.deferred.next_try_at.ToDatetime(tzinfo=NOON.tzinfo) == NOON + 3 * SECOND
    assert event.deferred.status == "4.7.1"
    assert event.source == pb.SOURCE_SMTP_REPLY, "our own word, and not that of a relay which has it"
    assert event.at.ToDatetime(tzinfo=NOON.tzinfo) == envelope.time == NOON


async def test_each_deferral_of_a_letter_has_an_id_and_its_repeat_the_same() -> None:
    deferrals = [Deferred(NOON + attempt * SECOND, NOON, attempt) for attempt in (1, 1, 2)]

    ids = [(await told(code_order(), deferred))[0].id for deferred in deferrals]

    assert ids[0] == ids[1]
    assert ids[2] != ids[0]


async def test_a_repeat_of_an_event_has_its_id_and_another_outcome_has_another() -> None:
    (first, _), (second, _) = [await told(code_order(), HANDED_OVER) for _ in range(2)]
    other, _ = await told(code_order(), Refused(NOON, 550, ""))

    assert first.id == second.id
    assert other.id != first.id


@pytest.mark.parametrize("reason", DropReason)
async def test_every_reason_has_its_word_in_the_contract(reason: DropReason) -> None:
    _, event = await told(code_order(), Dropped(NOON, reason, exposed=False))

    assert pb.DropReason.Name(event.dropped.reason) == f"DROP_REASON_{reason.name}"


async def test_a_broker_that_is_away_is_a_reason_to_try_again() -> None:
    with pytest.raises(TryAgain, match="broker") as error:
        await KafkaEvents(RecordingProducer(BrokerAway("x")), FakeClock()).announce(code_order(), HANDED_OVER)

    assert isinstance(error.value.__cause__, BrokerAway)


async def test_an_event_holds_nothing_private() -> None:
    envelope, _ = await told(code_order(), HANDED_OVER)

    assert b"lan@" not in envelope.value + b"".join(value for _, value in envelope.headers())


RECEIPTS = {
    "delivered": (Receipt(Told.DELIVERED, Source.RELAY_LOG, NOON + SECOND, "2.0.0"), pb.SOURCE_RELAY_LOG),
    "bounced": (Receipt(Told.BOUNCED, Source.DSN, NOON + SECOND, "5.1.1"), pb.SOURCE_DSN),
    "deferred": (
        Receipt(Told.DEFERRED, Source.RELAY_LOG, NOON + SECOND, "4.7.1", NOON + 301 * SECOND),
        pb.SOURCE_RELAY_LOG,
    ),
}


@pytest.mark.parametrize(("receipt", "source"), RECEIPTS.values(), ids=RECEIPTS.keys())
async def test_a_receipt_says_who_told_what_and_when(receipt: Receipt, source: int) -> None:
    envelope, event = await told(code_order(), receipt)

    assert (event.owner_id, event.generation, event.source) == ("challenge-1", 1, source)
    assert event.WhichOneof("fate") == receipt.told
    assert getattr(event, receipt.told).status == receipt.status
    assert event.at.ToDatetime(NOON.tzinfo) == receipt.at
    assert event.deferred.HasField("next_try_at") == (receipt.next_try_at is not None)
    assert envelope.id.startswith(f"challenge-1.1.{receipt.source}.{receipt.told}.")


async def test_two_deferrals_have_two_ids_and_a_repeat_has_the_same() -> None:
    first, later = (Receipt(Told.DEFERRED, Source.DSN, NOON + n * SECOND) for n in (1, 2))

    ids = [(await told(code_order(), receipt))[0].id for receipt in (first, later, first)]

    assert ids[0] == ids[2] != ids[1]


async def test_a_deferral_that_does_not_say_until_when_has_no_time() -> None:
    _envelope, event = await told(notice_order(), Receipt(Told.DEFERRED, Source.DSN, NOON))

    assert not event.deferred.HasField("next_try_at")
