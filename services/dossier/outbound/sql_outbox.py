"""Implements `Outbox` on SQL: a bucket is leased by an update that only one holder can win.

Leases end by the database's clock, so the clocks of hosts do not matter; SQLite has none, but it has one host.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.dossier.outbound.sql_database import Database
from services.dossier.outbound.sql_tables import buckets, dossiers, outbox
from services.dossier.ports import Backlog, WaitingNotice
from services.dossier.rules.notice import Addressee, NoticeId, NoticeWish


class SqlOutbox:
    """Implements `Outbox`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim_bucket(self, holder: str, lease: timedelta) -> int | None:
        """Implements `Outbox`."""
        async with self._database.writing() as connection:
            now = await _now(connection)
            free = or_(buckets.c.holder.is_(None), buckets.c.holder == holder, buckets.c.leased_until <= now)
            longest_waiting_first = (
                select(outbox.c.bucket)
                .join(buckets, buckets.c.bucket == outbox.c.bucket)
                .where(free)
                .group_by(outbox.c.bucket)
                .order_by(func.min(outbox.c.seq))
            )
            for bucket in (await connection.scalars(longest_waiting_first)).all():
                won = await connection.execute(
                    update(buckets)
                    .where(buckets.c.bucket == bucket, free)
                    .values(holder=holder, leased_until=now + lease)
                )
                if won.rowcount == 1:
                    return int(bucket)
        return None

    async def waiting(self, bucket: int, limit: int) -> Sequence[WaitingNotice]:
        """Implements `Outbox`."""
        async with self._database.reading() as connection:
            rows = await connection.execute(
                select(outbox, dossiers.c.email, dossiers.c.name, dossiers.c.locale)
                .join(dossiers, dossiers.c.id == outbox.c.dossier_id)
                .where(outbox.c.bucket == bucket)
                .order_by(outbox.c.seq)
                .limit(limit)
            )
            return [
                WaitingNotice(
                    NoticeWish(NoticeId(row.notice_id), row.letter, row.parameters, row.asked_at, row.trace),
                    Addressee(row.email, row.name, row.locale),
                )
                for row in rows
            ]

    async def settle(self, bucket: int, holder: str, announced: Sequence[NoticeId]) -> None:
        """Implements `Outbox`."""
        async with self._database.writing() as connection:
            await connection.execute(delete(outbox).where(outbox.c.notice_id.in_(announced)))
            await connection.execute(
                update(buckets)
                .where(buckets.c.bucket == bucket, buckets.c.holder == holder)
                .values(holder=None, leased_until=None)
            )

    async def backlog(self) -> Backlog:
        """Implements `Outbox`."""
        async with self._database.reading() as connection:
            row = (
                await connection.execute(select(func.count(), func.min(outbox.c.asked_at)).select_from(outbox))
            ).one()
            return Backlog(notices=row[0], oldest=row[1])


async def _now(connection: AsyncConnection) -> datetime:
    if connection.dialect.name == "sqlite":
        return datetime.now(UTC)
    now: datetime = (await connection.execute(select(func.clock_timestamp()))).scalar_one()
    return now
