"""Rules in a hurry: what is shipped, with every duration of it shorter by the same factor."""

from __future__ import annotations

import re

import yaml

from deploy.dev.monitoring import COMPONENT, hurried, shortened


def test_a_duration_is_divided_whatever_its_unit() -> None:
    told = [shortened(duration, 12) for duration in ("6s", "5m", "2h", "1d")]

    assert told == ["500ms", "25000ms", "600000ms", "7200000ms"]
    assert shortened("5s", 12, least_ms=1000) == "1000ms"


def test_intervals_ranges_and_fors_are_divided_and_nothing_else() -> None:
    group = {
        "name": "kip-queue",
        "interval": "10s",
        "rules": [
            {"record": "a:b:rate1m", "expr": 'sum(rate(a_total{le="5"}[1m])) > 30 and b offset 5m or c[1h]'},
            {"alert": "Late", "expr": "a:b:rate1m > 60", "for": "30s", "labels": {"stage": "slow"}},
        ],
    }

    [told] = hurried([group], 10)

    assert told == {
        "name": "kip-queue",
        "interval": "1000ms",
        "rules": [
            {"record": "a:b:rate1m", "expr": 'sum(rate(a_total{le="5"}[6000ms])) > 30 and b offset 5m or c[360000ms]'},
            {"alert": "Late", "expr": "a:b:rate1m > 60", "for": "3000ms", "labels": {"stage": "slow"}},
        ],
    }


def test_no_shipped_rule_looks_back_in_another_way() -> None:
    groups = yaml.safe_load((COMPONENT / "rules.yaml").read_text())["spec"]["groups"]

    expressions = [rule["expr"] for group in hurried(groups, 10) for rule in group["rules"]]

    ranges = [found for expression in expressions for found in re.findall(r"\[(\d[^]]*)\]", expression)]
    assert ranges
    assert all(each.endswith("ms") for each in ranges)
    assert not [each for each in expressions if " offset " in each]
