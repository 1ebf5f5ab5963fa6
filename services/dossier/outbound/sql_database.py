"""One SQL database, SQLite or PostgreSQL: transactions that read or write, and one translation of what goes wrong.

*SQLite* (a laptop) has one writer at a time. A transaction that starts as a reader and then writes can fail at once,
whatever the busy timeout, so writers say so at their start (`BEGIN IMMEDIATE`) and wait for their turn; WAL lets
readers go on meanwhile. `synchronous=FULL` makes a commit survive a power cut, which WAL alone does not promise.

*PostgreSQL* runs at READ COMMITTED; whatever must not be lost to a race is guarded in the statement itself.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy.exc as sql
from sqlalchemy import URL, Connection, event, make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from services.dossier.ports import ArchiveUnavailable

BUSY_MS = 3_000  # a commit takes milliseconds; past this the disk is in trouble
ANSWER_WITHIN_S = 5  # below the callers' usual deadline, so that they hear "unavailable" and not nothing
CONNECTIONS = 10
WRITES = "writes"
OURS = (sql.IntegrityError, sql.ProgrammingError, sql.DataError, sql.NotSupportedError)


class Database:
    """A pool of connections; close it at the end."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._reader = engine
        self._writer = engine.execution_options(**{WRITES: True})

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """Yield a connection in a transaction that only reads.

        Raises:
            ArchiveUnavailable: the database does not answer, or not in time.
        """
        with _translated():
            async with self._reader.begin() as connection:
                yield connection

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """Yield a connection in a transaction that is durable when the context has ended, and undone when it raised.

        Raises:
            ArchiveUnavailable: the database does not answer; the transaction may have been committed.
            sqlalchemy.exc.IntegrityError: a constraint would be broken; nothing was written.
        """
        with _translated():
            async with self._writer.begin() as connection:
                yield connection

    async def close(self) -> None:
        """Close every connection."""
        await self._reader.dispose()


def open_database(url: str) -> Database:
    """Return the database of `sqlite:///PATH` or `postgresql://…`; nothing is connected yet.

    Raises:
        ValueError: the folder of an SQLite file does not exist.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return Database(_sqlite(parsed))
    return Database(
        create_async_engine(
            parsed.set(drivername="postgresql+asyncpg"),
            pool_size=CONNECTIONS,
            max_overflow=0,
            pool_timeout=ANSWER_WITHIN_S,
            pool_pre_ping=True,  # a server that was restarted costs one round trip, not one failed call per connection
            hide_parameters=True,  # they are personal data
            connect_args={
                "timeout": ANSWER_WITHIN_S,
                "command_timeout": ANSWER_WITHIN_S,
                "server_settings": {"application_name": "kip-dossier"},
            },
        )
    )


def _sqlite(url: URL) -> AsyncEngine:
    folder = Path(url.database or "").absolute().parent
    if not url.database or not folder.is_dir():
        raise ValueError(f"database_url: the folder {folder} of the SQLite file does not exist; make it first")
    engine = create_async_engine(
        url.set(drivername="sqlite+aiosqlite"),
        pool_size=CONNECTIONS,
        max_overflow=0,
        pool_timeout=ANSWER_WITHIN_S,
        hide_parameters=True,
    )
    event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver begins nothing by itself; `_begin_sqlite` does
    cursor = connection.cursor()
    for pragma in (f"busy_timeout={BUSY_MS}", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sql.DBAPIError as error:
        if _is_ours(error):
            raise
        raise ArchiveUnavailable from error
    except (sql.TimeoutError, OSError) as error:  # no connection, or none in time
        raise ArchiveUnavailable from error


def _is_ours(error: sql.DBAPIError) -> bool:
    """Tell a fault of the code from a database that is away, busy or full; SQLite's driver calls both operational."""
    wrong_statement = getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR
    return wrong_statement or isinstance(error, OURS)
