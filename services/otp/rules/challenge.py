"""A challenge: "this subject must prove, for this purpose". Who may ask about it, and whether a code can still open it.

It has **generations**, each one code and one letter (`generation.py`). Whether it is open is computed for a `now` from
what was seen; only verifying, cancelling and attempts are written down.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from services.otp.rules.entry import Entry
from services.otp.rules.generation import Cause, Delivery, Generation
from services.otp.rules.policy import MAX_LIVE, Purpose

KEPT_AFTER_END = timedelta(hours=1)
"""So that a code typed long after is told "too late", not "never heard of it"."""


class State(StrEnum):
    """Open, or how it ended."""

    OPEN = "open"
    VERIFIED = "verified"
    CANCELLED = "cancelled"
    SPENT = "spent"
    ENDED = "ended"


class Stall(StrEnum):
    """Why no letter comes by itself any more."""

    CHANNEL_SLOW = "channel_slow"
    """Mail to this mailbox takes longer than a code may live."""
    BUDGET = "budget"
    """The reissues of this challenge are used up."""
    QUOTA = "quota"
    """A limit on mails is reached."""
    OVERLOAD = "overload"
    """A new letter would wait too long."""


@dataclass(frozen=True, slots=True)
class SealedPart:
    """Address, name, context and the decoy flag, encrypted for the mailer."""

    kid: str
    nonce: bytes
    ciphertext: bytes


@dataclass(frozen=True, slots=True)
class Fresh:
    """What a new generation needs beside its number: drawn, or keyed, outside the rules."""

    reference: str
    code_kid: str
    sealed: SealedPart


@dataclass(frozen=True, slots=True)
class Handle:
    """Somebody who may ask about the challenge: a caller, and the hash of the secret that only they got."""

    caller: str
    secret_sha256: bytes
    attempts: int = 0
    joined: bool = False
    """It came to a letter that waited already; kept, so that a repeat is answered the same."""
    cancelled: bool = False
    """Given back; opens nothing any more."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """One record of the store; `version` grows by one with each commit."""

    id: str
    version: int
    purpose: str
    subject_key: str
    """Names the record of its subject, in the same shard."""
    same_wish: str
    """HMAC of caller, purpose, subject, address and context: who asks for the same joins."""
    locale: str
    code_length: int
    context_sha256: bytes
    sealed: SealedPart
    """Of the newest generation."""
    made_at: datetime
    ends_at: datetime
    generations: tuple[Generation, ...]
    """Oldest first."""
    handles: tuple[Handle, ...]
    entries: tuple[Entry, ...] = ()
    """Oldest first; a minute's worth."""
    attempts: int = 0
    verified_at: datetime | None = None
    stalled: Stall | None = None
    unseen: int = 0
    """Versions of which callers are shown nothing, because its purpose is `enumeration_safe`."""

    def handle_of(self, caller: str, secret_sha256: bytes) -> int | None:
        """Return the place of the handle, if it is this caller's; hashes are compared, so the timing tells nothing."""
        for place, handle in enumerate(self.handles):
            if handle.caller == caller and handle.secret_sha256 == secret_sha256:
                return place
        return None

    @property
    def newest(self) -> Generation:
        """The last generation made."""
        return self.generations[-1]

    @property
    def is_cancelled(self) -> bool:
        """True when every handle was given back."""
        return all(handle.cancelled for handle in self.handles)

    @property
    def kept_until(self) -> datetime:
        """Until when its record is kept."""
        return self.ends_at + KEPT_AFTER_END

    def state(self, purpose: Purpose, now: datetime) -> State:
        """Return whether it is open, or how it ended."""
        if self.verified_at:
            return State.VERIFIED
        if self.is_cancelled:
            return State.CANCELLED
        if now > self.ends_at:
            return State.ENDED
        return State.SPENT if self.attempts >= purpose.attempts else State.OPEN

    def live(self, now: datetime) -> list[Generation]:
        """Return the generations whose code is accepted: those that are good, at most the `MAX_LIVE` newest of them.

        No letter is made while that many are good, but a late event may revive the code of an earlier one.
        """
        good = [generation for generation in self.generations if generation.is_good(self.ends_at, now)]
        return good[-MAX_LIVE:]

    def as_shown(self, purpose: Purpose) -> Challenge:
        """Return what callers may know of it; for a purpose that is `enumeration_safe` nothing after the hand-over."""
        if not purpose.enumeration_safe:
            return self
        return replace(self, generations=tuple(generation.as_shown() for generation in self.generations))

    def cooled_at(self, purpose: Purpose) -> datetime:
        """Return when the pause after the newest letter ends."""
        return self.newest.left_us_at + purpose.cooldown_after(len(self.generations))

    def resend_allowed_at(self, purpose: Purpose, now: datetime) -> datetime:
        """Return when another letter may be asked for, as known now.

        A cooldown after the newest left us, and not before fewer than two codes are good: no code is killed to make
        room for another, and each that lives doubles the chance of a guess.
        """
        shown = self.as_shown(purpose)
        ends = sorted(generation.good_until(self.ends_at) for generation in shown.live(now))
        if len(ends) < MAX_LIVE:
            return self.cooled_at(purpose)
        return max(self.cooled_at(purpose), ends[-MAX_LIVE] + timedelta.resolution)  # good through its last instant

    def ask_anew_at(self, purpose: Purpose, now: datetime) -> datetime:
        """Return when its subject may ask for another challenge; while a letter waits, a cooldown from its making.

        So a citizen who mistyped the address asks again within a minute, and not when the first letter is given up.
        """
        since = self.newest.made_at if self.newest.waits(now) else self.newest.left_us_at
        return since + purpose.cooldown_after(len(self.generations))

    def can_hold_another(self, now: datetime) -> bool:
        """Say whether one more code could live its life before the challenge ends."""
        return now + self.newest.life < self.ends_at

    def with_newest(self, generation: Generation) -> Challenge:
        """Return it, one version on, with its newest generation changed."""
        return replace(self, version=self.version + 1, generations=(*self.generations[:-1], generation))


