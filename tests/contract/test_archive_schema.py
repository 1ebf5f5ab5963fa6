"""The schema: what the migrations make is what the code believes, and a newer one is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text

from services.dossier.outbound.sql_archive import SqlArchive
from services.dossier.outbound.sql_database import Database, open_database
from services.dossier.outbound.sql_migrations import SchemaTooNewError, migrate
from services.dossier.outbound.sql_tables import buckets, metadata, steps
from services.dossier.ports import ArchiveUnavailable
from services.dossier.rules.claim import claim_of
from services.dossier.rules.dossier import BUCKETS, DossierId, opening_of
from services.dossier.rules.notice import Fate
from tests.contract.test_archive import own_database
from tests.fakes.dossier import BOOK, NOON, filing

ID = "00000000-0000-4000-8000-000000000001"


@pytest.fixture(params=["sqlite", "postgresql"])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/archive.db"
    return await own_database(request.getfixturevalue("postgresql_url"))


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    opened = open_database(url)
    yield opened
    await opened.close()


def _differences(connection: Connection) -> list[Any]:
    return list(compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata))


async def test_the_migrations_make_the_tables_that_the_code_uses(database: Database) -> None:
    await migrate(database)

    async with database.reading() as connection:
        assert await connection.run_sync(_differences) == []


async def test_there_is_a_row_for_every_bucket(database: Database) -> None:
    await migrate(database)

    async with database.reading() as connection:
        assert set((await connection.scalars(buckets.select())).all()) == set(range(BUCKETS))


async def test_migrating_again_changes_nothing(database: Database) -> None:
    await migrate(database)

    await migrate(database)

    async with database.reading() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM alembic_version")) == 1


async def test_what_was_written_before_anybody_asked_for_hearsay_is_trusted(database: Database) -> None:
    await migrate(database)
    archive = SqlArchive(database)
    opening = opening_of(filing("book"), BOOK, dossier_id=DossierId(ID), number="n", by="portal", now=NOON, trace={})
    await archive.open(opening, claim_of("portal", "key", ("body",), NOON))
    async with database.writing() as connection:
        await connection.execute(steps.update().values(notice_is_hearsay=None))
    (notice,) = [step.notice for step in opening.dossier.steps if step.notice]

    assert await archive.find_notice(notice.id) == notice
    assert await archive.replace_notice(notice, replace(notice, fate=Fate.DELIVERED))


async def test_processes_that_start_at_once_take_turns(url: str) -> None:
    databases = [open_database(url) for _ in range(4)]

    await asyncio.gather(*(_migrate_patiently(database) for database in databases))

    async with databases[0].reading() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM buckets")) == BUCKETS
    for database in databases:
        await database.close()


async def _migrate_patiently(database: Database) -> None:
    for _ in range(100):
        try:
            await migrate(database)
        except ArchiveUnavailable:  # SQLite refuses to switch to WAL while another does; the service tries again too
            await asyncio.sleep(0.01)
        else:
            return
    pytest.fail("the schema was not migrated")


async def test_a_schema_of_a_newer_version_is_refused_and_left_alone(database: Database) -> None:
    await migrate(database)
    async with database.writing() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    with pytest.raises(SchemaTooNewError, match=r"revision 9999.*newer version"):
        await migrate(database)

    async with database.reading() as connection:
        assert await connection.scalar(text("SELECT version_num FROM alembic_version")) == "9999"


async def test_a_migration_that_fails_half_way_leaves_nothing(database: Database) -> None:
    async with database.writing() as connection:
        await connection.execute(text("CREATE TABLE outbox (in_the_way integer)"))

    with pytest.raises(Exception, match="outbox"):
        await migrate(database)

    async with database.reading() as connection:
        tables = await connection.run_sync(lambda sync: MigrationContext.configure(sync).get_current_heads())
        assert tables == ()
