"""Another letter for an open challenge: by a click, or by itself because the last one is of no use.

No code is killed to make room for another, no letter is queued while one waits, and at most `REISSUES` letters of a
challenge are made by the service itself. Where it would help and may not, the challenge is *stalled* and says why; a
click may still try, the machine does not.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from datetime import datetime

from services.otp.rules.challenge import Challenge, Fresh, Stall, State, last_wanted, with_another
from services.otp.rules.generation import Cause, Fate, Generation
from services.otp.rules.policy import MAX_LIVE, REISSUES, Purpose

FreshFor = Callable[[Challenge, int], Fresh]
"""Challenge, number of the new generation → what it needs."""


@dataclass(frozen=True, slots=True)
class Resent:
    """A new letter is queued."""

    challenge: Challenge


@dataclass(frozen=True, slots=True)
class StillQueued:
    """The last letter waits; it is wanted for longer now, if that was worth writing down."""

    challenge: Challenge
    extended: bool


@dataclass(frozen=True, slots=True)
class ResentBefore:
    """This very click queued a letter already."""

    challenge: Challenge


@dataclass(frozen=True, slots=True)
class NotYet:
    """Too soon; `resend_allowed_at` says when."""


@dataclass(frozen=True, slots=True)
class NotOpen:
    """The challenge has ended, or cannot hold another code: ask for a new one."""


def decide_resend(
    challenge: Challenge, asked_by: bytes, fresh: FreshFor, purpose: Purpose, now: datetime
) -> Resent | StillQueued | ResentBefore | NotYet | NotOpen:
    """Decide about a click; `asked_by` names it, so that its repeat is known."""
    if any(generation.asked_by == asked_by for generation in challenge.generations):
        return ResentBefore(challenge)
    if challenge.state(purpose, now) is not State.OPEN:
        return NotOpen()
    if challenge.newest.waits(now):
        extended = asked_again(challenge, purpose, now)
        return StillQueued(extended or challenge, extended=extended is not None)
    if not challenge.can_hold_another(now):
        return NotOpen()
    if now < challenge.resend_allowed_at(purpose, now):
        return NotYet()
    return Resent(with_another(challenge, purpose, fresh, cause=Cause.RESENT, now=now, asked_by=asked_by))


def asked_again(challenge: Challenge, purpose: Purpose, now: datetime) -> Challenge | None:
    """Return the challenge with its waiting letter wanted as long as if asked for now; `None` when it is already."""
    extended = challenge.newest.extended(last_wanted(purpose, now, challenge.ends_at))
    return challenge.with_newest(extended) if extended else None


def kept_wanted(challenge: Challenge, purpose: Purpose, now: datetime) -> Challenge | None:
    """Return the challenge after somebody has watched it; `None` when that changes nothing.

    Near its deadline, a letter that somebody waits for is kept wanted, once: who leaves a page open for days does not
    keep mails alive for days.
    """
    newest = challenge.newest
    is_due = newest.waits(now) and not newest.watch_extended and now >= newest.wanted_until - purpose.reserve
    if not is_due or challenge.state(purpose, now) is not State.OPEN:
        return None
    extended = newest.extended(last_wanted(purpose, now, challenge.ends_at))
    return challenge.with_newest(replace(extended, watch_extended=True)) if extended else None


def healed(
    challenge: Challenge,
    fresh: FreshFor,
    purpose: Purpose,
    now: datetime,
    *,
    is_watched: bool,
    forbidden: Stall | None = None,
) -> Challenge | None:
    """Return the challenge with a letter made by itself, or stalled, when its last letter is of no use.

    It is of no use when a receipt says that it came too late to be typed, or that the relay will try it again only when
    it is too late; or when the mailer dropped it while it was still wanted: before its deadline, or with somebody
    watching. `None` when nothing is to be done. What a receipt says brings no letter for a purpose that is
    `enumeration_safe`: a decoy never gets a receipt.
    """
    newest = challenge.newest
    is_late = _is_too_late(challenge, newest, purpose) and not purpose.enumeration_safe
    is_lost = newest.fate is Fate.DROPPED and (is_watched or now < newest.wanted_until)
    return reissued(challenge, fresh, purpose, now, forbidden=forbidden) if is_late or is_lost else None


def reissued(
    challenge: Challenge, fresh: FreshFor | None, purpose: Purpose, now: datetime, *, forbidden: Stall | None = None
) -> Challenge | None:
    """Return the challenge with a letter made by itself, or stalled; `None` when neither is to be done.

    Nothing is made while a letter waits, while `MAX_LIVE` codes are good, or for a challenge that has ended; nor again
    for one that was forbidden a letter, by what `forbidden` names.
    """
    if challenge.state(purpose, now) is not State.OPEN or challenge.newest.waits(now):
        return None
    stall = _stall(challenge, purpose, now) or forbidden or _standing(challenge)
    if stall is not None:
        is_told = stall is challenge.stalled
        return None if is_told else replace(challenge, version=challenge.version + 1, stalled=stall)
    if fresh is None or len(challenge.live(now)) >= MAX_LIVE:
        return None  # no letter can be made here, or not now; a click may still try
    return with_another(challenge, purpose, fresh, cause=Cause.REISSUED, now=now)


def has_another(before: Challenge, after: Challenge | None) -> bool:
    """Say whether `after` has a letter that `before` has not."""
    return after is not None and after.newest.number > before.newest.number


def replacement(challenge: Challenge, typed: Collection[int], now: datetime) -> str | None:
    """Return the reference of the letter that replaces those typed: on its way, or there; `None` when there is none."""
    newest = challenge.newest
    left = newest.handed_over_at or newest.arrived_at
    is_there = left is not None and newest.fate is not Fate.BOUNCED and newest.is_good(challenge.ends_at, now)
    return newest.reference if newest.number not in typed and (newest.waits(now) or is_there) else None


def _stall(challenge: Challenge, purpose: Purpose, now: datetime) -> Stall | None:
    if not challenge.can_hold_another(now):
        return Stall.CHANNEL_SLOW
    if sum(generation.cause is Cause.REISSUED for generation in challenge.generations) < REISSUES:
        return None
    is_slow = all(_is_too_late(challenge, generation, purpose) for generation in challenge.generations)
    return Stall.CHANNEL_SLOW if is_slow else Stall.BUDGET


def _standing(challenge: Challenge) -> Stall | None:
    """Return why the machine was forbidden a letter before: it does not ask again, however often it would help."""
    return challenge.stalled if challenge.stalled in {Stall.QUOTA, Stall.OVERLOAD} else None


def _is_too_late(challenge: Challenge, generation: Generation, purpose: Purpose) -> bool:
    ends_at, reserve = challenge.ends_at, purpose.reserve
    return generation.came_too_late(ends_at, reserve) or generation.will_come_too_late(ends_at, reserve)
