"""In-memory twins of dossier's ports, and what its tests file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import count

from services.chassis.clock import system_clock
from services.dossier.ports import (
    ArchiveUnavailable,
    Backlog,
    KeyTaken,
    NotAnnounced,
    NumberTaken,
    Stored,
    UnknownDossier,
    UnknownProcedure,
    WaitingNotice,
)
from services.dossier.rules.claim import Claim
from services.dossier.rules.dossier import Dossier, DossierId, Filing, Move, Opening, bucket_of, moved
from services.dossier.rules.notice import Addressee, Notice, NoticeId, NoticeWish
from services.dossier.rules.procedure import Name, Procedure, State

NOON = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)

BOOK = Procedure(
    code="book",
    name=Name("Cấp lại sổ", "Re-issue of a book"),
    opening_mails=True,
    moves={
        State.REGISTERED: {State.ACCEPTED: True, State.REJECTED: True},
        State.ACCEPTED: {State.IN_PROGRESS: False},
        State.IN_PROGRESS: {State.PAPERS_NEEDED: True, State.DONE: True},
        State.PAPERS_NEEDED: {State.IN_PROGRESS: True},
    },
)
QUIET = Procedure(
    code="quiet", name=Name("Im lặng", "Quiet"), opening_mails=False, moves={State.REGISTERED: {State.DONE: False}}
)


def filing(procedure: str = "book", *, email: str = "lan@example.vn", subject: str = "citizen-7") -> Filing:
    """Return a filing of a made-up citizen."""
    return Filing(procedure, subject, Addressee(email, "Nguyễn Thị Lan", "vi"))


class FakeClock:
    """A clock that a test turns."""

    def __init__(self, now: datetime = NOON) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def pass_by(self, duration: timedelta) -> None:
        """Let time pass."""
        self.now += duration


@dataclass
class InMemoryCatalogue:
    """Implements `Catalogue`."""

    procedures: dict[str, Procedure] = field(default_factory=lambda: {"book": BOOK, "quiet": QUIET})

    def procedure(self, code: str) -> Procedure:
        if code not in self.procedures:
            raise UnknownProcedure(code)
        return self.procedures[code]


@dataclass
class _Waiting:
    bucket: int
    dossier_id: DossierId
    wish: NoticeWish


@dataclass
class _Lease:
    holder: str
    until: datetime


class InMemoryArchive:
    """Implements `Archive` and `Outbox` on dictionaries; `away` makes it answer nothing."""

    def __init__(self, clock: Callable[[], datetime] = system_clock) -> None:
        self.away = False
        self.before_move: Callable[[], None] = lambda: None
        """Called as a move arrives: what others do between a mover's look and his move."""
        self._clock = clock
        self._dossiers: dict[DossierId, Dossier] = {}
        self._addressees: dict[DossierId, Addressee] = {}
        self._claims: dict[str, tuple[Claim, DossierId]] = {}
        self._waiting: dict[int, _Waiting] = {}
        self._leases: dict[int, _Lease] = {}
        self._sequence = count()

    async def open(self, opening: Opening, claim: Claim) -> Stored | NumberTaken | KeyTaken:
        self._answer()
        dossier = opening.dossier
        used = self._claims.get(claim.key)
        if used is not None and used[0].expires_at > dossier.opened_at:
            return KeyTaken(used[1], used[0].fingerprint)
        if any(other.number == dossier.number for other in self._dossiers.values()):
            return NumberTaken()
        self._claims[claim.key] = (claim, dossier.id)
        self._dossiers[dossier.id] = dossier
        self._addressees[dossier.id] = opening.filing.addressee
        self._ask(dossier.id, opening.wish)
        return Stored()

    async def dossier(self, dossier_id: DossierId) -> Dossier:
        self._answer()
        if dossier_id not in self._dossiers:
            raise UnknownDossier
        return self._dossiers[dossier_id]

    async def move(self, move: Move) -> bool:
        self._answer()
        happens, self.before_move = self.before_move, lambda: None
        happens()
        dossier = self._dossiers.get(move.dossier_id)
        if dossier is None or dossier.version != move.step.version - 1:
            return False
        self._dossiers[move.dossier_id] = moved(dossier, move)
        self._ask(move.dossier_id, move.wish)
        return True

    def move_at_once(self, move: Move) -> None:
        """Move without the loop, as another process would."""
        self._dossiers[move.dossier_id] = moved(self._dossiers[move.dossier_id], move)
        self._ask(move.dossier_id, move.wish)

    async def find_notice(self, notice_id: NoticeId) -> Notice | None:
        self._answer()
        return self._notices().get(notice_id)

    async def replace_notice(self, was: Notice, becomes: Notice) -> bool:
        self._answer()
        if self._notices().get(was.id) != was:
            return False
        self._dossiers = {
            dossier_id: replace(
                dossier,
                steps=tuple(replace(step, notice=becomes) if step.notice == was else step for step in dossier.steps),
            )
            for dossier_id, dossier in self._dossiers.items()
        }
        return True

    async def forget_claims(self, expired_by: datetime) -> int:
        self._answer()
        expired = [key for key, (claim, _) in self._claims.items() if claim.expires_at <= expired_by]
        for key in expired:
            del self._claims[key]
        return len(expired)

    async def claim_bucket(self, holder: str, lease: timedelta) -> int | None:
        self._answer()
        now = self._clock()
        for waiting in self._waiting.values():  # in the order of their making
            held = self._leases.get(waiting.bucket)
            if held is None or held.holder == holder or held.until <= now:
                self._leases[waiting.bucket] = _Lease(holder, now + lease)
                return waiting.bucket
        return None

    async def waiting(self, bucket: int, limit: int) -> Sequence[WaitingNotice]:
        self._answer()
        of_bucket = [waiting for waiting in self._waiting.values() if waiting.bucket == bucket]
        return [WaitingNotice(waiting.wish, self._addressees[waiting.dossier_id]) for waiting in of_bucket[:limit]]

    async def settle(self, bucket: int, holder: str, announced: Sequence[NoticeId]) -> None:
        self._answer()
        for number, waiting in list(self._waiting.items()):
            if waiting.wish.notice_id in announced:
                del self._waiting[number]
        held = self._leases.get(bucket)
        if held is not None and held.holder == holder:
            del self._leases[bucket]

    async def backlog(self) -> Backlog:
        self._answer()
        asked = [waiting.wish.asked_at for waiting in self._waiting.values()]
        return Backlog(len(asked), min(asked, default=None))

    def _answer(self) -> None:
        if self.away:
            raise ArchiveUnavailable

    def _ask(self, dossier_id: DossierId, wish: NoticeWish | None) -> None:
        if wish is not None:
            self._waiting[next(self._sequence)] = _Waiting(bucket_of(dossier_id), dossier_id, wish)

    def _notices(self) -> dict[NoticeId, Notice]:
        steps = (step for dossier in self._dossiers.values() for step in dossier.steps)
        return {step.notice.id: step.notice for step in steps if step.notice is not None}


