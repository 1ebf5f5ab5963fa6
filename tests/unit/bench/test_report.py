"""What repetitions are summed up to."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from bench.load import Phase, Seen
from bench.report import Memory, Report, Spread, cost_shares, guess_cost, level_of, spread, with_goals


def seen(requests_cpu_s: float, verifications_cpu_s: float, *, store_s: float = 1.0, kafka_s: float = 0.0) -> Seen:
    def phase(service_s: float) -> Phase:
        cpu = {"service": service_s, "store": store_s, "kafka": kafka_s, "generator": 9.0}
        return Phase(calls=1000, seconds=4.0, cpu_s=cpu, p50_ms=1.0, p99_ms=2.0)

    return Seen(phase(requests_cpu_s), phase(verifications_cpu_s), next_person=7)


def report(ours: Seen, theirs: Seen, *, octets: float = 1536.0) -> Report:
    level = level_of([ours], [theirs])
    return Report(
        made_at=datetime(2026, 1, 1, tzinfo=UTC),
        size={},
        machine={},
        versions={},
        levels={"16": level},
        headline=16,
        without_mail=level,
        idle_cpu_share={},
        wrong_guess=guess_cost([ours]),
        memory=Memory(octets, 100_000, octets),
        profile={},
        goals=[],
    )


def test_a_spread_is_the_median_between_the_extremes() -> None:
    assert spread([3.0, 9.0, 1.0]) == Spread(3.0, 1.0, 9.0)


def test_a_ratio_compares_calls_per_cpu_second_repetition_by_repetition() -> None:
    ours, theirs = [seen(1.0, 2.0), seen(2.0, 2.0), seen(4.0, 2.0)], [seen(3.0, 2.0), seen(4.0, 2.0), seen(4.0, 2.0)]

    ratios = level_of(ours, theirs).ratios

    assert ratios["requests"]["service"] == Spread(2.0, 1.0, 3.0)
    assert ratios["verifications"]["service"] == Spread(1.0, 1.0, 1.0)


def test_a_ratio_can_count_the_servers_behind_both() -> None:
    ours, theirs = [seen(1.0, 1.0, store_s=1.0, kafka_s=2.0)], [seen(3.0, 3.0, store_s=5.0)]

    ratios = level_of(ours, theirs).ratios["requests"]

    assert (ratios["with_store"].median, ratios["with_all"].median) == (4.0, 2.0)


def test_the_generator_s_own_cpu_counts_for_nobody() -> None:
    (kind,) = [level_of([seen(2.0, 2.0)], [seen(2.0, 2.0)]).otp["requests"]]

    assert kind.per_cpu_second.median == 500.0
    assert kind.per_cpu_second_with_all.median == pytest.approx(1000 / 3.0)


def test_cpu_of_a_call_is_in_microseconds_and_the_core_s_share_in_fractions() -> None:
    kind = level_of([seen(2.0, 2.0)], [seen(2.0, 2.0)]).otp["requests"]

    assert (kind.cpu_us["service"].median, kind.busy.median, kind.per_second.median) == (2000.0, 0.5, 250.0)


def test_parts_add_up_to_what_a_call_costs_unsampled() -> None:
    costs = cost_shares({"a": 0.75, "b": 0.25}, "verifications", [seen(9.0, 2.0)])

    assert costs == {"a": {"share": 0.75, "us": 1500.0}, "b": {"share": 0.25, "us": 500.0}}


@pytest.mark.parametrize(
    ("ours", "theirs", "octets", "met"),
    [
        (seen(1.0, 1.0), seen(2.0, 2.0), 1536.0, [True, True, True, True]),
        (seen(1.001, 1.0), seen(2.0, 2.0), 1536.0, [False, True, True, True]),
        (seen(1.0, 1.001), seen(2.0, 2.0), 1536.0, [True, False, False, True]),
        (seen(1.0, 1.0), seen(2.0, 2.0), 1537.0, [True, True, True, False]),
    ],
)
def test_a_goal_is_met_at_its_number_and_not_beyond(ours: Seen, theirs: Seen, octets: float, met: list[bool]) -> None:
    judged = with_goals(report(ours, theirs, octets=octets))

    assert [goal.met for goal in judged.goals] == met
