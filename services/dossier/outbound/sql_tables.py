"""The tables of the archive, as code sees them; `migrations/` makes them so, and a test compares the two.

Personal data stands in columns of its own (`dossiers.subject`, `.email`, `.name`, `steps.remark`), so that erasing it
is an update and leaves the counts; the outbox and the claims hold none of it, but for the remark that a waiting letter
quotes, and that row is gone when the letter is announced.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)

ID = 36  # characters of a UUID
DIGEST = 64  # SHA-256, hex


class Instant(TypeDecorator[datetime]):
    """A point in time: aware and in UTC in Python, also on SQLite, which knows no time zones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - SQLAlchemy's signature
        """Take an aware instant to UTC."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - SQLAlchemy's signature
        """Return it aware."""
        return None if value is None else value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _code(name: str, length: int, **kwargs: Any) -> Column[str]:
    return Column(name, String(length), nullable=False, **kwargs)


metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
    }
)

dossiers = Table(
    "dossiers",
    metadata,
    _code("id", ID, primary_key=True),
    _code("number", 64),
    _code("procedure", 64),
    Column("version", Integer, nullable=False),  # of its last step: what a move is guarded by
    _code("subject", 128),
    _code("email", 254),
    _code("name", 100),
    _code("locale", 2),
    UniqueConstraint("number"),
)

steps = Table(
    "steps",
    metadata,
    Column("dossier_id", String(ID), ForeignKey("dossiers.id"), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("state", SmallInteger, nullable=False),
    Column("at", Instant, nullable=False),
    Column("remark", Text, nullable=False),
    _code("made_by", 128),
    Column("notice_id", String(ID)),  # the four are empty when the step mails none
    Column("notice_fate", String(16)),
    Column("notice_at", Instant),
    Column("notice_is_hearsay", Boolean),  # empty: no; so what was written before it was asked is trusted
    UniqueConstraint("notice_id"),
)

claims = Table(
    "claims",
    metadata,
    _code("key", DIGEST, primary_key=True),
    _code("fingerprint", DIGEST),
    Column("dossier_id", String(ID), ForeignKey("dossiers.id"), nullable=False),
    Column("expires_at", Instant, nullable=False),
    Index(None, "expires_at"),
)

outbox = Table(
    "outbox",
    metadata,
    # Drawn while the dossier's row is locked, so a dossier's wishes rise with its versions.
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("bucket", SmallInteger, nullable=False),
    Column("dossier_id", String(ID), ForeignKey("dossiers.id"), nullable=False),
    _code("notice_id", ID),
    _code("letter", 64),
    Column("parameters", JSON, nullable=False),
    Column("trace", JSON, nullable=False),
    Column("asked_at", Instant, nullable=False),
    UniqueConstraint("notice_id"),
    Index(None, "bucket", "seq"),
)

buckets = Table(
    "buckets",
    metadata,
    Column("bucket", SmallInteger, primary_key=True, autoincrement=False),
    Column("holder", String(ID)),
    Column("leased_until", Instant),
)
