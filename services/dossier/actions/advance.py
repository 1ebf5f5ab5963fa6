"""Move a dossier: the step and the wish to mail it, in one commit, if nobody was faster.

Idempotent by the version that the mover has seen: a repeat of the very same move finds it done and gets the same
answer. If the process dies before the commit nothing is stored; after it, the repeat finds it done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.chassis.clock import Clock
from services.chassis.errors import Kind, ServiceError, Words
from services.dossier.ports import Archive, Bell, Catalogue
from services.dossier.rules.dossier import Dossier, Order, has_done, move_of, moved
from services.dossier.rules.procedure import State


class VersionConflict(ServiceError):
    """Somebody else moved it first, or the mover has seen a version that is not there yet."""

    kind = Kind.CONFLICT
    reason = "VERSION_CONFLICT"

    def __init__(self, *, expected: int, version: int) -> None:
        """Say where the dossier is."""
        super().__init__(
            Words(
                vi="Hồ sơ đã được cập nhật ở phiên bản khác. Hãy đọc lại hồ sơ rồi quyết định.",
                en="The dossier is at another version than expected. Read it again, then decide.",
            ),
            metadata={"expected_version": str(expected), "version": str(version)},
        )


class MoveNotAllowed(ServiceError):
    """The procedure knows no such move."""

    kind = Kind.PRECONDITION
    reason = "MOVE_NOT_ALLOWED"

    def __init__(self, *, start: State, to: State, allowed: Sequence[State]) -> None:
        """Name the moves that are allowed."""
        super().__init__(
            Words(
                vi="Thủ tục này không cho phép chuyển hồ sơ sang trạng thái đó.",
                en="The procedure does not allow this move; metadata `allowed` names those that it does.",
            ),
            metadata={"from": start.name, "to": to.name, "allowed": ",".join(state.name for state in allowed)},
        )


@dataclass(frozen=True, slots=True)
class Advanced:
    """The dossier as it is now."""

    dossier: Dossier
    repeated: bool
    """True: the same order had been carried out before."""


class AdvanceDossier:
    """Moves dossiers along their procedure."""

    def __init__(self, archive: Archive, catalogue: Catalogue, clock: Clock, bell: Bell) -> None:
        self._archive = archive
        self._catalogue = catalogue
        self._clock = clock
        self._bell = bell

    async def __call__(self, order: Order) -> Advanced:
        """Carry out the order, or find that it has been.

        Raises:
            UnknownDossier: no such dossier.
            VersionConflict: it is at another version and not by this very order.
            MoveNotAllowed: the procedure does not lead there from here.
            UnknownProcedure: the dossier's procedure was taken out of the catalogue.
            ArchiveUnavailable: ask again with the same order.
        """
        dossier = await self._archive.dossier(order.dossier_id)
        if dossier.version != order.expected_version:
            return _done_before(dossier, order)
        procedure = self._catalogue.procedure(dossier.procedure)
        allowed = procedure.allowed_from(dossier.state)
        if order.to not in allowed:
            raise MoveNotAllowed(start=dossier.state, to=order.to, allowed=allowed)
        move = move_of(dossier, order, procedure, self._clock())
        if not await self._archive.move(move):
            return _done_before(await self._archive.dossier(order.dossier_id), order)
        self._bell()
        return Advanced(moved(dossier, move), repeated=False)


def _done_before(dossier: Dossier, order: Order) -> Advanced:
    if has_done(dossier, order):
        return Advanced(dossier, repeated=True)
    raise VersionConflict(expected=order.expected_version, version=dossier.version)
