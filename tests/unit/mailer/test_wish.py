"""What the owner says of a letter: merged in any order, and what it means for the letter."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.mailer.rules.outcome import DropReason
from services.mailer.rules.wish import News, Wish, deadline_of, why_not
from tests.fakes.clock import NOON
from tests.fakes.mailer import code_order

ORDER = code_order()
MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)
SOONER, LATER = Wish(NOON + MINUTE), Wish(NOON + 2 * MINUTE)
WITHDRAWN = Wish(withdrawn=True)
WISHES = st.builds(
    Wish,
    st.none() | st.integers(0, 3).map(lambda minutes: NOON + minutes * MINUTE),
    withdrawn=st.booleans(),
)


@given(one=WISHES, two=WISHES, three=WISHES)
def test_wishes_are_merged_in_any_order_and_any_number_of_times(one: Wish, two: Wish, three: Wish) -> None:
    assert one.merged(two) == two.merged(one)
    assert one.merged(two).merged(three) == one.merged(two.merged(three))
    assert one.merged(two).merged(two) == one.merged(two)
    assert one.merged(Wish()) == one


def test_the_latest_time_stays_and_so_does_a_withdrawal() -> None:
    assert SOONER.merged(LATER).merged(SOONER) == LATER
    assert WITHDRAWN.merged(LATER) == Wish(LATER.wanted_until, withdrawn=True)


@pytest.mark.parametrize(
    ("known", "said", "news"),
    [
        (Wish(), SOONER, News.EXTENDED),
        (SOONER, LATER, News.EXTENDED),
        (LATER, SOONER, News.STALE),
        (LATER, LATER, News.STALE),
        (Wish(), WITHDRAWN, News.WITHDRAWN),
        (LATER, WITHDRAWN, News.WITHDRAWN),
        (Wish(), Wish(NOON, withdrawn=True), News.WITHDRAWN),
        (WITHDRAWN, WITHDRAWN, News.STALE),
        (WITHDRAWN, LATER, News.STALE),
    ],
)
def test_what_is_said_is_news_or_it_is_stale(known: Wish, said: Wish, news: News) -> None:
    assert known.news_in(said) is news


@pytest.mark.parametrize(
    ("wanted_until", "deadline"),
    [
        (None, ORDER.deadline),
        (ORDER.deadline - SECOND, ORDER.deadline),
        (ORDER.deadline + SECOND, ORDER.deadline + SECOND),
        (ORDER.useless_at, ORDER.useless_at),
        (ORDER.useless_at + SECOND, ORDER.useless_at),
    ],
)
def test_a_wish_puts_the_deadline_off_and_never_beyond_the_end_of_the_challenge(
    wanted_until: datetime | None, deadline: datetime
) -> None:
    wish = Wish(wanted_until)

    assert deadline_of(ORDER, wish) == deadline
    assert why_not(ORDER, wish, deadline) is None
    assert why_not(ORDER, wish, deadline + SECOND) is DropReason.DEADLINE


def test_no_wish_shortens_a_deadline_that_lies_beyond_the_end() -> None:
    odd = replace(ORDER, useless_at=ORDER.deadline - MINUTE)

    assert deadline_of(odd, Wish(ORDER.deadline + MINUTE)) == ORDER.deadline


@pytest.mark.parametrize("now", [NOON, ORDER.deadline + SECOND])
def test_a_withdrawal_wins_over_any_time(now: datetime) -> None:
    assert why_not(ORDER, Wish(ORDER.useless_at, withdrawn=True), now) is DropReason.WITHDRAWN


@pytest.mark.parametrize(
    ("begun_before_s", "late_s", "reason"),
    [
        (0, 10, None),
        (5, 10, None),
        (0, 11, DropReason.DEADLINE),
        (5, 11, DropReason.DEADLINE),
        (-1, 1, DropReason.DEADLINE),
    ],
)
def test_what_began_in_time_is_in_time_for_ten_seconds(
    begun_before_s: int, late_s: int, reason: DropReason | None
) -> None:
    begun_at = ORDER.deadline - begun_before_s * SECOND

    assert why_not(ORDER, Wish(), ORDER.deadline + late_s * SECOND, begun_at) is reason


def test_a_withdrawal_stops_also_what_began_in_time() -> None:
    assert why_not(ORDER, WITHDRAWN, ORDER.deadline + SECOND, ORDER.deadline) is DropReason.WITHDRAWN
