"""Tell where a dossier is: each step joined with the fate of its notice."""

from __future__ import annotations

from services.dossier.ports import Archive
from services.dossier.rules.dossier import Dossier, DossierId


class FindDossier:
    """Finds dossiers by their internal id."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive

    async def __call__(self, dossier_id: DossierId) -> Dossier:
        """Return the dossier as it is now.

        Raises:
            UnknownDossier: no such dossier.
            ArchiveUnavailable: ask again.
        """
        return await self._archive.dossier(dossier_id)
