"""Open a dossier: number, first step, claim and the wish to mail it, in one commit; the mail itself comes later.

If the process dies before the commit nothing is stored and a repeat opens the dossier; after the commit a repeat with
the same key gets the dossier that is there.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from services.chassis.clock import Clock
from services.chassis.errors import Kind, ServiceError, Words
from services.dossier.ports import Archive, Bell, Catalogue, KeyTaken, NumberTaken, Stored
from services.dossier.rules.claim import claim_of
from services.dossier.rules.dossier import Dossier, DossierId, Filing, number_of, opening_of

DRAWS = 5  # a number is taken with a chance of 1 in 100 000 at 10 000 dossiers a day: five in a row is a broken dice


class IdempotencyKeyReused(ServiceError):
    """The key belongs to another request."""

    kind = Kind.CONFLICT
    reason = "IDEMPOTENCY_KEY_REUSED"

    def __init__(self) -> None:
        """Ask for a new key."""
        super().__init__(
            Words(
                vi="Khóa idempotency này đã được dùng cho một yêu cầu khác. Hãy dùng khóa mới cho yêu cầu mới.",
                en="This idempotency key was used for another request. Use a new key for a new request.",
            )
        )


@dataclass(frozen=True, slots=True)
class Opened:
    """The dossier of a request."""

    dossier: Dossier
    repeated: bool
    """True: it was opened by an earlier request with the same key."""


class OpenDossier:
    """Opens dossiers, once per caller and idempotency key."""

    def __init__(
        self,
        archive: Archive,
        catalogue: Catalogue,
        clock: Clock,
        bell: Bell,
        *,
        agency: str,
        draw: Callable[[int], int],
    ) -> None:
        self._archive = archive
        self._catalogue = catalogue
        self._clock = clock
        self._bell = bell
        self._agency = agency
        self._draw = draw

    async def __call__(self, filing: Filing, *, caller: str, idempotency_key: str, trace: Mapping[str, str]) -> Opened:
        """Open a dossier, or return the one that the same request has opened.

        Raises:
            UnknownProcedure: not in the catalogue.
            IdempotencyKeyReused: the key was used with another body within its day.
            ArchiveUnavailable: ask again with the same key.
        """
        procedure = self._catalogue.procedure(filing.procedure)
        now = self._clock()
        claim = claim_of(caller, idempotency_key, filing.body, now)
        for _ in range(DRAWS):
            opening = opening_of(
                filing,
                procedure,
                dossier_id=DossierId(str(uuid.uuid4())),
                number=number_of(self._agency, now, self._draw),
                by=caller,
                now=now,
                trace=trace,
            )
            match await self._archive.open(opening, claim):
                case Stored():
                    self._bell()
                    return Opened(opening.dossier, repeated=False)
                case KeyTaken(dossier_id, fingerprint):
                    if fingerprint != claim.fingerprint:
                        raise IdempotencyKeyReused
                    return Opened(await self._archive.dossier(dossier_id), repeated=True)
                case NumberTaken():
                    continue
        raise RuntimeError(f"{DRAWS} numbers in a row were taken: the random source repeats itself")
