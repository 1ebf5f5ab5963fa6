"""Brings the archive's schema up to this version of the code, at the start and under a lock.

The steps are alembic's, in `migrations/versions/`; all that are due run in one transaction, so a crash in the middle
leaves the schema as it was. Two processes that start at once take turns: on SQLite the writer's lock sees to it, on
PostgreSQL an advisory one. Steps only go forward: an older version of the code refuses a newer schema.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection, text

from services.dossier.outbound.sql_database import Database

MIGRATIONS = Path(__file__).parents[1] / "migrations"
LOCK = 0x6B6970  # "kip": any number that nothing else in the database locks


class SchemaTooNewError(Exception):
    """A newer version of the service has been here."""


async def migrate(database: Database) -> None:
    """Run every step that is due; safe to repeat.

    Raises:
        SchemaTooNewError: the schema is of a newer version; nothing was changed.
        ArchiveUnavailable: the database does not answer.
    """
    async with database.writing() as connection:
        if connection.dialect.name == "postgresql":
            await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        await connection.run_sync(_upgrade)


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    _refuse_newer(connection, ScriptDirectory.from_config(config))
    command.upgrade(config, "head")


def _refuse_newer(connection: Connection, scripts: ScriptDirectory) -> None:
    found = MigrationContext.configure(connection).get_current_revision()
    try:
        if found is not None:
            scripts.get_revision(found)
    except CommandError as unknown:
        raise SchemaTooNewError(
            f"The archive's schema is at revision {found}, which this version of dossier does not know: a newer "
            "version has used it. Start that version, or restore a backup from before it."
        ) from unknown
