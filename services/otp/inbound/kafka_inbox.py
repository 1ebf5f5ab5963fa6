"""`mail.delivery.otp.v1` → follow: what the mailer says about letters with codes."""

from __future__ import annotations

from datetime import UTC, datetime

from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from kip.mailer.v1 import mail_events_pb2

from services.chassis.record_fate import Poison, Record
from services.chassis.telemetry import exemplar
from services.otp.actions.follow import FollowDelivery, Unfollowed
from services.otp.metrics import OtpMetrics
from services.otp.ports import Queue
from services.otp.rules.generation import Delivery, Fate

MAIL_DELIVERY = "mail.delivery.otp.v1"
DELIVERY_PARTITIONS = 6
GROUP = "otp"
# The mailer itself defers a letter that it has still got, unlike a relay that took it. So no hand-over is older, by
# whatever clock and in whatever order they come; the merge makes it the time at which the letter was made.
BEFORE_ANY_HAND_OVER = datetime(1970, 1, 1, tzinfo=UTC)


class DeliveryInbox:
    """Decodes delivery events and follows them."""

    def __init__(self, follow: FollowDelivery, queue: Queue, metrics: OtpMetrics) -> None:
        """Hand each event to `follow`, and each hand-over to the `queue`."""
        self._follow = follow
        self._queue = queue
        self._metrics = metrics

    async def __call__(self, record: Record) -> None:
        """Handle one record.

        Raises:
            Poison: no delivery event.
        """
        try:
            event = mail_events_pb2.MailDelivery.FromString(record.value)
            delivery = _delivery(event)
        except (DecodeError, ValueError) as error:
            raise Poison(f"not a kip.mailer.v1.MailDelivery: {error}") from error
        merged = await self._follow(event.owner_id, event.generation, delivery)
        if merged is Unfollowed.UNKNOWN:
            self._metrics.deliveries.labels("unknown").inc()
        elif not isinstance(merged, Unfollowed):
            self._metrics.deliveries.labels(delivery.fate.value).inc()
            if delivery.fate is Fate.HANDED_OVER:
                self._queue.handed_over(delivery.at)
                letter = next(each for each in merged.generations if each.number == event.generation)
                wait = (letter.handed_over_at or delivery.at) - letter.made_at
                self._metrics.hand_over_wait.observe(wait.total_seconds(), exemplar())


def _delivery(event: mail_events_pb2.MailDelivery) -> Delivery:
    at, is_hearsay = _instant(event.at), event.source == mail_events_pb2.SOURCE_DSN
    match event.WhichOneof("fate"):
        case "handed_over":
            began = event.handed_over.body_started_at
            return Delivery(Fate.HANDED_OVER, at, body_started_at=_instant(began) if began.seconds else None)
        case "refused":
            return Delivery(Fate.REFUSED, at, exposed=event.refused.exposed)
        case "dropped":
            return Delivery(Fate.DROPPED, at, exposed=event.dropped.exposed)
        case "deferred" if event.source == mail_events_pb2.SOURCE_SMTP_REPLY:
            return Delivery(Fate.DEFERRED, BEFORE_ANY_HAND_OVER)
        case "deferred":
            has_next = event.deferred.HasField("next_try_at")
            next_try_at = _instant(event.deferred.next_try_at) if has_next else None
            return Delivery(Fate.DEFERRED, at, next_try_at=next_try_at, is_hearsay=is_hearsay)
        case None:
            raise Poison("a delivery event without a fate: its writer is newer than this reader, or broken")
        case fate:
            return Delivery(Fate(fate), at, is_hearsay=is_hearsay)


def _instant(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(tzinfo=UTC)
