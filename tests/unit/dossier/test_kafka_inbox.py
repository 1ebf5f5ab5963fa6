from __future__ import annotations

from datetime import timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from kip.mailer.v1 import mail_events_pb2 as pb
from prometheus_client import CollectorRegistry

from services.chassis.record_fate import Poison, Record
from services.dossier.actions.follow import FollowNotice
from services.dossier.actions.open import OpenDossier
from services.dossier.inbound.kafka_inbox import DeliveryInbox
from services.dossier.metrics import DossierMetrics
from services.dossier.ports import ArchiveUnavailable
from services.dossier.rules.notice import Fate, Notice, NoticeId
from tests.fakes.dossier import NOON, CountingBell, Dice, FakeClock, InMemoryArchive, InMemoryCatalogue, filing

HEARD = NOON + timedelta(seconds=5)


class Office:
    """The inbox over the archive's twin, with one dossier whose notice is queued."""

    def __init__(self) -> None:
        self.archive, self.registry = InMemoryArchive(), CollectorRegistry()
        clock = FakeClock(HEARD + timedelta(seconds=2))
        self.inbox = DeliveryInbox(FollowNotice(self.archive), clock, DossierMetrics(self.registry))

    async def queued(self) -> NoticeId:
        verb = OpenDossier(self.archive, InMemoryCatalogue(), FakeClock(), CountingBell(), agency="K01", draw=Dice())
        opened = await verb(filing(), caller="portal", idempotency_key="key", trace={})
        notice = opened.dossier.steps[0].notice
        assert notice is not None
        return notice.id

    def count(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0


def _record(value: bytes) -> Record:
    return Record("mail.delivery.notice.v1", 0, 0, b"", value, {}, HEARD, 1)


def _delivery(owner_id: str, **fate: object) -> pb.MailDelivery:
    at = Timestamp()
    at.FromDatetime(NOON + timedelta(seconds=3))
    return pb.MailDelivery(owner_id=owner_id, generation=1, at=at, **fate)  # type: ignore[arg-type] # the fates are of many types


@pytest.mark.parametrize(
    ("fate", "expected"),
    [
        ({"handed_over": pb.HandedOver(route="a")}, Fate.HANDED_OVER),
        ({"deferred": pb.Deferred(status="4.7.1")}, Fate.DEFERRED),
        ({"delivered": pb.Delivered()}, Fate.DELIVERED),
        ({"bounced": pb.Bounced(status="5.1.1")}, Fate.BOUNCED),
        ({"refused": pb.Refused(reply_code=550)}, Fate.REFUSED),
        ({"dropped": pb.Dropped(reason=pb.DROP_REASON_DEADLINE)}, Fate.DROPPED),
        ({"dropped": pb.Dropped(reason=pb.DROP_REASON_DEAD_LETTERED)}, Fate.DEAD_LETTERED),
    ],
)
async def test_every_fate_is_joined_to_its_step_and_counted(fate: dict[str, object], expected: Fate) -> None:
    office = Office()
    notice_id = await office.queued()

    await office.inbox(_record(_delivery(notice_id, **fate).SerializeToString()))

    assert await office.archive.find_notice(notice_id) == Notice(notice_id, NOON, expected, NOON + timedelta(seconds=3))
    assert office.count("dossier_notices_followed_total", fate=expected.value) == 1
    assert office.count("dossier_delivery_age_seconds_sum") == 2


async def test_what_a_dsn_says_is_known_as_hearsay_and_what_the_relays_log_says_outranks_it() -> None:
    office = Office()
    notice_id = await office.queued()
    at = NOON + timedelta(seconds=3)

    said = _delivery(notice_id, source=pb.SOURCE_DSN, bounced=pb.Bounced())
    await office.inbox(_record(said.SerializeToString()))
    assert await office.archive.find_notice(notice_id) == Notice(notice_id, NOON, Fate.BOUNCED, at, is_hearsay=True)

    known = _delivery(notice_id, source=pb.SOURCE_RELAY_LOG, delivered=pb.Delivered())
    await office.inbox(_record(known.SerializeToString()))
    assert await office.archive.find_notice(notice_id) == Notice(notice_id, NOON, Fate.DELIVERED, at)


async def test_a_repeat_is_counted_as_nothing_new() -> None:
    office = Office()
    record = _record(_delivery(await office.queued(), delivered=pb.Delivered()).SerializeToString())
    await office.inbox(record)

    await office.inbox(record)

    assert office.count("dossier_deliveries_ignored_total", reason="nothing_new") == 1


async def test_news_of_somebody_elses_letter_are_counted_and_ignored() -> None:
    office = Office()

    await office.inbox(_record(_delivery("of-the-portal", bounced=pb.Bounced()).SerializeToString()))

    assert office.count("dossier_deliveries_ignored_total", reason="unknown_owner") == 1


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (b"\xff\xff", "no kip.mailer.v1.MailDelivery"),
        (b"", "owner_id"),
        (_delivery("", delivered=pb.Delivered()).SerializeToString(), "owner_id"),
        (_delivery("x" * 65, delivered=pb.Delivered()).SerializeToString(), "owner_id"),
        (_delivery("n").SerializeToString(), "no fate"),
        (pb.MailDelivery(owner_id="n", delivered=pb.Delivered()).SerializeToString(), "at is missing"),
        (
            pb.MailDelivery(owner_id="n", delivered=pb.Delivered(), at=Timestamp(seconds=10**15)).SerializeToString(),
            "no time of this era",
        ),
    ],
)
async def test_what_can_never_be_read_is_poison(value: bytes, why: str) -> None:
    with pytest.raises(Poison, match=why):
        await Office().inbox(_record(value))


async def test_an_archive_that_is_away_leaves_the_record_to_be_tried_again() -> None:
    office = Office()
    office.archive.away = True

    with pytest.raises(ArchiveUnavailable):
        await office.inbox(_record(_delivery("n", delivered=pb.Delivered()).SerializeToString()))

    assert office.count("dossier_delivery_age_seconds_count") == 0
