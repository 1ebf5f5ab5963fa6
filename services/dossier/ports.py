"""What the service needs from outside, and what each part promises.

`Archive` and `Outbox` are two views of one store: what `Archive` writes as a wish, `Outbox` hands out to be announced.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from services.chassis.errors import Kind, ServiceError, Words
from services.dossier.rules.claim import Claim
from services.dossier.rules.dossier import Dossier, DossierId, Move, Opening
from services.dossier.rules.notice import Addressee, Notice, NoticeId, NoticeWish
from services.dossier.rules.procedure import Procedure


class ArchiveUnavailable(ServiceError):
    """The archive does not answer; nothing is known about what was asked, so ask again."""

    kind = Kind.UNAVAILABLE
    reason = "ARCHIVE_UNAVAILABLE"

    def __init__(self) -> None:
        """Tell to come back in a moment."""
        super().__init__(
            Words(
                vi="Kho hồ sơ đang bận. Vui lòng thử lại sau giây lát.",
                en="The archive does not answer. Repeat the same call in a moment; it cannot happen twice.",
            ),
            retry_after=timedelta(seconds=2),
        )


class UnknownDossier(ServiceError):
    """No dossier has this id."""

    kind = Kind.NOT_FOUND
    reason = "UNKNOWN_DOSSIER"

    def __init__(self) -> None:
        """Say what to look at."""
        super().__init__(
            Words(
                vi="Không tìm thấy hồ sơ này. Hãy kiểm tra lại mã hồ sơ.",
                en="No dossier has this id. Use the dossier_id that OpenDossier answered.",
            )
        )


class UnknownProcedure(ServiceError):
    """The catalogue has no such procedure."""

    kind = Kind.INVALID
    reason = "UNKNOWN_PROCEDURE"

    def __init__(self, procedure: str) -> None:
        """Name the procedure."""
        super().__init__(
            Words(
                vi="Không có thủ tục này trong danh mục. Hãy kiểm tra lại mã thủ tục.",
                en="The catalogue has no such procedure. Use a code of the catalogue, such as book-reissue.",
            ),
            metadata={"procedure": procedure},
        )


class NotAnnounced(Exception):
    """The event was not acknowledged; it may have been written all the same, and may be announced again."""

    def __init__(self, reason: str) -> None:
        """Say what failed: `kafka`, `broker_untrusted`, `denied`, or `keys` when no key may seal now."""
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Stored:
    """The dossier, its first step, its claim and its wish are durable."""


@dataclass(frozen=True, slots=True)
class NumberTaken:
    """Another dossier has this number; nothing was written."""


@dataclass(frozen=True, slots=True)
class KeyTaken:
    """This idempotency key was used within its day; nothing was written."""

    dossier_id: DossierId
    fingerprint: str


@dataclass(frozen=True, slots=True)
class WaitingNotice:
    """A wish that the outbox holds, with whom it is for."""

    wish: NoticeWish
    addressee: Addressee


@dataclass(frozen=True, slots=True)
class Backlog:
    """How much waits to be announced."""

    notices: int
    oldest: datetime | None
    """When the oldest wish was made; `None` when nothing waits."""


class Archive(Protocol):
    """Dossiers, for years. Every write is durable when it returns, and seen by every later read (read-your-writes).

    Any method raises `ArchiveUnavailable`; a write that raised it may have happened.
    """

    async def open(self, opening: Opening, claim: Claim) -> Stored | NumberTaken | KeyTaken:
        """Write dossier, step, claim and wish in one transaction, or nothing.

        A claim that has expired by `opening.dossier.opened_at` does not count and is replaced. Of two openings with one
        key or one number at the same time exactly one is stored, in any process.
        """

    async def dossier(self, dossier_id: DossierId) -> Dossier:
        """Return a dossier with all steps, each with the fate of its notice.

        Raises:
            UnknownDossier: there is none.
        """

    async def move(self, move: Move) -> bool:
        """Write step and wish in one transaction if the dossier is at the version before; else nothing, and `False`."""

    async def find_notice(self, notice_id: NoticeId) -> Notice | None:
        """Return what is known about a notice; `None` when it is not one of ours."""

    async def replace_notice(self, was: Notice, becomes: Notice) -> bool:
        """Write a new fate if the notice is still as it `was`; else nothing, and `False`."""

    async def forget_claims(self, expired_by: datetime) -> int:
        """Delete claims that have expired; return how many."""


class Outbox(Protocol):
    """Wishes to mail, waiting to be announced; in 64 buckets, so that several processes can share them.

    A dossier's wishes are all in one bucket, and a bucket has one holder at a time: so no version overtakes another. A
    holder that dies loses its bucket when the lease ends, by the archive's clock. Any method raises
    `ArchiveUnavailable`.
    """

    async def claim_bucket(self, holder: str, lease: timedelta) -> int | None:
        """Lease the bucket whose oldest wish waits longest among those nobody else holds; `None` when there is none.

        Atomic: of two holders at the same time one gets the bucket. A bucket that `holder` has already counts as free.
        """

    async def waiting(self, bucket: int, limit: int) -> Sequence[WaitingNotice]:
        """Return the bucket's first wishes; those of one dossier by rising version."""

    async def settle(self, bucket: int, holder: str, announced: Sequence[NoticeId]) -> None:
        """Delete what was announced and give the bucket back, in one transaction; idempotent."""

    async def backlog(self) -> Backlog:
        """Return how much waits, in all buckets."""


class Catalogue(Protocol):
    """The procedures; the same for the life of the process."""

    def procedure(self, code: str) -> Procedure:
        """Return a procedure.

        Raises:
            UnknownProcedure: not in the catalogue.
        """


class EventSink(Protocol):
    """Tells other services."""

    async def announce(self, waiting: WaitingNotice) -> None:
        """Ask the mailer for a letter and return when that is durable; a repeat is the same letter.

        Raises:
            NotAnnounced: not acknowledged in time.
        """


class Bell(Protocol):
    """Wakes whoever empties the outbox."""

    def __call__(self) -> None:
        """Ring; never blocks."""
