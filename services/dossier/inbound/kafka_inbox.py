"""How letters fared: `mail.delivery.notice.v1` → `follow`.

The record is acknowledged when the merge is durable. What cannot be read is a dead letter; an archive that is away
makes the inbox wait in place. The topic also tells of letters that other callers of the mailer asked for; those are
none of ours and only counted.
"""

from __future__ import annotations

from datetime import UTC, datetime

from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from kip.mailer.v1 import mail_events_pb2 as pb

from services.chassis.clock import Clock
from services.chassis.record_fate import Poison, Record
from services.dossier.actions.follow import Followed, FollowNotice
from services.dossier.metrics import DossierMetrics
from services.dossier.rules.notice import Fate, News, NoticeId

MAIL_DELIVERY = "mail.delivery.notice.v1"
GROUP = "dossier"
LONGEST_OWNER = 64  # characters, by the contract


class DeliveryInbox:
    """Handles one record at a time; bears repeats."""

    def __init__(self, follow: FollowNotice, clock: Clock, metrics: DossierMetrics) -> None:
        self._follow = follow
        self._clock = clock
        self._metrics = metrics

    async def __call__(self, record: Record) -> None:
        """Take in one delivery event.

        Raises:
            Poison: it can never be read.
            ArchiveUnavailable: it was not taken in; try again.
        """
        notice_id, news = _read(record)
        followed = await self._follow(notice_id, news)
        self._metrics.delivery_age.observe(max(0.0, (self._clock() - record.timestamp).total_seconds()))
        if followed is Followed.MERGED:
            self._metrics.followed.labels(news.fate.value).inc()
        else:
            self._metrics.ignored.labels(followed.name.lower()).inc()


def _read(record: Record) -> tuple[NoticeId, News]:
    try:
        delivery = pb.MailDelivery.FromString(record.value)
    except DecodeError as error:
        raise Poison("the value is no kip.mailer.v1.MailDelivery") from error
    if not 1 <= len(delivery.owner_id) <= LONGEST_OWNER:
        raise Poison("owner_id is empty or too long")
    if not delivery.HasField("at"):
        raise Poison("at is missing")
    is_hearsay = delivery.source == pb.SOURCE_DSN
    return NoticeId(delivery.owner_id), News(_fate(delivery), _instant(delivery.at), record.timestamp, is_hearsay)


def _fate(delivery: pb.MailDelivery) -> Fate:
    told = delivery.WhichOneof("fate")
    if told is None:
        raise Poison("no fate is set, or one that this version does not know")
    if told == "dropped" and delivery.dropped.reason == pb.DROP_REASON_DEAD_LETTERED:
        return Fate.DEAD_LETTERED
    return Fate(told)


def _instant(stamp: Timestamp) -> datetime:
    try:
        return stamp.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise Poison("at is no time of this era") from error
