from __future__ import annotations

from datetime import timedelta

import pytest
from kip.mailer.v1 import notice_events_pb2 as pb

from services.chassis.events import Envelope
from services.chassis.kafka_client import Trouble
from services.chassis.kafka_producer import BrokerAway, Producer, RecordPosition
from services.chassis.keyring import Key, Keyring, Seal, SealBroken
from services.dossier.metrics import HALTS
from services.dossier.outbound.kafka_events import KafkaEvents
from services.dossier.ports import NotAnnounced, WaitingNotice
from services.dossier.rules.notice import Addressee, NoticeId, NoticeWish
from tests.fakes.dossier import NOON, FakeClock

RING = Keyring([Key("2026-11", b"k" * 32, not_before=NOON - timedelta(days=1), until=NOON + timedelta(days=1))])
WITHIN = timedelta(seconds=4)
WAITING = WaitingNotice(
    NoticeWish(
        NoticeId("6f6e1f4e-4c3b-5b8e-9d0a-0c4b5f0f7d11"),
        "dossier-opened",
        {"dossier_number": "K01-261125-7F3K2M", "remark": "Chào chị Lan"},
        NOON,
        {"traceparent": "00-1-2-01"},
    ),
    Addressee("lan@example.vn", "Nguyễn Thị Lan", "vi"),
)


class RecordingProducer(Producer):
    """Keeps what it is given instead of sending it."""

    def __init__(self, error: Exception | None = None) -> None:
        self.published: list[Envelope] = []
        self._error = error

    async def publish(self, envelope: Envelope, *, within: timedelta) -> RecordPosition:
        assert within == WITHIN
        if self._error is not None:
            raise self._error
        self.published.append(envelope)
        return RecordPosition(0, len(self.published) - 1)


async def _published(waiting: WaitingNotice = WAITING) -> Envelope:
    producer = RecordingProducer()
    await KafkaEvents(producer, RING, FakeClock(), within=WITHIN).announce(waiting)
    (envelope,) = producer.published
    return envelope


async def test_the_envelope_says_which_notice_until_when_and_for_which_call() -> None:
    envelope = await _published()

    assert envelope.topic == "notice.requested.v1"
    assert envelope.key == WAITING.wish.notice_id.encode()
    assert envelope.type == "kip.mailer.v1.NoticeRequested"
    assert (envelope.source, envelope.subject, envelope.id) == ("dossier", *[WAITING.wish.notice_id] * 2)
    assert (envelope.time, envelope.expires) == (NOON, NOON + timedelta(hours=48))
    assert envelope.trace == {"traceparent": "00-1-2-01"}


async def test_the_event_names_letter_language_and_deadline() -> None:
    event = pb.NoticeRequested.FromString((await _published()).value)

    assert (event.notice_id, event.letter, event.locale) == (WAITING.wish.notice_id, "dossier-opened", "vi")
    assert event.asked_at.ToDatetime() == NOON.replace(tzinfo=None)
    assert event.deadline.ToDatetime() == (NOON + timedelta(hours=48)).replace(tzinfo=None)


async def test_address_name_and_text_open_with_the_ring_and_the_notices_id() -> None:
    event = pb.NoticeRequested.FromString((await _published()).value)

    seal = Seal(event.sealed.kid, event.sealed.nonce, event.sealed.ciphertext)
    plain = pb.SealedNotice.FromString(
        RING.open(seal, about=("kip.mailer.v1.SealedNotice", WAITING.wish.notice_id, "1"))
    )
    assert (plain.email, plain.name) == ("lan@example.vn", "Nguyễn Thị Lan")
    assert dict(plain.parameters) == WAITING.wish.parameters


async def test_the_seal_does_not_open_for_another_notice() -> None:
    event = pb.NoticeRequested.FromString((await _published()).value)
    seal = Seal(event.sealed.kid, event.sealed.nonce, event.sealed.ciphertext)

    with pytest.raises(SealBroken):
        RING.open(seal, about=("kip.mailer.v1.SealedNotice", "another", "1"))


async def test_nothing_personal_is_in_clear() -> None:
    envelope = await _published()

    octets = envelope.value + b"".join(value for _, value in envelope.headers())
    for secret in ("lan@example.vn", "Nguyễn", "Lan", "K01-261125-7F3K2M"):
        assert secret.encode() not in octets


async def test_a_repeat_is_the_same_event_under_a_new_nonce() -> None:
    first, again = await _published(), await _published()

    assert (first.id, first.key) == (again.id, again.key)
    nonces = {pb.NoticeRequested.FromString(one.value).sealed.nonce for one in (first, again)}
    assert len(nonces) == 2


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        (Trouble.BROKER_AWAY, "kafka"),
        (Trouble.DENIED, "denied"),
        (Trouble.BROKER_UNTRUSTED, "broker_untrusted"),
    ],
)
async def test_a_broker_that_is_away_or_refuses_is_told(trouble: Trouble, reason: str) -> None:
    events = KafkaEvents(RecordingProducer(BrokerAway("away", trouble)), RING, FakeClock(), within=WITHIN)

    with pytest.raises(NotAnnounced) as failure:
        await events.announce(WAITING)

    assert failure.value.reason == reason
    assert reason in HALTS


async def test_without_a_key_that_may_seal_nothing_is_sent() -> None:
    producer = RecordingProducer()
    events = KafkaEvents(producer, RING, FakeClock(NOON + timedelta(days=2)), within=WITHIN)

    with pytest.raises(NotAnnounced) as failure:
        await events.announce(WAITING)

    assert failure.value.reason == "keys"
    assert producer.published == []
