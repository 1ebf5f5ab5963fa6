"""The predicted wait: worked numbers, and what must hold whatever is measured."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.lag import PartitionLag, PartitionReading, followed, lag_of
from services.chassis.lane import FRESH, LONGEST, STILL, WINDOW, YOUNG, Flow, LaneLag, Wait, flowed, wait_in

NOW = datetime(2026, 11, 25, 8, 0, tzinfo=UTC)
STEP = timedelta(seconds=5)


def s(count: float) -> timedelta:
    return timedelta(seconds=count)


def part(
    number: int,
    messages: int,
    *,
    age: float = 60,
    still: float = 0,
    at: datetime = NOW,
    asked: float | None = None,
    overdue: float | None = None,
) -> PartitionLag:
    lag = lag_of(PartitionReading(number, 0, 0, messages, head_at=at - s(age) if messages else None))
    if not messages:
        return lag
    told = followed(None, lag, at - s(still))
    return PartitionLag(
        **{name: getattr(told, name) for name in ("partition", "committed", "position", "end", "messages", "vanished")},
        oldest_at=at - s(age),
        still_since=at - s(still),
        asked_at=None if asked is None else at - s(asked),
        due_at=None if overdue is None else at - s(overdue),
    )


def lane(
    *main: PartitionLag, tiers: tuple[PartitionLag, ...] = (), at: datetime = NOW, unpublished: int = 0
) -> LaneLag:
    return LaneLag(at, main, tiers, unpublished)


def flow(of: LaneLag, *, per_second: float | None = 2.0, still: float = 0) -> Flow:
    """Return a flow in which the lane was measured last."""
    busy = ((s(30), round(30 * per_second)),) if per_second else ()
    return Flow(busy=busy, still_since=of.at - s(still) if of.backlog else None, before=of)


def wait(of: LaneLag, *, per_second: float | None = 2.0, still: float = 0, later: float = 0) -> Wait:
    told = wait_in(flow(of, per_second=per_second, still=still), of.at + s(later))
    assert told is not None
    return told


class TestWait:
    def test_it_is_the_backlog_divided_by_what_leaves_a_second(self) -> None:
        assert wait(lane(part(0, 300), part(1, 100))).whole == s(200)

    def test_letters_in_tiers_and_in_the_outbox_are_of_the_backlog(self) -> None:
        assert wait(lane(part(0, 0), tiers=(part(0, 300), part(1, 50)), unpublished=50)).whole == s(200)

    def test_behind_a_short_partition_it_is_shorter_and_behind_the_longest_it_is_all(self) -> None:
        told = wait(lane(part(0, 1000), part(1, 100), part(2, 0), tiers=(part(0, 20),)))

        assert told.partitions == {0: s((1000 + 100 + 20) / 2), 1: s((100 + 100 + 20) / 2), 2: s(20 / 2)}
        assert told.whole == s(560)

    def test_where_nothing_leaves_the_oldest_has_waited_in_vain(self) -> None:
        assert wait(lane(part(0, 100, age=90)), still=10).whole == s(90 + 50)

    def test_also_where_all_that_waits_is_in_tiers(self) -> None:
        assert wait(lane(tiers=(part(0, 100, age=90),)), still=10).whole == s(90 + 50)

    def test_and_it_grows_with_the_clock_until_the_next_measurement(self) -> None:
        assert wait(lane(part(0, 100, age=90)), still=10, later=3).whole == s(93 + 50)

    def test_a_partition_that_stands_still_waits_for_itself_and_the_others_do_not(self) -> None:
        told = wait(lane(part(0, 30, age=400, still=100), part(1, 100)))

        assert told.partitions == {0: s(400 + 60 / 2), 1: s(130 / 2)}
        assert told.whole == s(430)

    def test_a_slow_relay_serves_a_partition_rarely_and_that_is_no_standstill(self) -> None:
        two = lane(part(0, 30, still=100), part(1, 30, still=119))

        assert wait(two, per_second=0.2).whole == s(300)
        assert wait(two, per_second=2).whole > s(60)

    def test_what_the_mailer_has_in_hand_and_is_young_waits_for_nothing(self) -> None:
        assert wait(lane(part(0, WINDOW, age=4.9))).whole == s(0)
        assert wait(lane(part(0, WINDOW + 1, age=4.9))).whole > s(0)
        assert wait(lane(part(0, WINDOW, age=5))).whole > s(0)
        assert wait(lane(part(0, WINDOW, age=1), unpublished=1)).whole > s(0)

    def test_an_old_letter_in_a_tier_is_not_young_because_its_record_is(self) -> None:
        assert wait(lane(part(0, 0), tiers=(part(0, 1, age=1, asked=50),))).whole == s(0.5)

    def test_while_no_rate_is_known_it_is_the_age_of_the_oldest(self) -> None:
        told = wait(lane(part(0, 100, age=90), part(1, 5, age=7), part(2, 0)), per_second=None)

        assert (told.whole, told.partitions) == (s(90), {0: s(90), 1: s(7), 2: s(0)})

    def test_nothing_waits_in_an_empty_lane(self) -> None:
        assert wait(lane(part(0, 0), part(1, 0)), per_second=None) == Wait(s(0), {0: s(0), 1: s(0)})

    def test_an_old_measurement_tells_nothing(self) -> None:
        measured = flow(lane(part(0, 0)))

        assert wait_in(measured, NOW + FRESH) is not None
        assert wait_in(measured, NOW + FRESH + s(0.001)) is None
        assert wait_in(Flow(), NOW) is None


class Lane:
    """A lane of one partition, measured again and again."""

    def __init__(self, end: int, *, asked: datetime | None = None) -> None:
        self.now, self.committed, self.end = NOW, 0, end
        self.asked = asked or NOW - s(60)
        self.flow = Flow()
        self._part: PartitionLag | None = None
        self.measure(0)

    def measure(self, handed_over: int) -> None:
        waits = self.end > self.committed
        reading = PartitionReading(0, self.committed, 0, self.end, head_at=self.asked if waits else None)
        self._part = followed(self._part, lag_of(reading), self.now)
        self.flow = flowed(self.flow, LaneLag(self.now, (self._part,)), handed_over)

    def step(self, handed_over: int, *, moved: int | None = None, asked: int = 0, took: timedelta = STEP) -> Flow:
        self.now += took
        self.committed += handed_over if moved is None else moved
        self.end += asked
        self.measure(handed_over)
        return self.flow


class TestRate:
    def test_it_is_what_left_of_the_last_busy_half_minute(self) -> None:
        queue = Lane(10_000)
        for count in (500, 500, 10, 10, 10, 10, 10, 10):
            queue.step(count)

        assert queue.flow.per_second == 2

    def test_an_idle_lane_teaches_nothing_and_forgets_nothing(self) -> None:
        queue = Lane(60)
        for _ in range(6):
            queue.step(10)
        queue.asked = queue.now
        for _ in range(100):
            queue.asked = queue.now
            queue.step(1, asked=1)

        assert queue.flow.per_second == 2

    def test_letters_that_are_dropped_teach_nothing(self) -> None:
        queue = Lane(10_000)
        for _ in range(6):
            queue.step(10, moved=1_000)

        assert queue.flow.per_second == 2

    def test_a_standstill_is_no_part_of_it(self) -> None:
        queue = Lane(10_000)
        for count in (10, 10, 10, *[0] * 60, 10):
            queue.step(count)

        assert queue.flow.per_second == 2

    def test_the_pauses_of_a_slow_relay_are(self) -> None:
        queue = Lane(10_000)
        for count in (0, 0, 0, 1) * 12:
            queue.step(count)

        assert queue.flow.per_second == pytest.approx(0.05)
        assert not queue.flow.is_still

    def test_it_falls_as_letters_leave_more_slowly(self) -> None:
        queue = Lane(10_000)
        told = [queue.step(count).per_second for count in (10, 10, 0)]

        assert told == [2, 2, pytest.approx(20 / 15)]

    def test_as_long_as_the_lane_was_never_busy_it_is_what_leaves_anyhow(self) -> None:
        queue = Lane(5, asked=NOW)
        queue.asked = NOW + s(4)
        queue.step(5, asked=1)

        assert (queue.flow.busy, queue.flow.per_second) == ((), 1)

    def test_where_nothing_has_ever_left_none_is_known_and_nothing_is_divided(self) -> None:
        queue = Lane(5)
        for _ in range(9):
            queue.step(0)
            told = wait_in(queue.flow, queue.now)

            assert queue.flow.per_second is None
            assert told is not None
            assert told.whole == queue.now - queue.asked

    def test_a_stretch_that_nobody_measured_teaches_nothing(self) -> None:
        queue = Lane(10_000)
        for count in (10, 10, 9_000):
            queue.step(count, took=STEP if count == 10 else FRESH + s(1))

        assert queue.flow.per_second == 2

    def test_letters_of_a_tier_that_are_due_and_do_not_leave_make_it_busy_and_others_do_not(self) -> None:
        assert lane(tiers=(part(0, 5, overdue=5),)).is_busy(2)
        assert not lane(tiers=(part(0, 5, overdue=-30),)).is_busy(2)

    def test_a_partition_that_stands_still_does_not_make_it_busy(self) -> None:
        assert lane(part(0, 5, still=9)).is_busy(2)
        assert lane(part(0, 5, still=11), part(1, 5, age=1)).is_busy(2)
        assert not lane(part(0, 5, still=12), part(1, 5, age=1)).is_busy(2)


class TestStandstill:
    def test_nothing_leaves_for_ten_seconds(self) -> None:
        queue = Lane(100)
        assert [queue.step(count).is_still for count in (10, 10, 0, 0, 10)] == [False, False, False, True, False]

    def test_letters_that_step_aside_into_tiers_have_not_left(self) -> None:
        queue = Lane(10_000)
        assert [queue.step(0, moved=200).is_still for _ in range(3)] == [False, True, True]

    def test_an_idle_lane_stands_not_still_when_a_letter_comes_at_last(self) -> None:
        queue = Lane(0)
        for _ in range(20):
            queue.step(0)
        queue.asked = queue.now + STEP

        assert not queue.step(0, asked=1).is_still
        assert not queue.step(0).is_still
        assert queue.step(0).is_still


class TestCounts:
    def test_what_came_and_what_left_are_counted_from_the_first_measurement(self) -> None:
        queue = Lane(100)
        for _ in range(3):
            queue.step(4, asked=10)

        assert (queue.flow.arrived, queue.flow.handed_over) == (30, 12)

    def test_a_topic_made_anew_and_partitions_that_are_added_only_add(self) -> None:
        first = flowed(Flow(), lane(part(0, 100), part(1, 50)), 0)
        grown = flowed(first, lane(part(0, 100), part(1, 50), part(2, 7), at=NOW + STEP), 0)
        anew = flowed(grown, lane(part(0, 3), at=NOW + 2 * STEP), 0)

        assert (grown.arrived, anew.arrived) == (7, 10)


moments = st.timedeltas(timedelta(days=-1), timedelta(days=30)).map(lambda ago: NOW - ago)
readings = st.builds(
    PartitionReading,
    partition=st.integers(0, 3),
    committed=st.none() | st.integers(0, 2**62),
    earliest=st.integers(0, 2**62),
    end=st.integers(0, 2**62),
    head_at=st.none() | moments,
    asked_at=st.none() | moments,
    due_at=st.none() | moments,
)
measurements = st.lists(
    st.tuples(
        st.timedeltas(timedelta(0), timedelta(seconds=40)),
        st.lists(readings, max_size=3, unique_by=lambda reading: reading.partition),
        st.lists(readings, max_size=2, unique_by=lambda reading: reading.partition),
        st.integers(0, 10**9),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=6,
)
Measurements = list[tuple[timedelta, list[PartitionReading], list[PartitionReading], int, int]]


def measured(steps: Measurements) -> Flow:
    """Return what a lane is after these measurements."""
    told, at = Flow(), NOW
    known: dict[tuple[str, int], PartitionLag] = {}
    for step, main, tiers, handed_over, unpublished in steps:
        at += step
        lags = []
        for kind, reading in [*(("main", each) for each in main), *(("tier", each) for each in tiers)]:
            place = (kind, reading.partition)
            known[place] = followed(known.get(place), lag_of(reading), at)
            lags.append(known[place])
        told = flowed(told, LaneLag(at, tuple(lags[: len(main)]), tuple(lags[len(main) :]), unpublished), handed_over)
    return told


class TestWhateverIsMeasured:
    @given(steps=measurements, later=st.timedeltas(timedelta(seconds=-5), FRESH))
    def test_no_wait_reads_0_while_letters_wait_that_are_no_longer_young(
        self, steps: Measurements, later: timedelta
    ) -> None:
        flow = measured(steps)
        assert flow.before is not None
        told = wait_in(flow, flow.before.at + later)

        assert told is not None
        if flow.before.backlog and not flow.before.is_young:
            assert told.whole > timedelta(0)
            assert all(told.partitions[each.partition] > timedelta(0) for each in flow.before.main if each.messages)
        if not flow.before.backlog:
            assert told.whole == timedelta(0)

    @given(steps=measurements)
    def test_every_number_is_finite_and_within_bounds(self, steps: Measurements) -> None:
        flow = measured(steps)
        assert flow.before is not None
        told = wait_in(flow, flow.before.at)

        assert told is not None
        assert all(timedelta(0) <= each <= LONGEST for each in (told.whole, *told.partitions.values()))
        assert told.whole >= max(told.partitions.values(), default=timedelta(0))
        assert flow.per_second is None or (math.isfinite(flow.per_second) and flow.per_second > 0)

    @given(steps=measurements, later=st.timedeltas(FRESH + timedelta(microseconds=1), timedelta(days=9)))
    def test_an_old_measurement_never_tells_a_wait(self, steps: Measurements, later: timedelta) -> None:
        flow = measured(steps)
        assert flow.before is not None

        assert wait_in(flow, flow.before.at + later) is None

    @given(steps=measurements)
    def test_what_waits_has_waited_no_less_than_it_was_seen_to(self, steps: Measurements) -> None:
        flow = measured(steps)
        assert flow.before is not None

        for each in (*flow.before.main, *flow.before.tiers):
            assert not each.messages or (each.waits_since is not None and each.waits_since <= flow.before.at)

    @given(steps=measurements, more=st.integers(1, 10**6))
    def test_more_letters_never_make_it_shorter(self, steps: Measurements, more: int) -> None:
        flow = measured(steps)
        assert flow.before is not None
        last = flow.before
        longer = LaneLag(last.at, last.main, last.tiers, last.unpublished + more)
        before, after = wait_in(flow, last.at), wait_in(replace(flow, before=longer), last.at)

        assert before is not None
        assert after is not None
        assert after.whole >= before.whole


def test_a_clock_that_is_ahead_makes_nothing_younger_than_it_was_seen() -> None:
    ahead = PartitionReading(0, 0, 0, 3, head_at=NOW + s(10))
    first = followed(None, lag_of(ahead), NOW)
    later = followed(first, lag_of(ahead), NOW + s(6))

    assert (first.oldest_at, later.oldest_at) == (NOW, NOW)
    assert later.still_since == NOW


def test_a_record_that_was_there_is_known_to_be_old_when_its_turn_comes() -> None:
    first = followed(None, lag_of(PartitionReading(0, 0, 0, 3, head_at=NOW)), NOW)
    second = followed(first, lag_of(PartitionReading(0, 0, 0, 9, head_at=NOW)), NOW + s(5))
    moved = followed(second, lag_of(PartitionReading(0, 3, 0, 9, head_at=NOW + s(60))), NOW + s(10))

    assert moved.oldest_at == NOW + s(5)
    assert (moved.still_since, YOUNG < STILL) == (NOW + s(10), True)


def test_sightings_are_few_however_long_the_queue_grows() -> None:
    lag: PartitionLag | None = None
    for end in range(1, 1_000):
        lag = followed(lag, lag_of(PartitionReading(0, 0, 0, end, head_at=NOW + s(1e6))), NOW + s(end))
        assert len(lag.sightings) <= 64

    assert lag is not None
    assert lag.oldest_at == NOW + s(1)


def test_a_log_that_is_shorter_than_it_was_has_no_past() -> None:
    old = followed(None, lag_of(PartitionReading(0, 0, 0, 9, head_at=NOW)), NOW)

    anew = followed(old, lag_of(PartitionReading(0, 0, 0, 2)), NOW + s(60))

    assert anew.is_age_unknown
    assert (anew.still_since, anew.waits_since) == (NOW + s(60), NOW + s(60))
