"""The arithmetic of lag: what a reading means."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.lag import (
    PartitionLag,
    PartitionReading,
    Queue,
    QueueLag,
    followed,
    lag_of,
    longest_wait,
)

NOW = datetime(2026, 11, 25, 8, 0, tzinfo=UTC)
QUEUE = Queue("readers", "letters")


def seconds_ago(count: float) -> datetime:
    return NOW - timedelta(seconds=count)


def waiting(partition: int = 0, *, messages: int = 1, oldest_at: datetime | None = None) -> PartitionLag:
    return PartitionLag(
        partition, committed=0, position=0, end=messages, messages=messages, vanished=0, oldest_at=oldest_at
    )


def test_the_lag_is_what_lies_between_the_commit_and_the_end() -> None:
    lag = lag_of(PartitionReading(3, committed=40, earliest=10, end=100, head_at=seconds_ago(7)))

    assert lag == PartitionLag(3, 40, position=40, end=100, messages=60, vanished=0, oldest_at=seconds_ago(7))


def test_a_group_that_never_committed_has_everything_in_front_of_it() -> None:
    lag = lag_of(PartitionReading(0, committed=None, earliest=10, end=100, head_at=seconds_ago(7)))

    assert (lag.messages, lag.committed, lag.vanished) == (90, 10, 0)


def test_a_group_at_the_end_waits_for_nothing() -> None:
    lag = lag_of(PartitionReading(0, committed=100, earliest=10, end=100))

    assert (lag.messages, lag.oldest_at, lag.is_age_unknown) == (0, None, False)


def test_records_deleted_before_the_group_got_to_them_wait_no_more_and_are_told() -> None:
    lag = lag_of(PartitionReading(0, committed=4, earliest=10, end=12, head_at=seconds_ago(1)))

    assert (lag.messages, lag.vanished, lag.committed) == (2, 6, 4)


def test_a_queue_that_was_deleted_whole_is_empty_but_not_silently() -> None:
    lag = lag_of(PartitionReading(0, committed=4, earliest=12, end=12))

    assert (lag.messages, lag.vanished) == (0, 8)


def test_a_commit_beyond_the_end_is_of_another_log_so_everything_waits() -> None:
    reading = PartitionReading(0, committed=500, earliest=2, end=5, head_at=seconds_ago(1))

    assert reading.position == 2
    assert lag_of(reading).messages == 3


def test_a_log_cut_between_two_questions_is_no_negative_lag() -> None:
    reading = PartitionReading(0, committed=10, earliest=12, end=10)

    assert lag_of(reading).messages == 0
    assert not reading.is_waiting


def test_a_head_that_could_not_be_read_is_unknown_not_new() -> None:
    lag = lag_of(PartitionReading(0, committed=0, earliest=0, end=5))

    assert lag.is_age_unknown
    assert longest_wait([lag], NOW) is None


@given(
    committed=st.none() | st.integers(0, 1_000),
    earliest=st.integers(0, 1_000),
    length=st.integers(0, 1_000),
)
def test_the_lag_is_never_negative_and_never_more_than_the_log_holds(
    committed: int | None, earliest: int, length: int
) -> None:
    lag = lag_of(PartitionReading(0, committed, earliest, earliest + length, head_at=NOW))

    assert 0 <= lag.messages <= length
    assert (lag.messages == 0) == (lag.oldest_at is None)


@given(earliest=st.integers(0, 100), handled=st.integers(0, 100), left=st.integers(0, 100))
def test_what_a_group_handles_it_has_no_more_in_front_of_it(earliest: int, handled: int, left: int) -> None:
    end = earliest + handled + left

    before = lag_of(PartitionReading(0, None, earliest, end, head_at=NOW))
    after = lag_of(PartitionReading(0, earliest + handled, earliest, end, head_at=NOW))

    assert before.messages - after.messages == handled == after.committed - before.committed


def test_the_longest_wait_is_that_of_the_oldest_record_of_all_partitions() -> None:
    parts = [waiting(0, oldest_at=seconds_ago(5)), waiting(1, oldest_at=seconds_ago(90)), waiting(2, messages=0)]

    assert longest_wait(parts, NOW) == timedelta(seconds=90)


def test_an_age_that_cannot_be_read_again_is_the_one_known_before_as_long_as_the_group_stands_still() -> None:
    before = lag_of(PartitionReading(0, committed=4, earliest=0, end=9, head_at=seconds_ago(7)))
    stands = lag_of(PartitionReading(0, committed=4, earliest=0, end=12))
    moved = lag_of(PartitionReading(0, committed=5, earliest=0, end=12))

    assert followed(before, stands, NOW).oldest_at == seconds_ago(7)
    assert followed(before, moved, NOW).is_age_unknown
    assert followed(None, stands, NOW).is_age_unknown


def test_an_age_that_was_read_is_not_replaced_by_an_older_one() -> None:
    before = lag_of(PartitionReading(0, committed=4, earliest=0, end=9, head_at=seconds_ago(7)))
    now = lag_of(PartitionReading(0, committed=4, earliest=0, end=9, head_at=seconds_ago(6)))

    assert followed(before, now, NOW).oldest_at == seconds_ago(6)


def test_nobody_waits_in_an_empty_queue() -> None:
    assert longest_wait([waiting(0, messages=0)], NOW) == timedelta(0)


def test_an_unknown_age_does_not_hide_the_others() -> None:
    assert longest_wait([waiting(0), waiting(1, oldest_at=seconds_ago(3))], NOW) == timedelta(seconds=3)


def test_a_record_from_a_clock_ahead_of_ours_has_waited_zero_not_less() -> None:
    assert longest_wait([waiting(oldest_at=seconds_ago(-2))], NOW) == timedelta(0)


@pytest.mark.parametrize(
    ("parts", "unmeasured", "complete"),
    [
        ((waiting(0, oldest_at=NOW), waiting(1, messages=0)), frozenset[int](), True),
        ((waiting(0, oldest_at=NOW),), frozenset({1}), False),
        ((waiting(0),), frozenset[int](), False),
    ],
    ids=["all known", "a partition is missing", "an age is missing"],
)
def test_a_measurement_is_complete_when_nothing_is_unknown(
    *, parts: tuple[PartitionLag, ...], unmeasured: frozenset[int], complete: bool
) -> None:
    lag = QueueLag(QUEUE, parts, unmeasured, members=1, measured_at=NOW)

    assert lag.is_complete is complete
