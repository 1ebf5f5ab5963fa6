"""A dossier: its steps, each with a version, and the two things that happen to it: it is opened and it is moved.

The version counts the steps, from 1. Whoever moves a dossier says which version they have seen, so that of two movers
one is told; and because each step says who made it, a mover who repeats a move gets the answer of the first time.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from typing import NewType

from services.dossier.rules.notice import (
    LETTER_ADVANCED,
    LETTER_OPENED,
    Addressee,
    Fate,
    Notice,
    NoticeWish,
    letter_parameters,
    notice_id_of,
)
from services.dossier.rules.procedure import Procedure, State

DossierId = NewType("DossierId", str)
"""UUID, internal; never shown to a citizen."""

BUCKETS = 64  # how many publishers can ever share the outbox; more than processes, few enough to look at
ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford base32: no I, L, O, U to misread or to spell something with
DRAWN = 6  # characters, 2³⁰ numbers per agency and day: of 10 000 dossiers a blind guess hits one in 100 000 looks
VIETNAM = timezone(timedelta(hours=7))  # the date in a number is the office's; no summer time


@dataclass(frozen=True, slots=True)
class Filing:
    """Who files what."""

    procedure: str
    subject: str = field(repr=False)
    """Whose dossier it is; opaque here."""
    addressee: Addressee

    @property
    def body(self) -> tuple[str, ...]:
        """Everything that makes it another filing."""
        return (self.procedure, self.subject, self.addressee.email, self.addressee.name, self.addressee.locale)


@dataclass(frozen=True, slots=True)
class Step:
    """One entry of the timeline."""

    version: int
    """The version that this step made."""
    state: State
    at: datetime
    remark: str = field(repr=False)
    by: str
    """The caller who made it."""
    notice: Notice | None
    """`None` when the step mails none."""


@dataclass(frozen=True, slots=True)
class Dossier:
    """The administrative file whose steps a citizen follows."""

    id: DossierId
    number: str
    """What the citizen writes down; opaque."""
    procedure: str
    steps: tuple[Step, ...]
    """Oldest first; never empty."""

    @property
    def version(self) -> int:
        """Grows by one with each move; starts at 1."""
        return self.steps[-1].version

    @property
    def state(self) -> State:
        """Where it is."""
        return self.steps[-1].state

    @property
    def opened_at(self) -> datetime:
        """When it was opened."""
        return self.steps[0].at


@dataclass(frozen=True, slots=True)
class Order:
    """A wish to move a dossier."""

    dossier_id: DossierId
    expected_version: int
    """The version that the mover has seen."""
    to: State
    remark: str = field(repr=False)
    by: str
    trace: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Move:
    """What a move changes; written together or not at all."""

    dossier_id: DossierId
    step: Step
    wish: NoticeWish | None


@dataclass(frozen=True, slots=True)
class Opening:
    """What opening writes; together or not at all."""

    dossier: Dossier
    filing: Filing
    wish: NoticeWish | None


def number_of(agency: str, now: datetime, draw: Callable[[int], int]) -> str:
    """Return a new number `<agency>-<yymmdd>-<6 of base32>`; random, so only storing it shows whether it is free.

    Args:
        agency: code of the office, such as `K01`.
        now: decides the date, in Vietnam.
        draw: returns a random number from 0 up to, not including, its argument.
    """
    drawn = "".join(ALPHABET[draw(len(ALPHABET))] for _ in range(DRAWN))
    return f"{agency}-{now.astimezone(VIETNAM):%y%m%d}-{drawn}"


def bucket_of(dossier_id: DossierId) -> int:
    """Return the outbox bucket, 0 to 63: the same for every version of a dossier, here and in years."""
    return zlib.crc32(dossier_id.encode()) % BUCKETS


def opening_of(
    filing: Filing,
    procedure: Procedure,
    *,
    dossier_id: DossierId,
    number: str,
    by: str,
    now: datetime,
    trace: Mapping[str, str],
) -> Opening:
    """Return a new dossier with its first step and, if the procedure says so, the wish to mail it."""
    step = Step(version=1, state=State.REGISTERED, at=now, remark="", by=by, notice=None)
    dossier = Dossier(dossier_id, number, filing.procedure, (step,))
    if not procedure.opening_mails:
        return Opening(dossier, filing, None)
    step, wish = _with_notice(dossier, step, procedure, LETTER_OPENED, trace)
    return Opening(replace(dossier, steps=(step,)), filing, wish)


def move_of(dossier: Dossier, order: Order, procedure: Procedure, now: datetime) -> Move:
    """Return what an allowed order changes."""
    step = Step(dossier.version + 1, order.to, now, order.remark, order.by, None)
    if not procedure.mails(dossier.state, order.to):
        return Move(dossier.id, step, None)
    step, wish = _with_notice(dossier, step, procedure, LETTER_ADVANCED, order.trace)
    return Move(dossier.id, step, wish)


def moved(dossier: Dossier, move: Move) -> Dossier:
    """Return the dossier after the move."""
    return replace(dossier, steps=(*dossier.steps, move.step))


def has_done(dossier: Dossier, order: Order) -> bool:
    """Tell whether this very order has been carried out: same mover, same version, same move."""
    return any(
        (step.version, step.state, step.remark, step.by)
        == (order.expected_version + 1, order.to, order.remark, order.by)
        for step in dossier.steps[1:]  # the first step was no move
    )


def _with_notice(
    dossier: Dossier, step: Step, procedure: Procedure, letter: str, trace: Mapping[str, str]
) -> tuple[Step, NoticeWish]:
    notice_id = notice_id_of(dossier.id, step.version)
    parameters = letter_parameters(dossier.number, procedure.name, step.state, step.remark, step.at)
    wish = NoticeWish(notice_id, letter, parameters, step.at, trace)
    return replace(step, notice=Notice(notice_id, step.at, Fate.QUEUED, step.at)), wish
