from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta

import pytest

from services.chassis.clock import Clock
from services.dossier.actions.advance import AdvanceDossier
from services.dossier.actions.forget import ForgetClaims
from services.dossier.actions.open import OpenDossier
from services.dossier.actions.sweep import ANNOUNCE_WITHIN, BATCH, BATCH_WITHIN, LEASE, SweepOutbox, Swept
from services.dossier.ports import ArchiveUnavailable, Backlog, WaitingNotice
from services.dossier.rules.dossier import Dossier, Order
from services.dossier.rules.notice import NoticeId
from services.dossier.rules.procedure import State
from tests.fakes.dossier import (
    NOON,
    CountingBell,
    Dice,
    FakeClock,
    InMemoryArchive,
    InMemoryCatalogue,
    InMemoryEvents,
    filing,
)

TO_AND_FRO = (State.PAPERS_NEEDED, State.IN_PROGRESS)


class WatchedArchive(InMemoryArchive):
    """Counts what each holding of a bucket announced."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.batches: list[int] = []

    async def settle(self, bucket: int, holder: str, announced: Sequence[NoticeId]) -> None:
        self.batches.append(len(announced))
        await super().settle(bucket, holder, announced)


class SlowEvents(InMemoryEvents):
    """Lets a test do something before each announcement."""

    def __init__(self) -> None:
        super().__init__()
        self.before: Callable[[], None] = lambda: None

    async def announce(self, waiting: WaitingNotice) -> None:
        self.before()
        await super().announce(waiting)


class Office:
    """Opens and moves dossiers, so that the outbox has something to announce."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.archive, self.events = WatchedArchive(self.clock), SlowEvents()
        self.seconds = 0.0
        catalogue = InMemoryCatalogue()
        self._open = OpenDossier(self.archive, catalogue, self.clock, CountingBell(), agency="K01", draw=Dice())
        self._advance = AdvanceDossier(self.archive, catalogue, self.clock, CountingBell())

    def sweep(self, holder: str = "one") -> SweepOutbox:
        return SweepOutbox(self.archive, self.events, holder=holder, seconds=lambda: self.seconds)

    async def open(self, key: str = "key") -> Dossier:
        return (await self._open(filing(), caller="portal", idempotency_key=key, trace={})).dossier

    def pass_seconds(self, seconds: float) -> None:
        self.seconds += seconds

    async def walk(self, dossier: Dossier, *, back_and_forth: int = 1) -> list[NoticeId]:
        """Move a dossier through its procedure; return all its notices by rising version."""
        for to in (State.ACCEPTED, State.IN_PROGRESS, *TO_AND_FRO * back_and_forth, State.DONE):
            dossier = (await self._advance(Order(dossier.id, dossier.version, to, "", "portal"))).dossier
        return [step.notice.id for step in dossier.steps if step.notice is not None]


async def test_everything_that_waits_is_announced_and_deleted() -> None:
    office = Office()
    for number in range(200):
        await office.open(str(number))

    swept = await office.sweep()()

    assert swept == Swept(200, Backlog(0, None), None, more=False)
    assert len(set(office.events.notice_ids)) == 200


async def test_an_empty_outbox_is_no_work() -> None:
    assert await Office().sweep()() == Swept(0, Backlog(0, None), None, more=False)


async def test_the_versions_of_a_dossier_go_out_in_order() -> None:
    office = Office()
    walked = [await office.walk(await office.open(str(number))) for number in range(20)]

    await office.sweep()()

    for notices in walked:
        assert [notice_id for notice_id in office.events.notice_ids if notice_id in notices] == notices


async def test_when_kafka_is_away_everything_stays_and_the_pass_says_why() -> None:
    office = Office()
    await office.open("one")
    await office.open("two")
    office.events.fails = "kafka"

    swept = await office.sweep()()

    assert swept == Swept(0, Backlog(2, NOON), "kafka", more=False)


