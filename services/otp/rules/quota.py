"""How many letters may be asked for, and how many guesses fail: limits, and the arithmetic of one of them.

Generic cell rate algorithm (GCRA, ITU-T I.371): instead of counting letters a bucket keeps one instant, at which it is
whole again. A take moves that instant `one_each` later, and fits if it then lies no farther ahead than `whole_after`:

    takes in any time w  <=  at_once + w / one_each

and nothing is refused that this would allow. No windows to sweep, and the wait until the next one fits is known.

A take can be given back, as if it had never been. It is not enough to move the instant back by `one_each`: where the
bucket was whole in between, time has given the take back already. What the takes after it found tells how much of it
is left, the least that was missing at any of them; so the takes are kept, as long as a whole bucket needs to fill.

Room can be earned: then a bucket is whole sooner. Letters that the machine makes by itself are limited so, a retry
budget: `at_once` and one more each time, wherever nothing gets through, and beside that a share of the codes that came
in time. Where a channel is slow none do, and what remains is a number, whatever the load:

    letters by itself in any time w  <=  at_once + w / one_each + share x codes in time within w

The rule itself runs in `outbound/scripts/quota.lua`, because many processes take from one bucket at a time; this is its
model, which the fake uses and the script is compared with.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from services.otp.rules.address import Folding

NOTHING = timedelta(0)
SYSTEM_PARTS = 16
"""Buckets that the limit of the whole system is split into: one would be the hottest key of all."""


class Dimension(StrEnum):
    """What a limit counts by."""

    SUBJECT = "subject"
    """Subject and purpose."""
    ADDRESS = "address"
    """The mailbox, whatever its spelling."""
    CLIENT = "client"
    """The network that the citizen asks from."""
    DOMAIN = "domain"
    """The domain of the mailbox."""
    SYSTEM = "system"
    """All letters."""


class GuessesBy(StrEnum):
    """What a limit on failed guesses counts by, over all challenges."""

    CLIENT = "guesses_client"
    """The network that the citizen types from."""
    CALLER = "guesses_caller"
    """The platform service that shows us what was typed."""


class ReissuesBy(StrEnum):
    """What a limit on letters that the machine makes by itself counts by, beside those on all letters."""

    DOMAIN = "domain"
    """The domain of the mailbox: a provider that is slow uses up nobody else's."""
    SYSTEM = "system"
    """All of them: a relay that is slow makes every domain late."""


@dataclass(frozen=True, slots=True)
class Limit:
    """`at_once` letters, and one more after each `one_each`."""

    at_once: int
    one_each: timedelta

    @property
    def whole_after(self) -> timedelta:
        """How long an empty bucket takes to be whole."""
        return self.at_once * self.one_each

    def split(self, parts: int) -> Limit:
        """Return the limit of each of so many equal parts."""
        return Limit(max(self.at_once // parts, 1), self.one_each * parts)


@dataclass(frozen=True, slots=True)
class Reissues:
    """How many letters the machine may make by itself."""

    share: float
    """Of a letter, earned by each code that came in time."""
    limits: Mapping[ReissuesBy, Limit]
    """What there is without any."""

    def earned(self, by: ReissuesBy, in_time: int) -> timedelta:
        """Return how much sooner a bucket is whole after so many codes in time."""
        return self.limits[by].one_each * (self.share * in_time)


@dataclass(frozen=True, slots=True)
class Limits:
    """Every limit of the policy."""

    letters: Mapping[Dimension, Limit] = field(default_factory=dict)
    """A dimension that is not there is not limited; a policy file has all of them."""
    domains: Mapping[str, Limit] = field(default_factory=dict)
    """Of large domains, in place of that of the dimension."""
    foldings: Mapping[str, Folding] = field(default_factory=dict)
    """Domain → how its provider spells a mailbox."""
    guesses: Mapping[GuessesBy, Limit] = field(default_factory=dict)
    """On failed guesses; not limited by what is not there."""
    failure_ratio: float = 1.0
    """The share of failures above which somebody must be guessing; at 1 nobody ever is."""
    reissues: Reissues | None = None
    """None: the machine makes what limits on letters allow."""

    def of_domain(self, domain: str) -> Limit | None:
        """Return the limit of a domain."""
        return self.domains.get(domain, self.letters.get(Dimension.DOMAIN))


NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Quota:
    """One bucket, and its limit as it is now."""

    name: str
    """Of the bucket; holds HMACs, never an address."""
    limit: Limit


@dataclass(frozen=True, slots=True)
class LetterAsked:
    """A letter that somebody wants made, as limits know it."""

    token: str
    """Of the wish: whatever repeats it asks under the same one, and is counted once. At most 64 octets, no secret."""
    subject_key: str
    """HMAC of purpose and subject."""
    email: str = field(repr=False)
    challenge_id: str
    """Whose letter it is; says where it would stand in the queue."""
    deadline: timedelta
    """How long it may wait in the queue."""
    client: str = ""
    """The network of the citizen's device, of `network_of`; empty when nobody asked, or nobody knows from where."""


@dataclass(frozen=True, slots=True)
class NoRoom:
    """A letter that is not to be made now."""

    retry_after: timedelta
    """Until all that refused it should have room."""
    dimensions: tuple[Dimension, ...] = ()
    """The limits that refused it; not for everybody's eyes."""
    is_overload: bool = False
    """It would wait longer than people do; no limit was asked."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """What was taken of one limit."""

    whole_at: datetime | None = None
    """When it is whole again; none or past: it is."""
    takes: tuple[tuple[datetime, str], ...] = ()
    """When, and by which token; oldest first."""


def taken(bucket: Bucket, limit: Limit, token: str, now: datetime) -> tuple[Bucket, timedelta]:
    """Return the bucket after a take, and 0; or without one, and how long to wait before one fits.

    A token takes once; one that took longer ago than `whole_after` is forgotten, and takes again.
    """
    remembered = tuple(each for each in bucket.takes if each[0] > now - limit.whole_after)
    bucket = Bucket(bucket.whole_at, remembered)
    if any(each == token for _, each in remembered):
        return bucket, NOTHING
    whole_at = max(bucket.whole_at or now, now) + limit.one_each
    wait = whole_at - now - limit.whole_after
    if wait > NOTHING:
        return bucket, wait
    return Bucket(whole_at, (*remembered, (now, token))), NOTHING


def given_back(bucket: Bucket, limit: Limit, token: str) -> Bucket:
    """Return the bucket as if the token had never taken; the bucket as it is when it has not, or is forgotten."""
    taken_at = next((at for at, each in bucket.takes if each == token), None)
    if taken_at is None or bucket.whole_at is None:
        return bucket
    left = limit.one_each
    found_whole_at = bucket.whole_at
    later = [at for at, each in bucket.takes if at >= taken_at and each != token]  # or at once, and after a refill
    for at in reversed(later):
        found_whole_at -= limit.one_each
        left = min(left, max(found_whole_at - at, NOTHING))
    return Bucket(bucket.whole_at - left, tuple(each for each in bucket.takes if each[1] != token))


def refilled(bucket: Bucket, sooner: timedelta, now: datetime) -> Bucket:
    """Return the bucket as whole that much sooner; never more than whole."""
    return bucket if bucket.whole_at is None else replace(bucket, whole_at=max(bucket.whole_at - sooner, now))


def part_of(token: str) -> int:
    """Return which part of the system's limit a token takes from; always the same one."""
    return zlib.crc32(token.encode()) % SYSTEM_PARTS
