"""Which tier follows a failure, and when the next try is due."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.mailer.rules.letter import Lane
from services.mailer.rules.schedule import Schedule, Tier
from tests.fakes.clock import NOON

SECOND = timedelta(seconds=1)
OTP = Schedule(Lane.OTP, [seconds * SECOND for seconds in (1, 3, 10, 30, 60)])
FAR = NOON + timedelta(days=1)


@pytest.mark.parametrize(("attempt", "seconds"), [(0, 1), (1, 3), (2, 10), (3, 30), (4, 60), (5, 60), (50, 60)])
def test_each_failure_goes_to_the_next_tier_and_the_last_one_repeats(attempt: int, seconds: int) -> None:
    retry = OTP.next_try(attempt, NOON, FAR)

    assert (retry.tier, retry.attempt) == (Tier(Lane.OTP, seconds * SECOND), attempt + 1)
    assert retry.not_before == NOON + seconds * SECOND


@pytest.mark.parametrize(
    ("left_s", "seconds"), [(60, 60), (59.999, 30), (29, 10), (9.9, 3), (2, 1), (1, 1), (0.5, 1), (-5, 1)]
)
def test_near_its_deadline_a_letter_is_tried_as_late_as_a_tier_allows(left_s: float, seconds: int) -> None:
    assert OTP.next_try(9, NOON, NOON + left_s * SECOND).tier.delay == seconds * SECOND


def test_near_its_deadline_a_letter_that_failed_once_does_not_wait_longer_than_its_turn() -> None:
    assert OTP.next_try(0, NOON, NOON + 45 * SECOND).tier.delay == SECOND


@pytest.mark.parametrize(
    ("seconds", "name"),
    [(1, "1s"), (30, "30s"), (60, "1m"), (90, "90s"), (600, "10m"), (3600, "1h"), (5400, "90m"), (21_600, "6h")],
)
def test_a_tier_is_named_by_its_delay_in_the_largest_unit(seconds: int, name: str) -> None:
    assert Tier(Lane.NOTICE, seconds * SECOND).name == name


@given(
    delays=st.sets(st.integers(1, 100_000), min_size=1, max_size=8),
    life_s=st.floats(0, 200_000),
    try_s=st.floats(0, 30),
)
def test_however_often_it_fails_a_letter_is_tried_near_its_deadline_and_given_up_soon_after(
    delays: set[int], life_s: float, try_s: float
) -> None:
    schedule = Schedule(Lane.NOTICE, [seconds * SECOND for seconds in sorted(delays)])
    now, deadline, attempt = NOON, NOON + life_s * SECOND, 0
    waits: list[timedelta] = []

    while now <= deadline and attempt < 200:
        now += try_s * SECOND
        retry = schedule.next_try(attempt, now, deadline)
        waits.append(retry.not_before - now)
        now, attempt = retry.not_before, retry.attempt

    shortest, longest = min(delays) * SECOND, max(delays) * SECOND
    assert attempt == len(waits), "each try has a number of its own"
    assert all(shortest <= wait <= longest for wait in waits)
    if attempt < 200:
        assert now <= deadline + shortest + try_s * SECOND
