"""What becomes of a wish for a code: a new challenge, a new letter, a place beside a letter that waits, or "too soon".

Asking again never makes it worse: while the letter of the same wish waits, a second request joins it and keeps its
place, and no code is ever killed to make room for another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from services.otp.rules.challenge import Cause, Challenge, Generation, Handle, SealedPart
from services.otp.rules.policy import MAX_HANDLES, Purpose


@dataclass(frozen=True, slots=True)
class Wish:
    """A valid request, with everything that had to be drawn or keyed beforehand, so that a repeat decides the same."""

    purpose: Purpose
    challenge_id: str
    """For a new challenge."""
    same_wish: str
    handle: Callable[[str], Handle]
    """Challenge id → the handle of this request on that challenge."""
    seal: Callable[[str, int], SealedPart]
    """Challenge id, generation → the sealed part for that letter."""
    reference: str
    code_kid: str
    locale: str
    context_sha256: bytes


@dataclass(frozen=True, slots=True)
class Subject:
    """What is remembered of a subject and purpose: its latest challenge."""

    key: str
    version: int
    challenge_id: str


@dataclass(frozen=True, slots=True)
class Queued:
    """A letter was made and waits."""

    challenge: Challenge
    subject: Subject


@dataclass(frozen=True, slots=True)
class Joined:
    """A letter of the same wish waits already; nothing was queued."""

    challenge: Challenge


@dataclass(frozen=True, slots=True)
class Repeated:
    """This very request was decided before; nothing changes."""

    challenge: Challenge
    joined: bool


@dataclass(frozen=True, slots=True)
class TooSoon:
    """Not now."""

    retry_after: timedelta


def decide_request(
    wish: Wish, subject_key: str, subject: Subject | None, latest: Challenge | None, now: datetime
) -> Queued | Joined | Repeated | TooSoon:
    """Decide; `latest` is the challenge that `subject` names, if it still exists."""
    if latest is None:
        return _opened(wish, subject_key, subject, now)
    handle = wish.handle(latest.id)
    place = latest.handle_of(handle.caller, handle.secret_sha256)
    if place is not None:
        return Repeated(latest, joined=latest.handles[place].joined)
    is_open = latest.verified_at is None and now <= latest.ends_at and latest.attempts < wish.purpose.attempts
    if is_open and latest.same_wish == wish.same_wish:
        return _asked_again(wish, subject_key, subject, latest, now)
    wait = _wait(wish.purpose, latest, now)
    return TooSoon(wait) if wait > timedelta(0) else _opened(wish, subject_key, subject, now)


def _asked_again(
    wish: Wish, subject_key: str, subject: Subject | None, latest: Challenge, now: datetime
) -> Queued | Joined | TooSoon:
    purpose = wish.purpose
    has_room = len(latest.handles) < MAX_HANDLES
    if latest.newest.waits(now):
        return Joined(_with_handle(wish, latest, joined=True)) if has_room else TooSoon(purpose.cooldown)
    wait = latest.resend_allowed_at(purpose, now) - now
    if wait > timedelta(0):
        return TooSoon(wait)
    if not has_room or now + purpose.life >= latest.ends_at:  # one more code could not live its life here
        return _opened(wish, subject_key, subject, now)
    number = latest.newest.number + 1
    challenge = replace(
        _with_handle(wish, latest, joined=False),
        generations=(*latest.generations, _generation(wish, number, now, latest.ends_at)),
        sealed=wish.seal(latest.id, number),
    )
    return Queued(challenge, _subject(subject_key, subject, challenge.id))


def _with_handle(wish: Wish, latest: Challenge, *, joined: bool) -> Challenge:
    handle = replace(wish.handle(latest.id), joined=joined)
    return replace(latest, version=latest.version + 1, handles=(*latest.handles, handle))


def _wait(purpose: Purpose, latest: Challenge, now: datetime) -> timedelta:
    """Return how long until the subject may have a letter of another wish; while one waits, a cooldown from its making.

    So a citizen who mistyped the address asks again within a minute, and not when the first letter is given up.
    """
    newest = latest.newest
    since = newest.made_at if newest.waits(now) else newest.left_us_at
    return since + purpose.cooldown - now


def _opened(wish: Wish, subject_key: str, subject: Subject | None, now: datetime) -> Queued:
    ends_at = now + wish.purpose.challenge_life
    challenge = Challenge(
        id=wish.challenge_id,
        version=1,
        purpose=wish.purpose.name,
        same_wish=wish.same_wish,
        locale=wish.locale,
        code_length=wish.purpose.digits,
        context_sha256=wish.context_sha256,
        sealed=wish.seal(wish.challenge_id, 1),
        made_at=now,
        ends_at=ends_at,
        generations=(_generation(wish, 1, now, ends_at),),
        handles=(wish.handle(wish.challenge_id),),
    )
    return Queued(challenge, _subject(subject_key, subject, challenge.id))


def _generation(wish: Wish, number: int, now: datetime, ends_at: datetime) -> Generation:
    last_use = ends_at - wish.purpose.life  # taken later, its code would be cut short by the end of the challenge
    return Generation(
        number=number,
        reference=wish.reference,
        cause=Cause.REQUESTED,
        code_kid=wish.code_kid,
        made_at=now,
        deadline=min(now + wish.purpose.deadline, last_use),
        life=wish.purpose.life,
        max_life=wish.purpose.max_life,
    )


def _subject(key: str, subject: Subject | None, challenge_id: str) -> Subject:
    return Subject(key, (subject.version if subject else 0) + 1, challenge_id)
