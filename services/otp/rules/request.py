"""What becomes of a wish for a code: a new challenge, a new letter, a place beside a letter that waits, or "too soon".

Asking again never makes it worse: while the letter of the same wish waits, a second request joins it and keeps its
place, and no code is ever killed to make room for another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from services.otp.rules.challenge import Challenge, Fresh, Handle, State, first_generation, with_another
from services.otp.rules.generation import Cause
from services.otp.rules.policy import MAX_HANDLES, Purpose
from services.otp.rules.renewal import asked_again
from services.otp.rules.subject import Subject

MOST_HANDLES = 4 * MAX_HANDLES
"""Kept of one challenge, those given back included: a page that opens and closes for ever asks for a new one."""


@dataclass(frozen=True, slots=True)
class Wish:
    """A valid request, with everything that had to be drawn or keyed beforehand, so that a repeat decides the same."""

    purpose: Purpose
    challenge_id: str
    """For a new challenge."""
    same_wish: str
    handle: Callable[[str], Handle]
    """Challenge id → the handle of this request on that challenge."""
    fresh: Callable[[str, int], Fresh]
    """Challenge id, number of the generation → what it needs."""
    locale: str
    context_sha256: bytes


@dataclass(frozen=True, slots=True)
class Queued:
    """A letter was made and waits."""

    challenge: Challenge
    subject: Subject


@dataclass(frozen=True, slots=True)
class Joined:
    """A letter of the same wish waits already; nothing was queued, but it may be wanted for longer now."""

    challenge: Challenge
    extended: bool


@dataclass(frozen=True, slots=True)
class Repeated:
    """This very request was decided before; nothing changes."""

    challenge: Challenge


@dataclass(frozen=True, slots=True)
class GivenBack:
    """This very request was decided before, and its handle given back since."""


@dataclass(frozen=True, slots=True)
class TooSoon:
    """Not now."""

    retry_after: timedelta


def decide_request(
    wish: Wish, subject: Subject, same: Challenge | None, latest: Challenge | None, now: datetime
) -> Queued | Joined | Repeated | GivenBack | TooSoon:
    """Decide.

    Args:
        wish: what is asked for.
        subject: its record; version 0 when there is none yet.
        same: the newest challenge of the same wish, or the one that this very request made.
        latest: the newest challenge of the subject, whatever its wish.
        now: the store's time.
    """
    if same is not None:
        handle = wish.handle(same.id)
        place = same.handle_of(handle.caller, handle.secret_sha256)
        if place is not None:
            return GivenBack() if same.handles[place].cancelled else Repeated(same)
        if same.state(wish.purpose, now) is State.OPEN and same.same_wish == wish.same_wish:
            return _asked_again(wish, subject, same, now)
    wait = latest.ask_anew_at(wish.purpose, now) - now if latest else timedelta(0)
    return TooSoon(wait) if wait > timedelta(0) else _opened(wish, subject, now)


def _asked_again(wish: Wish, subject: Subject, same: Challenge, now: datetime) -> Queued | Joined | TooSoon:
    purpose = wish.purpose
    held = sum(not handle.cancelled for handle in same.handles)
    has_room = held < MAX_HANDLES and len(same.handles) < MOST_HANDLES
    if same.newest.waits(now):
        if not has_room:
            return TooSoon(purpose.cooldown_after(1))
        extended = asked_again(same, purpose, now)
        return Joined(_with_handle(wish, extended or same, same, joined=True), extended=extended is not None)
    wait = same.resend_allowed_at(purpose, now) - now
    if wait > timedelta(0):
        return TooSoon(wait)
    if not has_room or not same.can_hold_another(now):
        return _opened(wish, subject, now)
    another = with_another(same, purpose, lambda it, number: wish.fresh(it.id, number), cause=Cause.REQUESTED, now=now)
    challenge = _with_handle(wish, another, same, joined=False)
    return Queued(challenge, subject.with_challenge(challenge))


def _with_handle(wish: Wish, changed: Challenge, stored: Challenge, *, joined: bool) -> Challenge:
    handle = replace(wish.handle(stored.id), joined=joined)
    return replace(changed, version=stored.version + 1, handles=(*stored.handles, handle))


def _opened(wish: Wish, subject: Subject, now: datetime) -> Queued:
    ends_at = now + wish.purpose.challenge_life
    fresh = wish.fresh(wish.challenge_id, 1)
    challenge = Challenge(
        id=wish.challenge_id,
        version=1,
        purpose=wish.purpose.name,
        subject_key=subject.key,
        same_wish=wish.same_wish,
        locale=wish.locale,
        code_length=wish.purpose.digits,
        context_sha256=wish.context_sha256,
        sealed=fresh.sealed,
        made_at=now,
        ends_at=ends_at,
        generations=(first_generation(wish.purpose, fresh, now, ends_at),),
        handles=(wish.handle(wish.challenge_id),),
    )
    return Queued(challenge, subject.with_challenge(challenge))
