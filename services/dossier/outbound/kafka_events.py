"""The road to the mailer, `notice.requested.v1`: address, name and text are sealed, the rest is ids and times.

The event's id is the notice's: a repeat after a crash is sealed anew, but it is the same event and the same letter.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp
from kip.mailer.v1 import notice_events_pb2

from services.chassis.clock import Clock
from services.chassis.events import Envelope
from services.chassis.kafka_client import Trouble
from services.chassis.kafka_producer import BrokerAway, Producer
from services.chassis.keyring import Keyring, UnknownKey
from services.dossier.ports import NotAnnounced, WaitingNotice
from services.dossier.rules.notice import NoticeWish

NOTICE_REQUESTED = "notice.requested.v1"
SEALED_NOTICE = "kip.mailer.v1.SealedNotice"
HALTED_BY = {
    Trouble.BROKER_AWAY: "kafka",
    Trouble.BROKER_UNTRUSTED: "broker_untrusted",
    Trouble.DENIED: "denied",
}
GENERATION = "1"  # a notice has one; it stands in the seal because codes have more


class KafkaEvents:
    """Implements `EventSink`."""

    def __init__(self, producer: Producer, ring: Keyring, clock: Clock, *, within: timedelta) -> None:
        """Seal with the ring seal-notice, which the mailer shares; wait `within` for the acknowledgement."""
        self._producer = producer
        self._ring = ring
        self._clock = clock
        self._within = within

    async def announce(self, waiting: WaitingNotice) -> None:
        """Implements `EventSink`."""
        wish = waiting.wish
        try:
            envelope = Envelope(
                topic=NOTICE_REQUESTED,
                key=wish.notice_id.encode(),
                value=self._event(waiting).SerializeToString(),
                type="kip.mailer.v1.NoticeRequested",
                source="dossier",
                subject=wish.notice_id,
                time=wish.asked_at,
                expires=wish.deadline,
                id=wish.notice_id,
                trace=wish.trace,
            )
            await self._producer.publish(envelope, within=self._within)
        except BrokerAway as error:
            raise NotAnnounced(HALTED_BY[error.trouble]) from error
        except UnknownKey as error:
            raise NotAnnounced("keys") from error

    def _event(self, waiting: WaitingNotice) -> notice_events_pb2.NoticeRequested:
        wish = waiting.wish
        return notice_events_pb2.NoticeRequested(
            notice_id=wish.notice_id,
            letter=wish.letter,
            locale=waiting.addressee.locale,
            asked_at=_timestamp(wish.asked_at),
            deadline=_timestamp(wish.deadline),
            sealed=self._sealed(waiting, wish),
        )

    def _sealed(self, waiting: WaitingNotice, wish: NoticeWish) -> notice_events_pb2.SealedBox:
        plain = notice_events_pb2.SealedNotice(
            email=waiting.addressee.email, name=waiting.addressee.name, parameters=wish.parameters
        )
        about = (SEALED_NOTICE, wish.notice_id, GENERATION)
        seal = self._ring.seal(plain.SerializeToString(), about=about, now=self._clock())
        return notice_events_pb2.SealedBox(kid=seal.kid, nonce=seal.nonce, ciphertext=seal.ciphertext)


def _timestamp(instant: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(instant)
    return stamp
