"""What a typed code is worth.

The attempt is counted before anything is compared: against the handle, the challenge, and the subject's row of
failures. A right entry is no guess and gives it back. An entry that was counted before a lock began is judged: the lock
bounds what is counted, and so what is compared.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime

from services.otp.rules.challenge import Challenge, Stall, State
from services.otp.rules.code_fate import with_entry_judged
from services.otp.rules.entry import Answer, Attempt, Entry, EntryName, with_answer, with_entry
from services.otp.rules.policy import Purpose
from services.otp.rules.renewal import FreshFor, reissued, replacement
from services.otp.rules.subject import Subject

PARTING_CATEGORIES = frozenset({"Pd", "Cf"})  # Unicode's dashes, and the marks nobody sees that come with a paste
PARTING = frozenset(".\u2212")  # the full stop, and the minus sign


@dataclass(frozen=True, slots=True)
class Accepted:
    """The right code, now used up; once per challenge."""

    verified_at: datetime
    context: str = ""


@dataclass(frozen=True, slots=True)
class Wrong:
    """Not the code."""

    attempts_left: int


@dataclass(frozen=True, slots=True)
class Expired:
    """The right code, too late."""

    reference: str = ""
    """Of the letter that replaces it; empty when there is none."""
    expected_at: datetime | None = None
    """When that should leave, as far as it is known; not kept for a repeat."""


@dataclass(frozen=True, slots=True)
class Locked:
    """Nothing was compared. From then on: type again, or ask for a new code when this challenge has no attempt left."""

    retry_at: datetime


@dataclass(frozen=True, slots=True)
class Used:
    """A second right entry."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """No such challenge, as far as this caller is told."""


Verdict = Accepted | Wrong | Expired | Locked | Used | Unknown


@dataclass(frozen=True, slots=True)
class Case:
    """What an entry is judged over."""

    challenge: Challenge
    subject: Subject
    place: int
    """Which handle of the challenge."""
    purpose: Purpose
    now: datetime


@dataclass(frozen=True, slots=True)
class Counted:
    """An attempt was spent; commit this before comparing."""

    challenge: Challenge
    subject: Subject
    attempt: Attempt


@dataclass(frozen=True, slots=True)
class Judged:
    """A verdict, and the records to commit with it; those that do not change are absent."""

    verdict: Verdict
    challenge: Challenge | None = None
    subject: Subject | None = None


def cleaned(typed: str) -> str:
    """Return the digits that were meant: full-width ones made plain, without spaces, dashes and what nobody sees."""
    plain = unicodedata.normalize("NFKC", typed)
    return "".join(char for char in plain if not _parts_digits(char))


def _parts_digits(char: str) -> bool:
    return char.isspace() or char in PARTING or unicodedata.category(char) in PARTING_CATEGORIES


def attempts_left(challenge: Challenge, place: int, purpose: Purpose) -> int:
    """Return how many guesses the handle still has."""
    return max(
        min(purpose.attempts_per_handle - challenge.handles[place].attempts, purpose.attempts - challenge.attempts), 0
    )


def counted(case: Case, name: EntryName | None) -> Counted | Locked:
    """Spend an attempt of the handle, or say until when none is left."""
    challenge, now = case.challenge, case.now
    locked_until = case.subject.locked_until(now)
    if locked_until is not None:
        return Locked(locked_until)
    if attempts_left(challenge, case.place, case.purpose) == 0:
        return Locked(max(now, challenge.ask_anew_at(case.purpose, now)))
    attempt = Attempt(now, case.subject.counted_at)
    spent = _with_attempts(challenge, case.place, by=1)
    if name is not None:
        spent = replace(spent, entries=with_entry(spent.entries, Entry(name, attempt), now))
    return Counted(spent, case.subject.with_failure(now), attempt)


def judged(
    case: Case,
    attempt: Attempt,
    name: EntryName | None,
    right: Collection[int],
    fresh: FreshFor | None,
    *,
    forbidden: Stall | None = None,
) -> Judged:
    """Judge an attempt that has been counted.

    Args:
        case: the records as they are stored then.
        attempt: what counting it changed.
        name: what its repeat is known by, if it has a key.
        right: the generations whose code was typed.
        fresh: makes what a replacing letter needs; none when no letter can be made here.
        forbidden: what forbids a replacing letter, if anything does.
    """
    outcome = _right(case, attempt, right, fresh, forbidden) if right else _wrong(case)
    if name is None:
        return outcome
    changed = outcome.challenge or replace(case.challenge, version=case.challenge.version + 1)
    entries = with_answer(changed.entries, name.key, answer_of(outcome.verdict))
    return replace(outcome, challenge=replace(changed, entries=entries))


def _wrong(case: Case) -> Judged:
    challenge = case.challenge
    verdict = Wrong(attempts_left(challenge, case.place, case.purpose))
    if challenge.state(case.purpose, case.now) is State.SPENT and challenge.newest.waits(case.now):
        return Judged(verdict, replace(challenge, version=challenge.version + 1))  # so that its letter is withdrawn
    return Judged(verdict)


def _right(
    case: Case, attempt: Attempt, right: Collection[int], fresh: FreshFor | None, forbidden: Stall | None
) -> Judged:
    refunded = with_entry_judged(_with_attempts(case.challenge, case.place, by=-1), right, case.purpose, case.now)
    no_guess = case.subject.without_failure(attempt.counted_at, attempt.row_before)
    if refunded.verified_at is not None:
        return Judged(Used(), refunded, no_guess)
    if any(generation.number in right for generation in refunded.live(case.now)):
        return Judged(Accepted(case.now), replace(refunded, verified_at=case.now), case.subject.forgiven())
    told = tuple(replace(g, told_expired=True) if g.number in right else g for g in refunded.generations)
    expired = replace(refunded, generations=told)
    is_replaced = replacement(expired, right, case.now) is not None
    renewed = expired
    if not is_replaced:
        renewed = reissued(expired, fresh, case.purpose, case.now, forbidden=forbidden) or expired
    verdict = Expired(replacement(renewed, right, case.now) or "")
    return Judged(verdict, replace(renewed, version=refunded.version), no_guess)


def uncounted(challenge: Challenge, place: int) -> Challenge:
    """Return the challenge as it was before an attempt of the handle was counted."""
    return replace(_with_attempts(challenge, place, by=-1), version=challenge.version)


def _with_attempts(challenge: Challenge, place: int, *, by: int) -> Challenge:
    handle = challenge.handles[place]
    handles = list(challenge.handles)
    handles[place] = replace(handle, attempts=handle.attempts + by)
    return replace(challenge, version=challenge.version + 1, handles=tuple(handles), attempts=challenge.attempts + by)


def answer_of(verdict: Verdict) -> Answer:
    """Return a verdict as it is kept; without the context, which is sealed."""
    match verdict:
        case Accepted(verified_at):
            return Answer("accepted", at=verified_at)
        case Wrong(left):
            return Answer("wrong", attempts_left=left)
        case Expired(reference):
            return Answer("expired", reference=reference)
        case Used():
            return Answer("used")
        case Locked() | Unknown():
            raise AssertionError("what was not compared has no answer to keep")


def verdict_of(answer: Answer) -> Verdict:
    """Return the verdict that was kept."""
    match answer:
        case Answer("accepted", at=at) if at is not None:
            return Accepted(at)
        case Answer("wrong", attempts_left=left):
            return Wrong(left)
        case Answer("expired", reference=reference):
            return Expired(reference)
        case _:
            return Used()
