# noqa: INP001 - alembic runs this file by its path; it is no module of ours
"""The first tables: dossiers, their steps, claims, the outbox and its 64 buckets."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables and the buckets."""
    op.create_table(
        "dossiers",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("number", sa.String(64), nullable=False),
        sa.Column("procedure", sa.String(64), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("subject", sa.String(128), nullable=False),
        sa.Column("email", sa.String(254), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("locale", sa.String(2), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_dossiers"),
        sa.UniqueConstraint("number", name="uq_dossiers_number"),
    )
    op.create_table(
        "steps",
        sa.Column("dossier_id", sa.String(36), nullable=False),
        sa.Column("version", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("state", sa.SmallInteger, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("remark", sa.Text, nullable=False),
        sa.Column("made_by", sa.String(128), nullable=False),
        sa.Column("notice_id", sa.String(36)),
        sa.Column("notice_fate", sa.String(16)),
        sa.Column("notice_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("dossier_id", "version", name="pk_steps"),
        sa.ForeignKeyConstraint(["dossier_id"], ["dossiers.id"], name="fk_steps_dossier_id"),
        sa.UniqueConstraint("notice_id", name="uq_steps_notice_id"),
    )
    op.create_table(
        "claims",
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("dossier_id", sa.String(36), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_claims"),
        sa.ForeignKeyConstraint(["dossier_id"], ["dossiers.id"], name="fk_claims_dossier_id"),
    )
    op.create_index("ix_claims_expires_at", "claims", ["expires_at"])
    _make_the_outbox()


def _make_the_outbox() -> None:
    op.create_table(
        "outbox",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=False, autoincrement=True),
        sa.Column("bucket", sa.SmallInteger, nullable=False),
        sa.Column("dossier_id", sa.String(36), nullable=False),
        sa.Column("notice_id", sa.String(36), nullable=False),
        sa.Column("letter", sa.String(64), nullable=False),
        sa.Column("parameters", sa.JSON, nullable=False),
        sa.Column("trace", sa.JSON, nullable=False),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_outbox"),
        sa.ForeignKeyConstraint(["dossier_id"], ["dossiers.id"], name="fk_outbox_dossier_id"),
        sa.UniqueConstraint("notice_id", name="uq_outbox_notice_id"),
    )
    op.create_index("ix_outbox_bucket", "outbox", ["bucket", "seq"])
    buckets = op.create_table(
        "buckets",
        sa.Column("bucket", sa.SmallInteger, nullable=False, autoincrement=False),
        sa.Column("holder", sa.String(36)),
        sa.Column("leased_until", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("bucket", name="pk_buckets"),
    )
    op.bulk_insert(buckets, [{"bucket": number} for number in range(64)])