class InMemoryEvents:
    """Implements `EventSink`; fails when told to."""

    def __init__(self) -> None:
        self.announced: list[WaitingNotice] = []
        self.fails: str | None = None
        """The reason that every announcement fails with."""
        self.fails_for: dict[NoticeId, str] = {}

    async def announce(self, waiting: WaitingNotice) -> None:
        reason = self.fails or self.fails_for.get(waiting.wish.notice_id)
        if reason is not None:
            raise NotAnnounced(reason)
        self.announced.append(waiting)

    @property
    def notice_ids(self) -> list[NoticeId]:
        """What was announced, in order."""
        return [waiting.wish.notice_id for waiting in self.announced]


class CountingBell:
    """Implements `Bell`."""

    def __init__(self) -> None:
        self.rings = 0

    def __call__(self) -> None:
        self.rings += 1


class Dice:
    """Draws what a test lays down, then counts in base 32: no six in a row come twice."""

    def __init__(self, *numbers: int) -> None:
        self._laid = list(numbers)
        self._draws = count()
        self.faces: Counter[int] = Counter()

    def __call__(self, faces: int) -> int:
        self.faces[faces] += 1
        if self._laid:
            return self._laid.pop(0)
        number, place = divmod(next(self._draws), 6)
        return (number >> 5 * place) % faces