async def test_when_kafka_comes_back_everything_goes_out_in_order() -> None:
    office = Office()
    notices = await office.walk(await office.open())
    office.events.fails = "kafka"
    sweep = office.sweep()
    await sweep()
    office.events.fails = None

    swept = await sweep()

    assert swept.announced == len(notices)
    assert office.events.notice_ids == notices


async def test_a_failure_in_the_middle_keeps_what_comes_after_it() -> None:
    office = Office()
    notices = await office.walk(await office.open())
    office.events.fails_for = {notices[2]: "kafka"}
    sweep = office.sweep()
    swept = await sweep()
    office.events.fails_for = {}

    again = await sweep()

    assert (swept.announced, swept.halted_by, again.announced) == (2, "kafka", len(notices) - 2)
    assert office.events.notice_ids == notices


async def test_no_later_version_is_announced_while_an_earlier_one_waits() -> None:
    office = Office()
    notices = await office.walk(await office.open())
    office.events.fails_for = {notices[0]: "kafka"}

    await office.sweep()()

    assert office.events.notice_ids == []


async def test_after_a_failure_the_buckets_are_free_for_others() -> None:
    office = Office()
    await office.open()
    office.events.fails = "keys"
    await office.sweep("one")()
    office.events.fails = None

    swept = await office.sweep("two")()

    assert swept.announced == 1


async def test_a_crash_before_deletion_announces_the_same_notice_again() -> None:
    office = Office()
    await office.open()
    bucket = await office.archive.claim_bucket("killed", LEASE)
    assert bucket is not None
    (waiting,) = await office.archive.waiting(bucket, 1)
    await office.events.announce(waiting)
    office.clock.pass_by(LEASE)

    await office.sweep()()

    assert office.events.notice_ids == [waiting.wish.notice_id] * 2


async def test_a_bucket_that_another_process_holds_is_left_alone() -> None:
    office = Office()
    await office.open()
    await office.archive.claim_bucket("other", LEASE)

    swept = await office.sweep()()

    assert swept == Swept(0, Backlog(1, NOON), None, more=False)


async def test_a_long_bucket_lets_others_have_their_turn() -> None:
    office = Office()
    long, short = await office.open("long"), await office.open("short")
    notices = await office.walk(long, back_and_forth=BATCH)

    swept = await office.sweep()()

    assert short.steps[0].notice is not None
    announced = office.events.notice_ids
    assert swept.announced == len(notices) + 1
    assert announced.index(short.steps[0].notice.id) <= BATCH
    assert [notice_id for notice_id in announced if notice_id in set(notices)] == notices


async def test_a_pass_that_takes_long_tells_how_far_it_is() -> None:
    office = Office()
    for number in range(200):
        await office.open(str(number))
    office.events.before = lambda: office.pass_seconds(0.1)

    swept = await office.sweep()()

    assert swept.more
    assert 10 <= swept.announced < 100
    assert swept.backlog.notices == 200 - swept.announced


async def test_nothing_is_begun_that_could_outlive_the_lease() -> None:
    office = Office()
    notices = await office.walk(await office.open())
    office.events.before = lambda: office.pass_seconds(3)
    sweep = office.sweep()

    passes = [await sweep() for _ in range(4)]

    assert office.archive.batches == [2, 2, 1]
    assert [swept.more for swept in passes] == [True, True, True, False]
    assert office.events.notice_ids == notices
    assert BATCH_WITHIN + ANNOUNCE_WITHIN < LEASE


async def test_an_archive_that_is_away_is_told() -> None:
    office = Office()
    office.archive.away = True

    with pytest.raises(ArchiveUnavailable):
        await office.sweep()()


async def test_claims_are_forgotten_when_their_day_is_over() -> None:
    office = Office()
    await office.open("one")
    office.clock.pass_by(timedelta(hours=23))
    await office.open("two")
    forget = ForgetClaims(office.archive, office.clock)
    too_early = await forget()
    office.clock.pass_by(timedelta(hours=1))

    forgotten = await forget()

    assert (too_early, forgotten) == (0, 1)
