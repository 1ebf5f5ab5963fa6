"""Limits: for any schedule never exceeded, never refusing what fits; and a take that is given back has never been.

The oracle knows nothing of GCRA. It counts: with every letter taken, each stretch of time that begins with one of them
holds at most `at_once + length / one_each`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fractions import Fraction
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.otp.rules.quota import (
    SYSTEM_PARTS,
    Bucket,
    Dimension,
    Limit,
    Limits,
    Reissues,
    ReissuesBy,
    given_back,
    part_of,
    refilled,
    taken,
)
from tests.fakes.clock import NOON

MICROSECOND = timedelta(microseconds=1)
LIMIT = Limit(at_once=3, one_each=timedelta(seconds=10))
NOTHING = timedelta(0)


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


@dataclass(slots=True)
class Counting:
    """The oracle: when letters were taken, and nothing else."""

    limit: Limit
    takes: list[datetime] = field(default_factory=list)

    def has_room(self, now: datetime) -> bool:
        """Whether one more letter at `now` leaves every stretch that begins with a letter within the limit."""
        everything = [*self.takes, now]
        return all(self._allowed(now - first) >= len(everything) - n for n, first in enumerate(everything))

    def room(self, now: datetime) -> tuple[int, timedelta]:
        """Return how many more fit now, and how long the one after them has to wait."""
        full = Counting(self.limit, list(self.takes))
        while full.has_room(now):
            full.takes.append(now)
        more = len(full.takes) - len(self.takes)
        return more, next(wait for wait in full._waits(now) if full.has_room(now + wait))

    def _waits(self, now: datetime) -> list[timedelta]:
        """Return the waits after which a stretch allows one more, the shortest first."""
        ends = [first + n * self.limit.one_each - now for first in self.takes for n in range(1, len(self.takes) + 1)]
        return sorted(wait for wait in ends if wait > NOTHING)

    def is_kept(self) -> bool:
        """Whether no stretch between two letters holds more than is allowed."""
        return all(
            self._allowed(last - first) >= m - n + 1
            for n, first in enumerate(self.takes)
            for m, last in enumerate(self.takes[n:], start=n)
        )

    def _allowed(self, length: timedelta) -> int:
        return self.limit.at_once + Fraction(length // MICROSECOND, self.limit.one_each // MICROSECOND).__floor__()


limits = st.builds(Limit, st.integers(1, 5), st.integers(1, 2_000_000).map(lambda us: us * MICROSECOND))
# In quarters of `one_each`, and a microsecond beside: where one more fits, where a take is gone, and in between.
pauses = st.tuples(st.sampled_from((0, 0, 0, 1, 2, 4, 5, 8, 40)), st.sampled_from((0, 0, 0, -1, 1)))
# Below 0: give one back, the latest at -1; else take.
steps = st.lists(st.tuples(pauses, st.integers(-3, 4)), max_size=40)


def passed(limit: Limit, pause: tuple[int, int]) -> timedelta:
    quarters, beside = pause
    return max(limit.one_each * quarters // 4 + beside * MICROSECOND, NOTHING)


@given(limits, steps)
def test_a_limit_is_never_exceeded_never_refuses_what_fits_and_refunds_restore_exactly(
    limit: Limit, schedule: list[tuple[tuple[int, int], int]]
) -> None:
    bucket, counting, now = Bucket(), Counting(limit), NOON
    for number, (pause, what) in enumerate(schedule):
        now += passed(limit, pause)
        if what < 0 and bucket.takes:  # give one back of the latest, whatever happened since
            when, token = bucket.takes[max(what, -len(bucket.takes))]
            bucket = given_back(bucket, limit, token)
            counting.takes.remove(when)
        else:
            bucket, wait = taken(bucket, limit, str(number), now)
            counting.takes += [now] * (wait == NOTHING)

        assert room(bucket, limit, now) == counting.room(now)
    assert counting.is_kept()


def room(bucket: Bucket, limit: Limit, now: datetime) -> tuple[int, timedelta]:
    """Return how many more fit now, and how long the one after them has to wait."""
    for more in count():
        bucket, wait = taken(bucket, limit, f"more {more}", now)
        if wait > NOTHING:
            return more, wait
    raise AssertionError("a limit that never ends")


@given(limits, st.lists(pauses, min_size=1, max_size=20), st.integers(0, 19))
def test_a_repeat_of_a_token_takes_nothing_more(limit: Limit, waits: list[tuple[int, int]], which: int) -> None:
    bucket, now = Bucket(), NOON
    for number, pause in enumerate(waits):
        now += passed(limit, pause)
        bucket, _ = taken(bucket, limit, str(number), now)
    remembered = [token for _, token in bucket.takes]
    if remembered:
        again, wait = taken(bucket, limit, remembered[which % len(remembered)], now)

        assert (again, wait) == (bucket, NOTHING)


def test_so_many_fit_at_once_and_then_one_more_each_time() -> None:
    bucket = Bucket()
    for number in range(3):
        bucket, wait = taken(bucket, LIMIT, str(number), at(0))
        assert wait == NOTHING

    assert taken(bucket, LIMIT, "3", at(0))[1] == timedelta(seconds=10)
    assert taken(bucket, LIMIT, "3", at(9.999999))[1] == MICROSECOND
    assert taken(bucket, LIMIT, "3", at(10))[1] == NOTHING


def test_a_refusal_changes_nothing() -> None:
    full = Bucket()
    for number in range(3):
        full, _ = taken(full, LIMIT, str(number), at(0))

    assert taken(full, LIMIT, "3", at(1))[0] == full


def test_what_a_whole_bucket_has_forgotten_is_taken_anew() -> None:
    bucket, _ = taken(Bucket(), LIMIT, "a", at(0))

    remembered, _ = taken(bucket, LIMIT, "a", at(29.999999))
    again, _ = taken(bucket, LIMIT, "a", at(30))

    assert remembered == bucket
    assert again.takes == ((at(30), "a"),)


def test_giving_back_what_time_has_given_back_already_gives_nothing() -> None:
    """The bucket was whole when the second came, so the first has left no trace that could be undone."""
    limit = Limit(1, timedelta(seconds=10))
    bucket, _ = taken(Bucket(), limit, "first", at(0))
    bucket, _ = taken(bucket, limit, "second", at(12))

    bucket = given_back(bucket, limit, "first")

    assert taken(bucket, limit, "third", at(13))[1] == timedelta(seconds=9)


def test_giving_back_what_is_half_given_back_gives_the_other_half() -> None:
    bucket = Bucket()
    for second in (0, 4, 8):
        bucket, _ = taken(bucket, LIMIT, str(second), at(second))

    bucket = given_back(bucket, LIMIT, "0")  # without it: whole until 4, then 24 s of work less 4
    bucket, first = taken(bucket, LIMIT, "9", at(8))
    _, second_wait = taken(bucket, LIMIT, "10", at(8))

    assert (first, second_wait) == (NOTHING, timedelta(seconds=6))


@pytest.mark.parametrize("token", ["never", "a"])
def test_giving_back_twice_or_what_nobody_took_changes_nothing(token: str) -> None:
    bucket, _ = taken(Bucket(), LIMIT, "a", at(0))
    bucket, _ = taken(bucket, LIMIT, "b", at(0))
    once = given_back(bucket, LIMIT, "a")

    assert given_back(once, LIMIT, token) == once
    assert given_back(Bucket(), LIMIT, token) == Bucket()


def test_the_parts_of_a_limit_hold_together_what_it_holds() -> None:
    part = Limit(1600, timedelta(milliseconds=5)).split(SYSTEM_PARTS)

    assert part == Limit(100, timedelta(milliseconds=80))
    assert Limit(3, timedelta(seconds=1)).split(SYSTEM_PARTS).at_once == 1


def test_tokens_spread_over_all_parts_and_each_stays_with_its_own() -> None:
    parts = [part_of(f"c00{number:026}") for number in range(1600)]

    assert parts == [part_of(f"c00{number:026}") for number in range(1600)]
    assert all(50 < parts.count(part) < 150 for part in range(SYSTEM_PARTS))


def test_a_large_domain_has_a_limit_of_its_own() -> None:
    large = Limit(100, timedelta(seconds=1))
    known = Limits({Dimension.DOMAIN: LIMIT}, {"gmail.com": large})

    assert (known.of_domain("gmail.com"), known.of_domain("example.vn")) == (large, LIMIT)
    assert Limits().of_domain("example.vn") is None


@dataclass(slots=True)
class Tokens:
    """Another oracle: `at_once` tokens, one more each `one_each`, and what refills bring; a letter takes one."""

    limit: Limit
    events: list[tuple[datetime, str, Fraction]] = field(default_factory=list)
    """When, by whose letter or none, how many tokens came or went."""

    def left(self, now: datetime) -> Fraction:
        """Return how many are left, as if the letters that were given back had never been."""
        left = most = Fraction(self.limit.at_once)
        at = NOON
        for when, _, change in [*self.events, (now, "", Fraction(0))]:
            passed_by = Fraction((when - at) // MICROSECOND, self.limit.one_each // MICROSECOND)
            left, at = min(min(left + passed_by, most) + change, most), when
        return left


kinds = st.sampled_from(("take", "take", "take", "refill", "give"))
short = st.tuples(st.sampled_from((0, 0, 0, 0, 1, 2, 5)), st.sampled_from((0, 0, -1, 1)))


@given(limits, st.lists(st.tuples(short, kinds, st.integers(1, 12)), max_size=40))
def test_a_bucket_that_is_refilled_gives_what_tokens_would_and_no_more_when_some_are_given_back(
    limit: Limit, schedule: list[tuple[tuple[int, int], str, int]]
) -> None:
    bucket, tokens, now, is_exact = Bucket(), Tokens(limit), NOON, True
    for number, (pause, what, how_much) in enumerate(schedule):
        now += passed(limit, pause)
        left = tokens.left(now)
        if what == "refill":
            sooner = limit.one_each * how_much // 8
            bucket = refilled(bucket, sooner, now)
            tokens.events.append((now, "", Fraction(sooner // MICROSECOND, limit.one_each // MICROSECOND)))
        elif what == "give" and bucket.takes:
            _, token = bucket.takes[-min(how_much, len(bucket.takes))]
            bucket, is_exact = given_back(bucket, limit, token), False
            tokens.events = [event for event in tokens.events if event[1] != token]
        else:
            bucket, wait = taken(bucket, limit, str(number), now)
            assert (wait == NOTHING) == (left >= 1) or (not is_exact and left >= 1)
            tokens.events += [(now, str(number), Fraction(-1))] * (wait == NOTHING)


def test_a_refill_makes_room_at_once_and_a_whole_bucket_no_larger() -> None:
    bucket = refilled(Bucket(), timedelta(hours=1), at(0))
    for number in range(3):
        bucket, wait = taken(bucket, LIMIT, str(number), at(0))
        assert wait == NOTHING
    assert taken(bucket, LIMIT, "3", at(0))[1] == timedelta(seconds=10)

    bucket = refilled(bucket, timedelta(seconds=4), at(0))
    assert taken(bucket, LIMIT, "3", at(0))[1] == timedelta(seconds=6)

    assert room(refilled(bucket, timedelta(days=1), at(0)), LIMIT, at(0)) == (3, timedelta(seconds=10))


def test_ten_codes_in_time_earn_what_one_letter_costs() -> None:
    known = Reissues(0.1, {ReissuesBy.DOMAIN: LIMIT, ReissuesBy.SYSTEM: Limit(9, timedelta(seconds=1))})

    assert known.earned(ReissuesBy.DOMAIN, 10) == LIMIT.one_each
    assert known.earned(ReissuesBy.SYSTEM, 5) == timedelta(milliseconds=500)