def first_generation(purpose: Purpose, fresh: Fresh, now: datetime, ends_at: datetime) -> Generation:
    """Return the generation that a request makes."""
    return _generation(1, purpose, fresh, made_at=now, ends_at=ends_at)


def with_another(
    challenge: Challenge,
    purpose: Purpose,
    fresh: Callable[[Challenge, int], Fresh],
    *,
    cause: Cause,
    now: datetime,
    asked_by: bytes = b"",
) -> Challenge:
    """Return the challenge, one version on, with a new generation; whether that may be is for the caller to know."""
    number = challenge.newest.number + 1
    drawn = fresh(challenge, number)
    generation = _generation(number, purpose, drawn, made_at=now, ends_at=challenge.ends_at)
    return replace(
        challenge,
        version=challenge.version + 1,
        generations=(*challenge.generations, replace(generation, cause=cause, asked_by=asked_by)),
        sealed=drawn.sealed,
        stalled=None,
    )


def without_handle(challenge: Challenge, place: int) -> Challenge:
    """Return the challenge, one version on, with a handle given back."""
    handles = list(challenge.handles)
    handles[place] = replace(handles[place], cancelled=True)
    return replace(challenge, version=challenge.version + 1, handles=tuple(handles))


def last_wanted(purpose: Purpose, now: datetime, ends_at: datetime) -> datetime:
    """Return until when a letter is wanted that is asked for now: taken later, its code would be cut short."""
    return min(now + purpose.deadline, ends_at - purpose.life)


def with_delivery(challenge: Challenge, number: int, delivery: Delivery, received_at: datetime) -> Challenge | None:
    """Return the challenge after a delivery event, or `None` when it says nothing new or names no generation of it."""
    merged = tuple(
        generation.merged(delivery, received_at) if generation.number == number else generation
        for generation in challenge.generations
    )
    if merged == challenge.generations:
        return None
    return replace(challenge, version=challenge.version + 1, generations=merged)


def _generation(number: int, purpose: Purpose, fresh: Fresh, *, made_at: datetime, ends_at: datetime) -> Generation:
    return Generation(
        number=number,
        reference=fresh.reference,
        cause=Cause.REQUESTED,
        code_kid=fresh.code_kid,
        made_at=made_at,
        wanted_until=last_wanted(purpose, made_at, ends_at),
        life=purpose.life,
        max_life=purpose.max_life,
    )
