"""What became of a letter, told to its owner on the topic of its lane."""

from __future__ import annotations

from datetime import datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp
from kip.mailer.v1 import mail_events_pb2

from services.chassis.clock import Clock
from services.chassis.events import Envelope, current_trace
from services.chassis.kafka_producer import BrokerAway, Producer
from services.mailer.ports import Letter, TryAgain
from services.mailer.rules.letter import Lane
from services.mailer.rules.outcome import Deferred, Dropped, DropReason, HandedOver, Outcome, Refused
from services.mailer.rules.receipt import Receipt, Source, Told

MAIL_DELIVERY = {Lane.OTP: "mail.delivery.otp.v1", Lane.NOTICE: "mail.delivery.notice.v1"}
DROP_REASONS = {
    DropReason.DEADLINE: mail_events_pb2.DROP_REASON_DEADLINE,
    DropReason.WITHDRAWN: mail_events_pb2.DROP_REASON_WITHDRAWN,
    DropReason.DEAD_LETTERED: mail_events_pb2.DROP_REASON_DEAD_LETTERED,
}
SOURCES = {Source.RELAY_LOG: mail_events_pb2.SOURCE_RELAY_LOG, Source.DSN: mail_events_pb2.SOURCE_DSN}
PUBLISH_WITHIN = timedelta(seconds=10)


class KafkaEvents:
    """Implements `EventSink`."""

    def __init__(self, producer: Producer, clock: Clock) -> None:
        """Publish through the lane's producer."""
        self._producer = producer
        self._clock = clock

    async def announce(self, letter: Letter, news: Outcome | Deferred | Receipt) -> None:
        """Implements `EventSink`."""
        event = _event(letter, news)
        event.published_at.FromDatetime(self._clock())
        envelope = Envelope(
            topic=MAIL_DELIVERY[letter.lane],
            key=letter.owner_id.encode(),
            value=event.SerializeToString(),
            type="kip.mailer.v1.MailDelivery",
            source="mailer",
            subject=letter.owner_id,
            time=news.at,
            id=_id(letter, news),
            trace=current_trace(),
        )
        try:
            await self._producer.publish(envelope, within=PUBLISH_WITHIN)
        except BrokerAway as error:
            raise TryAgain("the broker does not take the delivery event") from error


def _id(letter: Letter, news: Outcome | Deferred | Receipt) -> str:
    """Return the same for a repeat: of outcomes each letter has one, of deferrals one an attempt, of receipts many.

    A dead letter that was put back may still be dropped late, so that it died is told by a word of its own.
    """
    match news:
        case Deferred():
            return f"{letter.id}.Deferred.{news.attempt}"
        case Dropped(reason=DropReason.DEAD_LETTERED):
            return f"{letter.id}.DeadLettered"
        case Receipt():
            return f"{letter.id}.{news.key.replace(' ', '.')}"
    return f"{letter.id}.{type(news).__name__}"


def _event(letter: Letter, news: Outcome | Deferred | Receipt) -> mail_events_pb2.MailDelivery:
    event = mail_events_pb2.MailDelivery(
        owner_id=letter.owner_id,
        generation=letter.generation,
        at=_timestamp(news.at),
        source=SOURCES[news.source] if isinstance(news, Receipt) else mail_events_pb2.SOURCE_SMTP_REPLY,
    )
    match news:
        case HandedOver():
            event.handed_over.CopyFrom(
                mail_events_pb2.HandedOver(
                    body_started_at=_timestamp(news.body_started_at),
                    route=news.route,
                    relay_id=news.relay_id,
                    uncertain=news.uncertain,
                )
            )
        case Refused():
            refused = mail_events_pb2.Refused(reply_code=news.reply_code, status=news.status, exposed=news.exposed)
            event.refused.CopyFrom(refused)
        case Dropped():
            event.dropped.CopyFrom(mail_events_pb2.Dropped(reason=DROP_REASONS[news.reason], exposed=news.exposed))
        case Deferred():
            deferred = mail_events_pb2.Deferred(next_try_at=_timestamp(news.next_try_at), status=news.status)
            event.deferred.CopyFrom(deferred)
        case Receipt():
            _tell(event, news)
    return event


def _tell(event: mail_events_pb2.MailDelivery, receipt: Receipt) -> None:
    match receipt.told:
        case Told.DELIVERED:
            event.delivered.CopyFrom(mail_events_pb2.Delivered(status=receipt.status))
        case Told.BOUNCED:
            event.bounced.CopyFrom(mail_events_pb2.Bounced(status=receipt.status))
        case Told.DEFERRED:
            event.deferred.CopyFrom(mail_events_pb2.Deferred(status=receipt.status))
            if receipt.next_try_at is not None:
                event.deferred.next_try_at.CopyFrom(_timestamp(receipt.next_try_at))


def _timestamp(instant: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(instant)
    return stamp
