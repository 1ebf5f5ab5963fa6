"""What Prometheus sees of a measurement."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from services.chassis.lag import PartitionLag, Queue, QueueLag
from services.chassis.lane import FRESH, Flow, LaneLag
from services.lagwatch.metrics import LagwatchMetrics
from services.lagwatch.ports import Reason

NOW = datetime(2026, 11, 25, 8, 0, tzinfo=UTC)
LETTERS = Queue("mailer", "letters")
LABELS = {"group": "mailer", "topic": "letters"}
LANE_METRICS = (
    "backlog_messages",
    "age_seconds",
    "predicted_wait_seconds",
    "hand_overs_per_second",
    "arrivals_total",
    "hand_overs_total",
    "last_success_timestamp_seconds",
)
FIRST = LABELS | {"partition": "0"}
SECOND = LABELS | {"partition": "1"}


class Page:
    """A registry with lagwatch's metrics on it, and a clock to turn."""

    def __init__(self) -> None:
        self.now = NOW
        self.registry = CollectorRegistry()
        self.metrics = LagwatchMetrics(self.registry, lambda: self.now, Reason)

    def value(self, name: str, labels: dict[str, str] | None = None) -> float | None:
        return self.registry.get_sample_value(name, labels or {})

    def names(self) -> set[str]:
        text = generate_latest(self.registry).decode()
        return {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}


@pytest.fixture
def page() -> Page:
    return Page()


def part(number: int, messages: int, *, since: datetime | None = None, committed: int = 10) -> PartitionLag:
    return PartitionLag(number, committed, committed, committed + messages, messages, 0, since)


def lag(*parts: PartitionLag, unmeasured: frozenset[int] = frozenset(), members: int | None = 1) -> QueueLag:
    return QueueLag(LETTERS, parts, unmeasured, members, NOW)


def test_before_the_first_measurement_there_is_no_zero_to_be_believed(page: Page) -> None:
    assert {name for name in page.names() if name.startswith(("lagwatch_group", "lagwatch_topic"))} == set()
    assert page.value("lagwatch_last_success_timestamp_seconds") is None


def test_failures_start_at_zero_for_each_reason(page: Page) -> None:
    assert {page.value("lagwatch_poll_failures_total", {"reason": reason}) for reason in Reason} == {0.0}


def test_a_queue_is_shown_by_partition_and_as_a_whole(page: Page) -> None:
    page.metrics.show(lag(part(0, 3, since=NOW - timedelta(seconds=8)), part(1, 0, committed=7), members=2))

    assert page.value("lagwatch_group_lag_messages", FIRST) == 3
    assert page.value("lagwatch_group_lag_messages", SECOND) == 0
    assert page.value("lagwatch_group_oldest_unprocessed_timestamp_seconds", FIRST) == NOW.timestamp() - 8
    assert page.value("lagwatch_group_oldest_unprocessed_timestamp_seconds", SECOND) == 0
    assert page.value("lagwatch_group_committed_total", FIRST) == 10
    assert page.value("lagwatch_topic_produced_total", {"topic": "letters", "partition": "0"}) == 13
    assert page.value("lagwatch_group_vanished_messages", LABELS) == 0
    assert page.value("lagwatch_group_lag_seconds", LABELS) == 8
    assert page.value("lagwatch_group_members", {"group": "mailer"}) == 2
    assert page.value("lagwatch_group_last_success_timestamp_seconds", LABELS) == NOW.timestamp()


def test_what_was_deleted_unread_is_told_of_the_whole_queue(page: Page) -> None:
    page.metrics.show(lag(replace(part(0, 0), vanished=2), replace(part(1, 0), vanished=3)))

    assert page.value("lagwatch_group_vanished_messages", LABELS) == 5


def test_a_wait_grows_from_scrape_to_scrape(page: Page) -> None:
    page.metrics.show(lag(part(0, 1, since=NOW)))

    page.now += timedelta(seconds=30)

    assert page.value("lagwatch_group_lag_seconds", LABELS) == 30


def test_an_unknown_age_is_absent_while_its_lag_is_shown(page: Page) -> None:
    page.metrics.show(lag(part(0, 1)))

    assert page.value("lagwatch_group_lag_messages", FIRST) == 1
    assert page.value("lagwatch_group_oldest_unprocessed_timestamp_seconds", FIRST) is None
    assert page.value("lagwatch_group_lag_seconds", LABELS) is None
    assert page.value("lagwatch_group_last_success_timestamp_seconds", LABELS) is None


def test_a_partition_that_cannot_be_measured_any_more_keeps_its_last_values(page: Page) -> None:
    page.metrics.show(lag(part(0, 5, since=NOW), part(1, 1, since=NOW)))

    page.metrics.show(lag(part(1, 2, since=NOW), unmeasured=frozenset({0})))

    assert page.value("lagwatch_group_lag_messages", FIRST) == 5
    assert page.value("lagwatch_group_lag_messages", SECOND) == 2


def test_a_partition_that_exists_no_more_is_shown_no_more(page: Page) -> None:
    page.metrics.show(lag(part(0, 5, since=NOW), part(1, 1, since=NOW)))

    page.metrics.show(lag(part(0, 4, since=NOW)))

    assert page.value("lagwatch_group_lag_messages", SECOND) is None
    assert page.value("lagwatch_topic_produced_total", {"topic": "letters", "partition": "1"}) is None


