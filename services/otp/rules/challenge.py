"""A challenge: "this subject must prove, for this purpose". What it is, what is true now, what each event makes of it.

A challenge has **generations**: each is one code and one letter. Nothing here is a state machine with a stored state: a
record keeps what was *seen* (instants), and what follows from it (fate, good-until, state) is computed for a `now`. So
events may come twice, late or out of order, and applying one is a monotone merge.

**The clock of a code.** With `e` = earliest first body octet of any copy, `h` = latest SMTP 250, `d` = earliest trusted
delivery: good until `min(max(h, d) + life, e + max_life, end of the challenge)`. While no hand-over is known the code
is good until `deadline + grace + max_life`: whoever types it evidently has it. Once a citizen was told "expired", it
stays expired.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from services.otp.rules.policy import GRACE, MAX_LIVE, Purpose


class Fate(StrEnum):
    """Where a letter is."""

    QUEUED = "queued"
    HANDED_OVER = "handed_over"
    DEFERRED = "deferred"
    DELIVERED = "delivered"
    BOUNCED = "bounced"
    REFUSED = "refused"
    DROPPED = "dropped"


class Cause(StrEnum):
    """Who wanted a letter."""

    REQUESTED = "requested"


class State(StrEnum):
    """Open, or how it ended."""

    OPEN = "open"
    VERIFIED = "verified"
    SPENT = "spent"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class SealedPart:
    """Address, name, context and the decoy flag, encrypted for the mailer."""

    kid: str
    nonce: bytes
    ciphertext: bytes


@dataclass(frozen=True, slots=True)
class Delivery:
    """What the mailer says happened to a letter. Exactly the fields of its fate are set."""

    fate: Fate
    at: datetime
    body_started_at: datetime | None = None
    exposed: bool = False
    """Of a dropped letter: its body may have left the house."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One code and one letter."""

    number: int
    """1 for the first."""
    reference: str
    """Public mark that tells two mails apart."""
    cause: Cause
    code_kid: str
    made_at: datetime
    deadline: datetime
    """When the letter is no longer worth sending."""
    life: timedelta
    max_life: timedelta
    body_started_at: datetime | None = None
    handed_over_at: datetime | None = None
    delivered_at: datetime | None = None
    deferred_at: datetime | None = None
    bounced_at: datetime | None = None
    refused_at: datetime | None = None
    dropped_at: datetime | None = None
    exposed: bool = False
    told_expired: bool = False

    @property
    def fate(self) -> Fate:
        """What is known of the letter: the strongest word that was heard."""
        if self.delivered_at:
            return Fate.DELIVERED
        if self.bounced_at:
            return Fate.BOUNCED
        if self.handed_over_at:
            later = self.deferred_at and self.deferred_at > self.handed_over_at
            return Fate.DEFERRED if later else Fate.HANDED_OVER
        if self.refused_at:
            return Fate.REFUSED
        if self.dropped_at:
            return Fate.DROPPED
        return Fate.DEFERRED if self.deferred_at else Fate.QUEUED

    def waits(self, now: datetime) -> bool:
        """Say whether the letter is still in our hands."""
        return self._never_left and now <= self.deadline + GRACE

    def is_presumed_dropped(self, now: datetime) -> bool:
        """Say whether nobody has heard of the letter, long enough past its deadline."""
        return self._never_left and now > self.deadline + GRACE

    @property
    def _never_left(self) -> bool:
        return self.handed_over_at is None and self.fate in {Fate.QUEUED, Fate.DEFERRED}

    @property
    def left_us_at(self) -> datetime:
        """When it left our hands or was given up; while nothing is heard, when it will be presumed dropped."""
        ended = _earliest(self.delivered_at, self.bounced_at, self.refused_at, self.dropped_at)
        return self.handed_over_at or ended or self.deadline + GRACE

    def good_until(self, challenge_ends_at: datetime) -> datetime:
        """Return until when the code is accepted, as known now."""
        arrived = max((at for at in (self.handed_over_at, self.delivered_at) if at), default=None)
        if arrived is None:
            return min(self.deadline + GRACE + self.max_life, challenge_ends_at)
        began = self.body_started_at or arrived
        return min(arrived + self.life, began + self.max_life, challenge_ends_at)

    def is_good(self, challenge_ends_at: datetime, now: datetime) -> bool:
        """Say whether the code opens the challenge at `now`."""
        arrived = self.handed_over_at is not None or self.delivered_at is not None
        killed = self.dropped_at is not None and not self.exposed and not arrived
        return not killed and not self.told_expired and now <= self.good_until(challenge_ends_at)

    def merged(self, delivery: Delivery, received_at: datetime) -> Generation:  # noqa: C901, PLR0911 - a case per fate
        """Return what is known after `delivery`; the same in any order and however often it comes.

        Foreign clocks are not trusted beyond what is possible: instants are clamped into [made, received].
        """

        def clamp(at: datetime) -> datetime:
            return min(max(at, self.made_at), received_at)

        at = clamp(delivery.at)
        match delivery.fate:
            case Fate.HANDED_OVER:
                return replace(
                    self,
                    body_started_at=_earliest(self.body_started_at, clamp(delivery.body_started_at or delivery.at)),
                    handed_over_at=_latest(self.handed_over_at, at),
                )
            case Fate.DELIVERED:
                return replace(self, delivered_at=_earliest(self.delivered_at, at))
            case Fate.DEFERRED:
                return replace(self, deferred_at=_latest(self.deferred_at, at))
            case Fate.BOUNCED:
                return replace(self, bounced_at=_earliest(self.bounced_at, at))
            case Fate.REFUSED:
                return replace(self, refused_at=_earliest(self.refused_at, at))
            case Fate.DROPPED:
                exposed = self.exposed or delivery.exposed
                return replace(self, dropped_at=_earliest(self.dropped_at, at), exposed=exposed)
            case Fate.QUEUED:
                return self


