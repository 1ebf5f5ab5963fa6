"""What `Archive` and `Outbox` promise, asked of the twin in memory, of SQLite and of PostgreSQL."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import NullPool, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

from services.dossier.outbound.sql_archive import SqlArchive
from services.dossier.outbound.sql_database import open_database
from services.dossier.outbound.sql_migrations import migrate
from services.dossier.outbound.sql_outbox import SqlOutbox
from services.dossier.ports import Archive, Backlog, KeyTaken, NumberTaken, Outbox, Stored, UnknownDossier
from services.dossier.rules.claim import Claim, claim_of
from services.dossier.rules.dossier import Dossier, DossierId, Move, Opening, Order, bucket_of, move_of, opening_of
from services.dossier.rules.notice import Addressee, Fate, Notice, NoticeId
from services.dossier.rules.procedure import State
from tests.conditions import eventually
from tests.fakes.dossier import BOOK, NOON, QUIET, InMemoryArchive, filing

SECOND = timedelta(seconds=1)
LEASE = timedelta(minutes=1)


@dataclass(frozen=True)
class Store:
    """Both views of one store."""

    archive: Archive
    outbox: Outbox


async def own_database(url: str) -> str:
    """Make a database for one test; return its URL."""
    name = f"archive_{uuid.uuid4().hex}"
    server = create_async_engine(
        make_url(url).set(drivername="postgresql+asyncpg"), isolation_level="AUTOCOMMIT", poolclass=NullPool
    )
    async with server.connect() as connection:
        await connection.execute(text(f"CREATE DATABASE {name}"))
    return make_url(url).set(drivername="postgresql", database=name).render_as_string(hide_password=False)


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    if request.param == "memory":
        twin = InMemoryArchive()
        yield Store(twin, twin)
        return
    url = f"sqlite:///{tmp_path}/archive.db"
    if request.param == "postgresql":
        url = await own_database(request.getfixturevalue("postgresql_url"))
    database = open_database(url)
    await migrate(database)
    yield Store(SqlArchive(database), SqlOutbox(database))
    await database.close()


def _opening(dossier_id: str | None = None, *, number: str = "", procedure: str = "book") -> Opening:
    dossier_id = dossier_id or str(uuid.uuid4())
    return opening_of(
        filing(procedure),
        QUIET if procedure == "quiet" else BOOK,
        dossier_id=DossierId(dossier_id),
        number=number or f"K01-261125-{dossier_id[:8]}",
        by="portal",
        now=NOON,
        trace={"traceparent": "00-1-2-01"},
    )


def _claim(key: str = "", body: str = "body") -> Claim:
    return claim_of("portal", key or str(uuid.uuid4()), (body,), NOON)


def _move(dossier: Dossier, to: State, *, remark: str = "") -> Move:
    order = Order(dossier.id, dossier.version, to, remark, "portal")
    return move_of(dossier, order, BOOK, NOON + dossier.version * SECOND)


def _in_one_bucket(count: int) -> list[str]:
    """Return dossier ids that share a bucket."""
    found: list[str] = []
    while len(found) < count:
        candidate = str(uuid.uuid4())
        if not found or bucket_of(DossierId(candidate)) == bucket_of(DossierId(found[0])):
            found.append(candidate)
    return found


def _in_other_buckets(count: int) -> list[str]:
    """Return dossier ids that share no bucket."""
    found: dict[int, str] = {}
    while len(found) < count:
        candidate = str(uuid.uuid4())
        found.setdefault(bucket_of(DossierId(candidate)), candidate)
    return list(found.values())


def _notice(dossier: Dossier) -> Notice:
    notice = dossier.steps[-1].notice
    assert notice is not None
    return notice


class ArchiveContract:
    """Obligations of `Archive`."""

    async def test_what_was_opened_is_read_back_whole(self, store: Store) -> None:
        opening = _opening()

        outcome = await store.archive.open(opening, _claim())

        assert outcome == Stored()
        assert await store.archive.dossier(opening.dossier.id) == opening.dossier

    async def test_an_unknown_dossier_is_refused(self, store: Store) -> None:
        with pytest.raises(UnknownDossier):
            await store.archive.dossier(DossierId(str(uuid.uuid4())))

    async def test_a_number_belongs_to_one_dossier(self, store: Store) -> None:
        await store.archive.open(_opening(number="K01-261125-AAAAAA"), _claim())
        second = _opening(number="K01-261125-AAAAAA")

        outcome = await store.archive.open(second, _claim("second"))

        assert outcome == NumberTaken()
        with pytest.raises(UnknownDossier):
            await store.archive.dossier(second.dossier.id)
        assert await store.archive.open(_opening(), _claim("second")) == Stored()  # the claim was not kept either

    async def test_a_key_belongs_to_one_request_and_names_its_dossier(self, store: Store) -> None:
        first = _opening()
        await store.archive.open(first, _claim("key"))

        outcome = await store.archive.open(_opening(), _claim("key", "other body"))

        assert outcome == KeyTaken(first.dossier.id, _claim("key").fingerprint)
        assert (await store.outbox.backlog()).notices == 1

    async def test_a_key_is_free_again_after_its_day(self, store: Store) -> None:
        claim = _claim("key")
        await store.archive.open(_opening(), replace(claim, expires_at=NOON))

        outcome = await store.archive.open(_opening(), claim)

        assert outcome == Stored()

    async def test_of_two_openings_with_one_key_at_once_one_is_stored(self, store: Store) -> None:
        openings = [_opening() for _ in range(8)]

        outcomes = await asyncio.gather(*(store.archive.open(opening, _claim("key")) for opening in openings))

        stored = [opening for opening, outcome in zip(openings, outcomes, strict=True) if outcome == Stored()]
        assert len(stored) == 1
        assert outcomes.count(KeyTaken(stored[0].dossier.id, _claim("key").fingerprint)) == 7
        assert (await store.outbox.backlog()).notices == 1

    async def test_of_two_openings_with_one_number_at_once_one_is_stored(self, store: Store) -> None:
        openings = [_opening(number="K01-261125-BBBBBB") for _ in range(8)]

        outcomes = await asyncio.gather(*(store.archive.open(opening, _claim()) for opening in openings))

        assert outcomes.count(Stored()) == 1
        assert outcomes.count(NumberTaken()) == 7

    async def test_a_move_adds_a_step_with_its_words(self, store: Store) -> None:
        opening = _opening()
        await store.archive.open(opening, _claim())
        move = _move(opening.dossier, State.ACCEPTED, remark="Đã nhận đủ.\nHẹn 3/12")

        done = await store.archive.move(move)

        assert done
        assert (await store.archive.dossier(opening.dossier.id)).steps == (*opening.dossier.steps, move.step)

    async def test_a_move_from_an_old_version_changes_nothing(self, store: Store) -> None:
        opening = _opening()
        await store.archive.open(opening, _claim())
        await store.archive.move(_move(opening.dossier, State.ACCEPTED))

        done = await store.archive.move(_move(opening.dossier, State.REJECTED))

        assert not done
        assert (await store.archive.dossier(opening.dossier.id)).state is State.ACCEPTED
        assert (await store.outbox.backlog()).notices == 2

    async def test_a_move_of_an_unknown_dossier_changes_nothing(self, store: Store) -> None:
        assert not await store.archive.move(_move(_opening().dossier, State.ACCEPTED))

    async def test_of_many_moves_at_once_one_is_made(self, store: Store) -> None:
        opening = _opening()
        await store.archive.open(opening, _claim())

        done = await asyncio.gather(
            *(store.archive.move(_move(opening.dossier, State.ACCEPTED, remark=f"{n}")) for n in range(8))
        )

        assert done.count(True) == 1
        assert (await store.archive.dossier(opening.dossier.id)).version == 2

    async def test_a_notice_is_found_by_its_id(self, store: Store) -> None:
        opening = _opening()
        await store.archive.open(opening, _claim())
        notice = _notice(opening.dossier)

        found = await store.archive.find_notice(notice.id)

        assert found == notice

    async def test_a_notice_of_somebody_else_is_not_found(self, store: Store) -> None:
        assert await store.archive.find_notice(NoticeId("no-uuid-of-ours")) is None

    async def test_a_new_fate_is_read_back_with_the_dossier(self, store: Store) -> None:
        opening = _opening()
        await store.archive.open(opening, _claim())
        queued = _notice(opening.dossier)
        delivered = replace(queued, fate=Fate.DELIVERED, at=NOON + timedelta(microseconds=1))

        done = await store.archive.replace_notice(queued, delivered)

        assert done
        assert _notice(await store.archive.dossier(opening.dossier.id)) == delivered

    async def test_a_fate_that_has_changed_meanwhile_is_not_overwritten(self, store: Store) -> None:
        opening = _opening()
        await store.archive.open(opening, _claim())
        queued = _notice(opening.dossier)
        delivered = replace(queued, fate=Fate.DELIVERED)
        await store.archive.replace_notice(queued, delivered)

        done = await store.archive.replace_notice(queued, replace(queued, fate=Fate.DEFERRED))

        assert not done
        assert await store.archive.find_notice(queued.id) == delivered

    async def test_hearsay_is_kept_as_such_until_who_is_trusted_says_the_same(self, store: Store) -> None:
        opening = _opening()
        await store.archive.open(opening, _claim())
        queued = _notice(opening.dossier)
        said = replace(queued, fate=Fate.DELIVERED, is_hearsay=True)
        await store.archive.replace_notice(queued, said)
        assert _notice(await store.archive.dossier(opening.dossier.id)) == said
        trusted = replace(said, is_hearsay=False)

        assert await store.archive.replace_notice(said, trusted)

        assert await store.archive.find_notice(queued.id) == trusted
        assert not await store.archive.replace_notice(said, replace(said, fate=Fate.BOUNCED))

    async def test_claims_are_forgotten_after_their_day_and_not_before(self, store: Store) -> None:
        early, late = _claim("early"), replace(_claim("late"), expires_at=NOON + timedelta(days=2))
        await store.archive.open(_opening(), early)
        await store.archive.open(_opening(), late)

        forgotten = await store.archive.forget_claims(early.expires_at)

        assert forgotten == 1
        assert isinstance(await store.archive.open(_opening(), late), KeyTaken)
        assert await store.archive.open(_opening(), early) == Stored()


class OutboxContract:
    """Obligations of `Outbox`."""

    async def test_an_empty_outbox_has_no_bucket_to_claim(self, store: Store) -> None:
        assert await store.outbox.claim_bucket("one", LEASE) is None
        assert await store.outbox.backlog() == Backlog(0, None)

    async def test_a_wish_is_stored_with_its_step_and_comes_out_as_it_went_in(self, store: Store) -> None:
        opening = _opening()
        await store.archive.open(opening, _claim())

        bucket = await store.outbox.claim_bucket("one", LEASE)

        assert bucket == bucket_of(opening.dossier.id)
        (waiting,) = await store.outbox.waiting(bucket, 10)
        assert waiting.wish == opening.wish
        assert waiting.addressee == Addressee("lan@example.vn", "Nguyễn Thị Lan", "vi")
        assert await store.outbox.backlog() == Backlog(1, NOON)

    async def test_a_silent_step_stores_no_wish(self, store: Store) -> None:
        await store.archive.open(_opening(procedure="quiet"), _claim())

        assert await store.outbox.backlog() == Backlog(0, None)

    async def test_wishes_of_a_dossier_come_by_rising_version_and_up_to_the_limit(self, store: Store) -> None:
        opening = _opening()
        await store.archive.open(opening, _claim())
        dossier = opening.dossier
        for to in (State.ACCEPTED, State.IN_PROGRESS, State.PAPERS_NEEDED, State.IN_PROGRESS):
            await store.archive.move(_move(dossier, to))
            dossier = await store.archive.dossier(dossier.id)

        waiting = await store.outbox.waiting(bucket_of(dossier.id), 3)

        mailed = [step.notice.id for step in dossier.steps if step.notice is not None]
        assert [one.wish.notice_id for one in waiting] == mailed[:3]

    async def test_a_bucket_has_one_holder(self, store: Store) -> None:
        await store.archive.open(_opening(), _claim())

        claimed = await asyncio.gather(*(store.outbox.claim_bucket(f"holder {n}", LEASE) for n in range(8)))

        assert len([bucket for bucket in claimed if bucket is not None]) == 1

    async def test_a_holder_may_claim_again_what_it_holds(self, store: Store) -> None:
        await store.archive.open(_opening(), _claim())
        bucket = await store.outbox.claim_bucket("one", LEASE)

        again = await store.outbox.claim_bucket("one", LEASE)

        assert again == bucket

    async def test_two_holders_share_the_buckets(self, store: Store) -> None:
        for dossier_id in _in_other_buckets(2):
            await store.archive.open(_opening(dossier_id), _claim())

        claimed = {await store.outbox.claim_bucket(holder, LEASE) for holder in ("one", "two")}

        assert len(claimed - {None}) == 2

    async def test_the_bucket_that_waits_longest_is_claimed_first(self, store: Store) -> None:
        ids = _in_other_buckets(3)
        for dossier_id in ids:
            await store.archive.open(_opening(dossier_id), _claim())

        claimed = [await store.outbox.claim_bucket(holder, LEASE) for holder in ("one", "two", "three")]

        assert claimed == [bucket_of(DossierId(dossier_id)) for dossier_id in ids]

    async def test_a_bucket_is_free_again_when_its_lease_has_ended(self, store: Store) -> None:
        await store.archive.open(_opening(), _claim())
        bucket = await store.outbox.claim_bucket("killed", timedelta(milliseconds=300))
        assert await store.outbox.claim_bucket("other", LEASE) is None

        async def claimed() -> bool:
            return await store.outbox.claim_bucket("other", LEASE) == bucket

        look: Callable[[], bool | Awaitable[bool]] = claimed
        await eventually(look, what="the lease to end")

    async def test_what_was_announced_is_gone_and_the_rest_stays(self, store: Store) -> None:
        first, second = (_opening(dossier_id) for dossier_id in _in_one_bucket(2))
        await store.archive.open(first, _claim())
        await store.archive.open(second, _claim())
        bucket = bucket_of(first.dossier.id)
        await store.outbox.claim_bucket("one", LEASE)

        await store.outbox.settle(bucket, "one", [_notice(first.dossier).id])
        await store.outbox.settle(bucket, "one", [_notice(first.dossier).id])

        assert [one.wish.notice_id for one in await store.outbox.waiting(bucket, 10)] == [_notice(second.dossier).id]

    async def test_a_settled_bucket_is_free_for_others(self, store: Store) -> None:
        await store.archive.open(_opening(), _claim())
        bucket = await store.outbox.claim_bucket("one", LEASE)
        assert bucket is not None

        await store.outbox.settle(bucket, "one", [])

        assert await store.outbox.claim_bucket("two", LEASE) == bucket

    async def test_who_has_lost_a_bucket_cannot_give_it_back(self, store: Store) -> None:
        await store.archive.open(_opening(), _claim())
        bucket = await store.outbox.claim_bucket("slow", timedelta(0))
        assert bucket is not None
        assert await store.outbox.claim_bucket("next", LEASE) == bucket

        await store.outbox.settle(bucket, "slow", [])

        assert await store.outbox.claim_bucket("third", LEASE) is None


class TestArchive(ArchiveContract):
    """Asked of all three."""


class TestOutbox(OutboxContract):
    """Asked of all three."""
