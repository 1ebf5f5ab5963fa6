"""What became of a letter, told to its owner on the topic of its lane."""

from __future__ import annotations

from datetime import datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp
from kip.mailer.v1 import mail_events_pb2

from services.chassis.clock import Clock
from services.chassis.events import Envelope, current_trace
from services.chassis.kafka_producer import BrokerAway, Producer
from services.mailer.ports import TryAgain
from services.mailer.rules.letter import Lane, Order
from services.mailer.rules.outcome import Deferred, Dropped, DropReason, HandedOver, Outcome, Refused

MAIL_DELIVERY = {Lane.OTP: "mail.delivery.otp.v1", Lane.NOTICE: "mail.delivery.notice.v1"}
DROP_REASONS = {
    DropReason.DEADLINE: mail_events_pb2.DROP_REASON_DEADLINE,
    DropReason.WITHDRAWN: mail_events_pb2.DROP_REASON_WITHDRAWN,
}
PUBLISH_WITHIN = timedelta(seconds=10)


class KafkaEvents:
    """Implements `EventSink`."""

    def __init__(self, producer: Producer, clock: Clock) -> None:
        """Publish through the lane's producer."""
        self._producer = producer
        self._clock = clock

    async def announce(self, order: Order, news: Outcome | Deferred) -> None:
        """Implements `EventSink`."""
        event = _event(order, news)
        event.published_at.FromDatetime(self._clock())
        envelope = Envelope(
            topic=MAIL_DELIVERY[order.lane],
            key=order.owner_id.encode(),
            value=event.SerializeToString(),
            type="kip.mailer.v1.MailDelivery",
            source="mailer",
            subject=order.owner_id,
            time=news.at,
            id=_id(order, news),
            trace=current_trace(),
        )
        try:
            await self._producer.publish(envelope, within=PUBLISH_WITHIN)
        except BrokerAway as error:
            raise TryAgain("the broker does not take the delivery event") from error


def _id(order: Order, news: Outcome | Deferred) -> str:
    """Return the same for a repeat: of outcomes each letter has one, of deferrals one for each attempt."""
    told = f"{order.id}.{type(news).__name__}"
    return f"{told}.{news.attempt}" if isinstance(news, Deferred) else told


def _event(order: Order, news: Outcome | Deferred) -> mail_events_pb2.MailDelivery:
    event = mail_events_pb2.MailDelivery(
        owner_id=order.owner_id,
        generation=order.generation,
        at=_timestamp(news.at),
        source=mail_events_pb2.SOURCE_SMTP_REPLY,
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
    return event


def _timestamp(instant: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(instant)
    return stamp