@dataclass(frozen=True, slots=True)
class Handle:
    """Somebody who may ask about the challenge: a caller, and the hash of the secret that only they got."""

    caller: str
    secret_sha256: bytes
    attempts: int = 0
    joined: bool = False
    """It came to a letter that waited already; kept, so that a repeat is answered the same."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """One record of the store; `version` grows by one with each commit."""

    id: str
    version: int
    purpose: str
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
    attempts: int = 0
    verified_at: datetime | None = None

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

    def state(self, purpose: Purpose, now: datetime) -> State:
        """Return whether it is open, or how it ended."""
        if self.verified_at:
            return State.VERIFIED
        if now > self.ends_at:
            return State.ENDED
        return State.SPENT if self.attempts >= purpose.attempts else State.OPEN

    def resend_allowed_at(self, purpose: Purpose, now: datetime) -> datetime:
        """Return when another letter may be asked for, as known now.

        A cooldown after the newest left us, and not before fewer than two codes are good: no code is killed to make
        room for another, and each that lives doubles the chance of a guess.
        """
        cooled = self.newest.left_us_at + purpose.cooldown
        ends = sorted(g.good_until(self.ends_at) for g in self.generations if g.is_good(self.ends_at, now))
        if len(ends) < MAX_LIVE:
            return cooled
        return max(cooled, ends[-MAX_LIVE] + timedelta.resolution)  # a code is good through its last instant


def with_delivery(challenge: Challenge, number: int, delivery: Delivery, received_at: datetime) -> Challenge | None:
    """Return the challenge after a delivery event, or `None` when it says nothing new or names no generation of it."""
    merged = tuple(
        generation.merged(delivery, received_at) if generation.number == number else generation
        for generation in challenge.generations
    )
    if merged == challenge.generations:
        return None
    return replace(challenge, version=challenge.version + 1, generations=merged)


def _earliest(*instants: datetime | None) -> datetime | None:
    return min((at for at in instants if at is not None), default=None)


def _latest(*instants: datetime | None) -> datetime | None:
    return max((at for at in instants if at is not None), default=None)
