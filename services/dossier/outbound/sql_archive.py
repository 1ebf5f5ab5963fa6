"""Implements `Archive` on SQL: one transaction a method, guards in the statements, the same for both dialects."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Row, delete, false, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from services.dossier.outbound.sql_database import Database
from services.dossier.outbound.sql_tables import claims, dossiers, outbox, steps
from services.dossier.ports import KeyTaken, NumberTaken, Stored, UnknownDossier
from services.dossier.rules.claim import Claim
from services.dossier.rules.dossier import Dossier, DossierId, Move, Opening, Step, bucket_of
from services.dossier.rules.notice import Fate, Notice, NoticeId, NoticeWish
from services.dossier.rules.procedure import State

RACES = 3  # each lost race leaves what the next look finds


class SqlArchive:
    """Implements `Archive`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def open(self, opening: Opening, claim: Claim) -> Stored | NumberTaken | KeyTaken:
        """Implements `Archive`: look, then write; who loses the race to a constraint looks again."""
        for races_left in reversed(range(RACES)):
            try:
                async with self._database.writing() as connection:
                    taken = await _find_taken(connection, opening, claim)
                    if taken is None:
                        await _write_opening(connection, opening, claim)
                    return taken or Stored()
            except IntegrityError:
                if not races_left:
                    raise
        raise AssertionError("unreachable: the last round returns or raises")  # pragma: no cover

    async def dossier(self, dossier_id: DossierId) -> Dossier:
        """Implements `Archive`."""
        async with self._database.reading() as connection:
            head = (await connection.execute(select(dossiers).where(dossiers.c.id == dossier_id))).one_or_none()
            if head is None:
                raise UnknownDossier
            rows = await connection.execute(
                select(steps).where(steps.c.dossier_id == dossier_id).order_by(steps.c.version)
            )
            return Dossier(dossier_id, head.number, head.procedure, tuple(_step(row) for row in rows))

    async def move(self, move: Move) -> bool:
        """Implements `Archive`: the version guards the row, and its lock orders the moves of a dossier."""
        async with self._database.writing() as connection:
            changed = await connection.execute(
                update(dossiers)
                .where(dossiers.c.id == move.dossier_id, dossiers.c.version == move.step.version - 1)
                .values(version=move.step.version)
            )
            if changed.rowcount == 0:
                return False
            await _write_step(connection, move.dossier_id, move.step, move.wish)
            return True

    async def find_notice(self, notice_id: NoticeId) -> Notice | None:
        """Implements `Archive`."""
        async with self._database.reading() as connection:
            row = (await connection.execute(select(steps).where(steps.c.notice_id == notice_id))).one_or_none()
            return None if row is None else _notice(row)

    async def replace_notice(self, was: Notice, becomes: Notice) -> bool:
        """Implements `Archive`."""
        async with self._database.writing() as connection:
            changed = await connection.execute(
                update(steps)
                .where(steps.c.notice_id == was.id, steps.c.notice_fate == was.fate.value, steps.c.notice_at == was.at)
                .where(func.coalesce(steps.c.notice_is_hearsay, false()) == was.is_hearsay)
                .values(_notice_columns(becomes))
            )
            return changed.rowcount == 1

    async def forget_claims(self, expired_by: datetime) -> int:
        """Implements `Archive`."""
        async with self._database.writing() as connection:
            return (await connection.execute(delete(claims).where(claims.c.expires_at <= expired_by))).rowcount


async def _find_taken(connection: AsyncConnection, opening: Opening, claim: Claim) -> NumberTaken | KeyTaken | None:
    same_key = claims.c.key == claim.key
    await connection.execute(delete(claims).where(same_key, claims.c.expires_at <= opening.dossier.opened_at))
    used = (await connection.execute(select(claims).where(same_key))).one_or_none()
    if used is not None:
        return KeyTaken(DossierId(used.dossier_id), used.fingerprint)
    same_number = select(dossiers.c.id).where(dossiers.c.number == opening.dossier.number)
    return None if await connection.scalar(same_number) is None else NumberTaken()


async def _write_opening(connection: AsyncConnection, opening: Opening, claim: Claim) -> None:
    dossier, filing = opening.dossier, opening.filing
    await connection.execute(
        insert(dossiers).values(
            id=dossier.id,
            number=dossier.number,
            procedure=dossier.procedure,
            version=dossier.version,
            subject=filing.subject,
            email=filing.addressee.email,
            name=filing.addressee.name,
            locale=filing.addressee.locale,
        )
    )
    await connection.execute(
        insert(claims).values(
            key=claim.key, fingerprint=claim.fingerprint, dossier_id=dossier.id, expires_at=claim.expires_at
        )
    )
    await _write_step(connection, dossier.id, dossier.steps[0], opening.wish)


async def _write_step(connection: AsyncConnection, dossier_id: DossierId, step: Step, wish: NoticeWish | None) -> None:
    await connection.execute(
        insert(steps).values(
            dossier_id=dossier_id,
            version=step.version,
            state=step.state.value,
            at=step.at,
            remark=step.remark,
            made_by=step.by,
            **_notice_columns(step.notice),
        )
    )
    if wish is not None:
        await connection.execute(
            insert(outbox).values(
                bucket=bucket_of(dossier_id),
                dossier_id=dossier_id,
                notice_id=wish.notice_id,
                letter=wish.letter,
                parameters=dict(wish.parameters),
                trace=dict(wish.trace),
                asked_at=wish.asked_at,
            )
        )


def _notice_columns(notice: Notice | None) -> Mapping[str, object]:
    if notice is None:
        return {}
    return {
        "notice_id": notice.id,
        "notice_fate": notice.fate.value,
        "notice_at": notice.at,
        "notice_is_hearsay": notice.is_hearsay,
    }


def _step(row: Row[Any]) -> Step:
    return Step(row.version, State(row.state), row.at, row.remark, row.made_by, _notice(row))


def _notice(row: Row[Any]) -> Notice | None:
    if row.notice_id is None:
        return None
    return Notice(NoticeId(row.notice_id), row.at, Fate(row.notice_fate), row.notice_at, bool(row.notice_is_hearsay))
