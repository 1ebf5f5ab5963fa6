# noqa: INP001 - alembic runs this file by its path; it is no module of ours
"""Whether the fate of a notice is only what a DSN says; empty for what was written before."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the column; who does not know it leaves it empty."""
    op.add_column("steps", sa.Column("notice_is_hearsay", sa.Boolean))
