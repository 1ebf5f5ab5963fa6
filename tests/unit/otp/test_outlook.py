"""The arithmetic of place and departure: what is told, and what is not because nobody knows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.otp.rules.outlook import (
    FARTHEST,
    WINDOW,
    Forecast,
    Offsets,
    Sample,
    forecast,
    sampled,
    whole_second,
)
from tests.fakes.clock import NOON

MS = 0.001
UNKNOWN = None
TWO_A_SECOND = 2.0

Told = Mapping[int, tuple[int, int]]
"""By partition: committed offset and end."""
Story = list[tuple[float, Told]]
"""Samples and the seconds at which they were taken."""


def at(second: float) -> datetime:
    return NOON + timedelta(seconds=second)


def samples(*told: tuple[float, Told]) -> Sample:
    """Return the last of these samples, which were taken at these seconds."""
    sample: Sample | None = None
    for second, partitions in told:
        sample = sampled(sample, at(second), {number: Offsets(*pair) for number, pair in partitions.items()})
    assert sample is not None
    return sample


def wait_s(told: Forecast | None) -> float | None:
    assert told is not None
    return None if told.wait is None else told.wait.total_seconds()


# Every sample is one of partition 0 unless it says more; the letter is asked about at the time of the last one.
BACKLOG: Story = [(0, {0: (10, 110)}), (6, {0: (12, 110)})]  # the head is older than 5 s, and moves
CASES: dict[str, tuple[Story, float | None, int, float, tuple[int, float | None]]] = {
    "next in an empty queue": ([(0, {0: (10, 10)})], UNKNOWN, 10, 0, (0, 0)),
    "it has left the queue": ([(0, {0: (10, 10)})], UNKNOWN, 4, 0, (0, 0)),
    "it has left a queue that stands still": ([(0, {0: (10, 20)}), (60, {0: (10, 20)})], UNKNOWN, 9, 60, (0, 0)),
    "next in a backlog that moves": (BACKLOG, UNKNOWN, 12, 6, (0, 0)),
    "written after the sample, behind others": ([(0, {0: (10, 10)})], UNKNOWN, 13, 1, (3, 0)),
    "behind others, after a sample that is 5 s old": ([(0, {0: (10, 10)})], UNKNOWN, 13, 5, (3, None)),
    "just before that": ([(0, {0: (10, 10)})], UNKNOWN, 13, 5 - MS, (3, 0)),
    "a short queue with a young head": ([(0, {0: (10, 10)}), (1, {0: (10, 20)})], TWO_A_SECOND, 15, 1, (5, 0)),
    "as long as the window": ([(0, {0: (0, 0)}), (1, {0: (0, 900)})], UNKNOWN, WINDOW, 1, (WINDOW, 0)),
    "longer than the window": ([(0, {0: (0, 0)}), (1, {0: (0, 900)})], UNKNOWN, WINDOW + 1, 1, (WINDOW + 1, None)),
    "longer, and the rate is known": ([(0, {0: (0, 0)}), (1, {0: (0, 900)})], TWO_A_SECOND, 300, 1, (300, 150)),
    "an old head, and no rate is known": (BACKLOG, UNKNOWN, 32, 6, (20, None)),
    "an old head": (BACKLOG, TWO_A_SECOND, 32, 6, (20, 10)),
    "time goes on after the sample": (BACKLOG, TWO_A_SECOND, 32, 8, (20, 8)),
    "it should have left by now": (BACKLOG, TWO_A_SECOND, 13, 9, (1, 0)),
    "a head of unknown age": ([(0, {0: (10, 110)})], TWO_A_SECOND, 32, 0, (22, 11)),
    "two partitions share the relay": (
        [(0, {0: (10, 110), 1: (5, 6)}), (6, {0: (12, 110), 1: (5, 6)})],
        TWO_A_SECOND,
        32,
        6,
        (20, 10.5),
    ),
    "of a longer partition as many leave before it as stand before it": (
        [(0, {0: (10, 110), 1: (5, 1005)}), (6, {0: (12, 110), 1: (5, 1005)})],
        TWO_A_SECOND,
        32,
        6,
        (20, 20),
    ),
    "of ten short ones, beside one ten times as long, all leave before its last": (
        [(second, {0: (second, 1000), **dict.fromkeys(range(1, 11), (second, 100))}) for second in (0, 6)],
        TWO_A_SECOND,
        999,
        6,
        (993, (993 + 10 * 94) / 2),
    ),
    "a partition in which nothing waits has no share": (
        [(0, {0: (10, 110), 1: (6, 6)}), (6, {0: (12, 110), 1: (6, 6)})],
        TWO_A_SECOND,
        32,
        6,
        (20, 10),
    ),
    "its own partition has a share though nothing waited there": (
        [(0, {0: (10, 10), 1: (5, 6)}), (6, {0: (10, 10), 1: (5, 6)})],
        TWO_A_SECOND,
        10 + WINDOW + 1,
        6,
        (WINDOW + 1, (WINDOW + 1 + 1) / 2),
    ),
    "nothing has moved for 10 s": ([(0, {0: (10, 20)}), (10, {0: (10, 20)})], TWO_A_SECOND, 15, 10, (5, None)),
    "nor for 10 s, though the relay is known to be slow": (
        [(0, {0: (10, 20)}), (10, {0: (10, 20)})],
        0.1,
        15,
        10,
        (5, None),
    ),
    "nor for the next": ([(0, {0: (10, 20)}), (10, {0: (10, 20)})], TWO_A_SECOND, 10, 10, (0, None)),
    "nearly 10 s": ([(0, {0: (10, 20)}), (10 - MS, {0: (10, 20)})], TWO_A_SECOND, 20, 10 - MS, (10, 5)),
    "idle for long, then a letter": ([(0, {0: (10, 10)}), (60, {0: (10, 11)})], UNKNOWN, 10, 60, (0, 0)),
    "it moves again": (
        [(0, {0: (10, 20)}), (60, {0: (10, 20)}), (61, {0: (11, 20)})],
        TWO_A_SECOND,
        15,
        61,
        (4, 2),
    ),
    "its partition stands still, others move, no rate": (
        [(0, {0: (10, 20), 1: (0, 9)}), (10, {0: (10, 20), 1: (1, 9)})],
        UNKNOWN,
        10,
        10,
        (0, None),
    ),
    "its partition waits for its turn at a slow relay": (
        [(0, {0: (10, 20), 1: (0, 9)}), (24, {0: (10, 20), 1: (1, 9)})],
        0.4,  # two partitions: a turn every 5 s
        14,
        24,
        (4, 20),
    ),
    "its partition missed eleven turns, as chance will have it": (
        [(0, {0: (10, 20), 1: (0, 9)}), (55, {0: (10, 20), 1: (1, 9)})],
        0.4,
        14,
        55,
        (4, 20),
    ),
    "its partition missed twelve turns": (
        [(0, {0: (10, 20), 1: (0, 9)}), (60, {0: (10, 20), 1: (1, 9)})],
        0.4,
        14,
        60,
        (4, None),
    ),
    "farther than any letter is wanted": ([(0, {0: (0, 10**9)})], TWO_A_SECOND, 10**8, 0, (10**8, None)),
}


@pytest.mark.parametrize(("told", "rate", "offset", "second", "expected"), CASES.values(), ids=CASES.keys())
def test_place_and_wait_are(
    told: Story, rate: float | None, offset: int, second: float, expected: tuple[int, float | None]
) -> None:
    answer = forecast(samples(*told), rate, 0, offset, at(second))

    assert answer is not None
    assert (answer.place, wait_s(answer)) == (
        expected[0],
        expected[1] if expected[1] is None else pytest.approx(expected[1]),
    )


def test_what_waits_in_tiers_for_the_same_slots_leaves_before_it_as_well() -> None:
    before = sampled(None, at(0), {0: Offsets(10, 110)})
    told = forecast(sampled(before, at(6), {0: Offsets(12, 110)}, beside=50), 2.0, 0, 32, at(6))

    assert wait_s(told) == (20 + 50) / 2


def test_a_sample_tells_nothing_when_it_is_older_than_15_s() -> None:
    sample = samples((0, {0: (10, 20)}))

    assert forecast(sample, TWO_A_SECOND, 0, 10, at(15)) == Forecast(0, timedelta(0))
    assert forecast(sample, TWO_A_SECOND, 0, 10, at(15 + MS)) is None


def test_nothing_is_told_of_a_partition_that_is_not_known_nor_of_an_offset_that_nobody_said() -> None:
    sample = samples((0, {0: (10, 20)}))

    assert forecast(sample, TWO_A_SECOND, 1, 10, at(0)) is None
    assert forecast(sample, TWO_A_SECOND, 0, -1, at(0)) is None


def test_a_partition_that_is_gone_from_the_last_sample_is_not_known() -> None:
    sample = samples((0, {0: (10, 20), 1: (0, 0)}), (1, {1: (0, 0)}))

    assert forecast(sample, TWO_A_SECOND, 0, 10, at(1)) is None


def test_the_past_that_is_kept_is_short() -> None:
    sample = samples(*((second / 2, {0: (0, second)}) for second in range(1000)))

    assert len(sample.partitions[0].ends) <= 12


@pytest.mark.parametrize(("second", "up"), [(0, 0), (0.000001, 1), (0.5, 1), (1, 1), (59.1, 60)])
def test_a_time_that_is_told_is_the_next_whole_second(second: float, up: float) -> None:
    assert whole_second(at(second)) == at(up)


OFFSETS = st.tuples(st.integers(0, 2_000), st.integers(0, 2_000)).map(lambda pair: (min(pair), max(pair)))
STEPS = st.tuples(st.floats(0, 20), st.dictionaries(st.integers(0, 3), OFFSETS))
RATES = st.none() | st.floats(1e-6, 1e6)


def one_after_the_other(steps: Sequence[tuple[float, Told]]) -> Story:
    total = 0.0
    story: Story = []
    for pause, told in steps:
        total += pause
        story.append((total, told))
    return story


STORIES = st.lists(STEPS, min_size=1, max_size=12).map(one_after_the_other)


@given(STORIES, RATES, st.integers(0, 3), st.integers(-1, 4_000), st.floats(0, 20))
def test_whatever_was_seen_place_and_wait_are_never_below_nothing(
    story: Story, rate: float | None, partition: int, offset: int, later: float
) -> None:
    told = forecast(samples(*story), rate, partition, offset, at(story[-1][0] + later))

    if told is not None:
        assert told.place >= 0
        assert told.wait is None or timedelta(0) <= told.wait <= FARTHEST


@given(STORIES, RATES, st.integers(0, 3), st.lists(st.integers(0, 4_000), min_size=2, max_size=2), st.floats(0, 20))
def test_whatever_was_seen_a_later_place_never_leaves_earlier(
    story: Story, rate: float | None, partition: int, offsets: list[int], later: float
) -> None:
    sample, now = samples(*story), at(story[-1][0] + later)

    first, second = (forecast(sample, rate, partition, offset, now) for offset in sorted(offsets))

    assert (first is None) == (second is None)
    if first is not None and second is not None:
        assert first.place <= second.place
        assert (first.wait or timedelta(0)) <= (second.wait if second.wait is not None else timedelta.max)
        assert first.wait is not None or second.wait is None


@given(STORIES, st.integers(0, 3), st.integers(0, 4_000), st.floats(15.001, 1e6))
def test_whatever_was_seen_nobody_tells_anything_blind(story: Story, partition: int, offset: int, later: float) -> None:
    assert forecast(samples(*story), TWO_A_SECOND, partition, offset, at(story[-1][0] + later)) is None
