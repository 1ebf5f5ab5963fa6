# noqa: INP001 - alembic runs this file by its path; it is no module of ours
"""Alembic's hook: runs the steps that are due on the connection that `sql_migrations` hands over."""

from alembic import context

from services.dossier.outbound.sql_tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