def test_a_zero_ends_when_it_is_old_and_what_waits_does_not(page: Page) -> None:
    page.metrics.show(lag(part(0, 5, since=NOW), part(1, 0)))

    page.now += FRESH
    assert page.value("lagwatch_group_lag_messages", SECOND) == 0
    page.now += timedelta(milliseconds=1)

    assert page.value("lagwatch_group_lag_messages", FIRST) == 5
    assert page.value("lagwatch_group_lag_messages", SECOND) is None
    assert page.value("lagwatch_group_oldest_unprocessed_timestamp_seconds", SECOND) is None
    assert page.value("lagwatch_group_lag_seconds", LABELS) == pytest.approx(15, abs=0.01)
    assert page.value("lagwatch_group_committed_total", SECOND) == 10


def test_a_queue_that_was_empty_is_not_told_as_empty_when_that_is_old(page: Page) -> None:
    page.metrics.show(lag(part(0, 0), part(1, 0)))

    page.now += FRESH + timedelta(milliseconds=1)

    assert page.value("lagwatch_group_lag_seconds", LABELS) is None


def test_a_zero_of_one_partition_ends_while_its_neighbours_are_measured(page: Page) -> None:
    page.metrics.show(lag(part(0, 0), part(1, 0)))

    page.now += FRESH + timedelta(seconds=1)
    page.metrics.show(replace(lag(part(1, 0), unmeasured=frozenset({0})), measured_at=page.now))

    assert page.value("lagwatch_group_lag_messages", FIRST) is None
    assert page.value("lagwatch_group_lag_messages", SECOND) == 0
    assert page.value("lagwatch_group_lag_seconds", LABELS) is None


def test_a_queue_about_which_something_is_amiss_is_shown_and_not_dated(page: Page) -> None:
    page.metrics.show(replace(lag(part(0, 2, since=NOW)), is_doubtful=True))

    assert page.value("lagwatch_group_lag_messages", FIRST) == 2
    assert page.value("lagwatch_group_last_success_timestamp_seconds", LABELS) is None


def test_a_lane_is_shown_as_it_was_measured_and_its_age_grows(page: Page) -> None:
    main = (part(0, 300, since=NOW - timedelta(seconds=60)), part(1, 100, since=NOW - timedelta(seconds=30)))
    measured = LaneLag(NOW, main, (part(0, 0),))
    page.metrics.show_lane("otp", LETTERS, Flow(7, 9, busy=((timedelta(seconds=30), 60),), before=measured))

    page.now += timedelta(seconds=3)

    assert {metric: page.value(f"lagwatch_lane_{metric}", {"lane": "otp"}) for metric in LANE_METRICS} == {
        "backlog_messages": 400,
        "age_seconds": 63,
        "predicted_wait_seconds": 200,
        "hand_overs_per_second": 2,
        "arrivals_total": 7,
        "hand_overs_total": 9,
        "last_success_timestamp_seconds": NOW.timestamp(),
    }
    assert page.value("lagwatch_group_predicted_wait_seconds", FIRST) == 200
    assert page.value("lagwatch_group_predicted_wait_seconds", SECOND) == 100


def test_a_lane_that_is_old_tells_no_wait_and_no_zero(page: Page) -> None:
    busy = LaneLag(NOW, (part(0, 300, since=NOW),))
    idle = LaneLag(NOW, (part(0, 0),))
    page.metrics.show_lane("otp", LETTERS, Flow(busy=((timedelta(seconds=30), 60),), before=busy))
    page.metrics.show_lane("notice", Queue("notices", "letters"), Flow(before=idle))
    assert page.value("lagwatch_lane_predicted_wait_seconds", {"lane": "notice"}) == 0

    page.now += FRESH + timedelta(milliseconds=1)

    for lane, told in (("otp", {"backlog_messages": 300.0}), ("notice", {"backlog_messages": None})):
        assert {metric: page.value(f"lagwatch_lane_{metric}", {"lane": lane}) for metric in told} == told
        assert page.value("lagwatch_lane_predicted_wait_seconds", {"lane": lane}) is None
        assert page.value("lagwatch_lane_last_success_timestamp_seconds", {"lane": lane}) == NOW.timestamp()
    assert page.value("lagwatch_lane_age_seconds", {"lane": "notice"}) is None
    assert page.value("lagwatch_group_predicted_wait_seconds", FIRST) is None


def test_a_rate_that_is_not_known_is_absent(page: Page) -> None:
    page.metrics.show_lane("otp", LETTERS, Flow(before=LaneLag(NOW, (part(0, 3, since=NOW),))))

    assert page.value("lagwatch_lane_hand_overs_per_second", {"lane": "otp"}) is None


def test_a_success_is_dated_and_a_failure_leaves_the_date_standing(page: Page) -> None:
    page.metrics.polled(NOW, timedelta(milliseconds=40), [], is_whole=True)

    page.metrics.polled(NOW + timedelta(seconds=2), timedelta(seconds=3), [Reason.BROKER_AWAY], is_whole=False)

    assert page.value("lagwatch_last_success_timestamp_seconds") == NOW.timestamp()
    assert page.value("lagwatch_poll_failures_total", {"reason": "broker_away"}) == 1
    assert page.value("lagwatch_poll_duration_seconds_count") == 2


def test_two_groups_on_one_topic_share_its_end(page: Page) -> None:
    page.metrics.show(lag(part(0, 5, since=NOW)))
    page.metrics.show(QueueLag(Queue("audit", "letters"), (part(0, 1, committed=15),), frozenset(), 1, NOW))

    text = generate_latest(page.registry).decode()

    assert text.count('lagwatch_topic_produced_total{partition="0",topic="letters"}') == 1
    assert page.value("lagwatch_topic_produced_total", {"topic": "letters", "partition": "0"}) == 16


def test_the_page_can_be_told_by_name_before_anything_is_measured(page: Page) -> None:
    described = {family.name for family in page.metrics.describe()}

    assert {"lagwatch_group_lag_messages", "lagwatch_group_committed", "lagwatch_group_lag_seconds"} <= described
