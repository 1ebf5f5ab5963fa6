"""PostgreSQL killed under the archive: every call is answered "unavailable", and it comes back by itself.

The server is one of our own, because this test kills it.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator

import pytest

from services.dossier.outbound.sql_archive import SqlArchive
from services.dossier.outbound.sql_database import Database, open_database
from services.dossier.outbound.sql_migrations import migrate
from services.dossier.outbound.sql_outbox import SqlOutbox
from services.dossier.ports import ArchiveUnavailable, Stored
from services.dossier.rules.claim import Claim, claim_of
from services.dossier.rules.dossier import DossierId, Opening, opening_of
from tests.conditions import eventually
from tests.fakes.dossier import BOOK, NOON, filing
from tests.servers.postgresql_server import PostgresqlServer, why_missing
from tests.servers.require import require


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresqlServer]:
    require(why_missing())
    own = PostgresqlServer()
    own.start()
    yield own
    own.remove()


@pytest.fixture
async def database(server: PostgresqlServer) -> AsyncIterator[Database]:
    opened = open_database(server.url)
    await migrate(opened)
    yield opened
    await opened.close()


def _opening() -> tuple[Opening, Claim]:
    dossier_id = DossierId(str(uuid.uuid4()))
    opening = opening_of(filing(), BOOK, dossier_id=dossier_id, number=dossier_id[:8], by="portal", now=NOON, trace={})
    return opening, claim_of("portal", dossier_id, ("body",), NOON)


async def test_a_killed_server_is_unavailable_and_what_was_stored_is_there_when_it_is_back(
    server: PostgresqlServer, database: Database
) -> None:
    archive, outbox = SqlArchive(database), SqlOutbox(database)
    stored, claim = _opening()
    await archive.open(stored, claim)
    await asyncio.gather(*(outbox.backlog() for _ in range(10)))  # every connection of the pool is in use once

    server.kill()
    for call in (lambda: archive.dossier(stored.dossier.id), lambda: archive.open(*_opening()), outbox.backlog):
        with pytest.raises(ArchiveUnavailable):
            await call()
    server.start()

    assert await archive.dossier(stored.dossier.id) == stored.dossier
    assert await archive.open(*_opening()) == Stored()


async def test_calls_in_hand_when_the_server_is_killed_are_unavailable_or_done(
    server: PostgresqlServer, database: Database
) -> None:
    archive = SqlArchive(database)
    openings = [_opening() for _ in range(400)]

    calls = [asyncio.ensure_future(archive.open(*one)) for one in openings]
    await eventually(lambda: sum(call.done() for call in calls) > 20, what="some are stored")
    await asyncio.to_thread(server.kill)
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    server.start()

    assert {type(outcome) for outcome in outcomes} == {Stored, ArchiveUnavailable}
    for (opening, _), outcome in zip(openings, outcomes, strict=True):
        if isinstance(outcome, Stored):
            assert await archive.dossier(opening.dossier.id) == opening.dossier
