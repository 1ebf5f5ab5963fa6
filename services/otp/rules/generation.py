"""A generation of a challenge: one code and one letter. What is known of it, and what each delivery event adds.

Nothing here is a state machine with a stored state: a record keeps what was *seen* (instants), and what follows from it
(fate, good-until) is computed for a `now`. So events may come twice, late or out of order, and applying one is a
monotone merge.

**Who says it.** Our own SMTP conversation, the log of a relay that we run and a signed webhook are trusted. A DSN is
hearsay: it is shown and may bring another letter, and yet starts no clock and proves nothing.

**The clock of a code.** With `e` = earliest first body octet of any copy, `h` = latest SMTP 250, `d` = earliest trusted
delivery: good until `min(max(h, d) + life, e + max_life, end of the challenge)`. While no hand-over is known the code
is good until `wanted_until + grace + max_life`: whoever types it evidently has it. Once a citizen was told "expired",
it stays expired.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from services.otp.rules.policy import GRACE, WANTED_STEP


class Fate(StrEnum):
    """Where a letter is."""

    QUEUED = "queued"
    HANDED_OVER = "handed_over"
    DEFERRED = "deferred"
    DELIVERED = "delivered"
    BOUNCED = "bounced"
    REFUSED = "refused"
    DROPPED = "dropped"


class CodeFate(StrEnum):
    """What became of a code, judged once (`code_fate`)."""

    IN_TIME = "in_time"
    LATE = "late"
    NEVER = "never"
    UNPROVED = "unproved"


class Cause(StrEnum):
    """Who wanted a letter."""

    REQUESTED = "requested"
    RESENT = "resent"
    REISSUED = "reissued"


@dataclass(frozen=True, slots=True)
class Delivery:
    """What the mailer says happened to a letter. Exactly the fields of its fate are set."""

    fate: Fate
    at: datetime
    body_started_at: datetime | None = None
    exposed: bool = False
    """Of a dropped or refused letter: a body of it may have left the house."""
    next_try_at: datetime | None = None
    """Of a letter that the relay deferred: when it tries again, if that is known."""
    is_hearsay: bool = False
    """Told by a DSN."""


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
    wanted_until: datetime
    """When the letter is no longer worth sending; only ever later."""
    life: timedelta
    max_life: timedelta
    asked_by: bytes = b""
    """Which call made it, so that its repeat makes no other; 16 octets, or none."""
    watch_extended: bool = False
    """Somebody who watched has kept it wanted once."""
    body_started_at: datetime | None = None
    handed_over_at: datetime | None = None
    delivered_at: datetime | None = None
    said_delivered_at: datetime | None = None
    """By hearsay."""
    deferred_at: datetime | None = None
    next_try_at: datetime | None = None
    """Of the relay that deferred it, as last told."""
    bounced_at: datetime | None = None
    said_bounced_at: datetime | None = None
    refused_at: datetime | None = None
    dropped_at: datetime | None = None
    exposed: bool = False
    told_expired: bool = False
    code_fate: CodeFate | None = None
    """None until it is judged; then it stays."""

    @property
    def fate(self) -> Fate:
        """What is known of the letter: the strongest word that was heard."""
        if self.delivered_at:
            return Fate.DELIVERED
        if self.bounced_at:
            return Fate.BOUNCED
        if self.said_delivered_at:
            return Fate.DELIVERED
        if self.said_bounced_at:
            return Fate.BOUNCED
        return self._fate_in_our_hands_and_the_relays()

    def _fate_in_our_hands_and_the_relays(self) -> Fate:
        if self.handed_over_at:
            later = self.deferred_at and self.deferred_at > self.handed_over_at
            return Fate.DEFERRED if later else Fate.HANDED_OVER
        if self.refused_at:
            return Fate.REFUSED
        if self.dropped_at:
            return Fate.DROPPED
        return Fate.DEFERRED if self.deferred_at else Fate.QUEUED

    @property
    def given_up_at(self) -> datetime:
        """When a letter that nobody hears of is presumed dropped."""
        return self.wanted_until + GRACE

    def waits(self, now: datetime) -> bool:
        """Say whether the letter is still in our hands."""
        return self._never_left and now <= self.given_up_at

    def is_presumed_dropped(self, now: datetime) -> bool:
        """Say whether nobody has heard of the letter, long enough past its deadline."""
        return self._never_left and now > self.given_up_at

    @property
    def _never_left(self) -> bool:
        return self.handed_over_at is None and self.fate in {Fate.QUEUED, Fate.DEFERRED}

    @property
    def left_us_at(self) -> datetime:
        """When it left our hands or was given up; while nothing is heard, when it will be presumed dropped."""
        trusted = _earliest(self.delivered_at, self.bounced_at, self.refused_at, self.dropped_at)
        ended = trusted or _earliest(self.said_delivered_at, self.said_bounced_at)
        return self.handed_over_at or ended or self.given_up_at

    def good_until(self, challenge_ends_at: datetime) -> datetime:
        """Return until when the code is accepted, as known now."""
        arrived = max((at for at in (self.handed_over_at, self.delivered_at) if at), default=None)
        if arrived is None:
            return min(self.given_up_at + self.max_life, challenge_ends_at)
        began = self.body_started_at or arrived
        return min(arrived + self.life, began + self.max_life, challenge_ends_at)

    def is_good(self, challenge_ends_at: datetime, now: datetime) -> bool:
        """Say whether the code opens the challenge at `now`."""
        arrived = self.handed_over_at is not None or self.delivered_at is not None
        was_given_up = self.refused_at is not None or self.dropped_at is not None
        killed = was_given_up and not self.exposed and not arrived
        return not killed and not self.told_expired and now <= self.good_until(challenge_ends_at)

    def as_shown(self) -> Generation:
        """Return what a caller may know who may not learn whether the mailbox exists: nothing after the hand-over.

        A refusal looks like a hand-over, and a delay like none.
        """
        left = self.handed_over_at or self.refused_at
        if left is None:
            return replace(self, deferred_at=None, code_fate=None)
        return replace(
            self,
            body_started_at=self.body_started_at or left,
            handed_over_at=left,
            delivered_at=None,
            said_delivered_at=None,
            deferred_at=None,
            next_try_at=None,
            bounced_at=None,
            said_bounced_at=None,
            refused_at=None,
            dropped_at=None,
            code_fate=None,
        )

    @property
    def arrived_at(self) -> datetime | None:
        """When it was delivered, by whoever says so."""
        return self.delivered_at or self.said_delivered_at

    def came_too_late(self, challenge_ends_at: datetime, reserve: timedelta) -> bool:
        """Say whether a receipt tells that less than `reserve` was left to type the code."""
        return self.arrived_at is not None and self.arrived_at + reserve > self.good_until(challenge_ends_at)

    def is_tried_in_time(self, challenge_ends_at: datetime, reserve: timedelta, now: datetime) -> bool:
        """Say whether the relay will try it again, and that can still make its code one to be typed."""
        is_ahead = self.fate is Fate.DEFERRED and self.next_try_at is not None and now <= self.next_try_at
        return is_ahead and not self.will_come_too_late(challenge_ends_at, reserve)

    def will_come_too_late(self, challenge_ends_at: datetime, reserve: timedelta) -> bool:
        """Say whether the relay's next try would leave less than `reserve` to type the code.

        A delivery starts the clock anew, so only `max_life` and the end of the challenge can make it so.
        """
        if self.fate is not Fate.DEFERRED or self.handed_over_at is None or self.next_try_at is None:
            return False
        began = self.body_started_at or self.handed_over_at
        good_until = min(self.next_try_at + self.life, began + self.max_life, challenge_ends_at)
        return self.next_try_at + reserve > good_until

    def extended(self, until: datetime) -> Generation | None:
        """Return it as wanted for longer; `None` when that is less than a step, which is not worth telling anybody."""
        return replace(self, wanted_until=until) if until >= self.wanted_until + WANTED_STEP else None

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
            case Fate.DELIVERED if delivery.is_hearsay:
                return replace(self, said_delivered_at=_earliest(self.said_delivered_at, at))
            case Fate.DELIVERED:
                return replace(self, delivered_at=_earliest(self.delivered_at, at))
            case Fate.DEFERRED:
                # Told by the clock that tells `at`: what counts of it is how long after.
                next_try_at = delivery.next_try_at and at + max(delivery.next_try_at - delivery.at, timedelta(0))
                return replace(
                    self,
                    deferred_at=_latest(self.deferred_at, at),
                    next_try_at=_latest(self.next_try_at, next_try_at),
                )
            case Fate.BOUNCED if delivery.is_hearsay:
                return replace(self, said_bounced_at=_earliest(self.said_bounced_at, at))
            case Fate.BOUNCED:
                return replace(self, bounced_at=_earliest(self.bounced_at, at))
            case Fate.REFUSED:
                exposed = self.exposed or delivery.exposed
                return replace(self, refused_at=_earliest(self.refused_at, at), exposed=exposed)
            case Fate.DROPPED:
                exposed = self.exposed or delivery.exposed
                return replace(self, dropped_at=_earliest(self.dropped_at, at), exposed=exposed)
            case Fate.QUEUED:
                return self


def _earliest(*instants: datetime | None) -> datetime | None:
    return min((at for at in instants if at is not None), default=None)


def _latest(*instants: datetime | None) -> datetime | None:
    return max((at for at in instants if at is not None), default=None)
