"""A partition is paused by many deploy faults, tried now and then, and runs again: by example and at random."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.poison_limiter import Limits, PoisonLimiter

LIMITS = Limits(last=200, share=0.5, half_open_every=timedelta(seconds=30))


def fed(limiter: PoisonLimiter, *faults: bool) -> list[bool]:
    """Note one after the other; return what each answer was."""
    return [limiter.note(fault=fault, now=0) for fault in faults]


def test_fewer_records_than_are_judged_by_never_pause() -> None:
    limiter = PoisonLimiter(LIMITS)

    assert not any(fed(limiter, *[True] * 199))
    assert fed(limiter, True) == [True]


@pytest.mark.parametrize(("faults", "pauses"), [(99, False), (100, True)])
def test_half_of_the_last_is_the_limit(faults: int, *, pauses: bool) -> None:
    limiter = PoisonLimiter(LIMITS)

    fed(limiter, *[True] * faults, *[False] * (200 - faults))

    assert limiter.is_paused is pauses
    assert limiter.faults == faults


def test_what_was_long_ago_does_not_count() -> None:
    limiter = PoisonLimiter(LIMITS)

    fed(limiter, *[True] * 99, *[False] * 199, *[True] * 98)

    assert not limiter.is_paused


def test_a_paused_partition_is_tried_after_each_half_minute_and_runs_again_after_one_that_is_handled() -> None:
    limiter = PoisonLimiter(LIMITS)
    fed(limiter, *[True] * 200)

    assert [limiter.wait(now) for now in (0, 29.5, 30, 99)] == [30, 0.5, 0, 0]
    assert not limiter.tried(handled=False, now=40)
    assert limiter.is_paused
    assert [limiter.wait(now) for now in (40, 69, 70)] == [30, 1, 0]
    assert limiter.tried(handled=True, now=71)
    assert not limiter.is_paused
    assert limiter.wait(71) == 0


def test_after_it_runs_again_it_is_judged_anew() -> None:
    limiter = PoisonLimiter(LIMITS)
    fed(limiter, *[True] * 200)
    limiter.tried(handled=True, now=30)

    assert not any(fed(limiter, *[True] * 199))
    assert fed(limiter, True) == [True]


class Model:
    """The same in other words: a whole history, and nothing kept but the time of the next try."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.history: list[bool] = []
        self.try_at: float | None = None

    def settle(self, now: float, *, bad: bool) -> None:
        """Take what a partition met."""
        every = self.limits.half_open_every.total_seconds()
        if self.try_at is not None:
            if bad:
                self.try_at = now + every
            else:
                self.history, self.try_at = [], None
            return
        self.history.append(bad)
        recent = self.history[-self.limits.last :]
        if len(recent) >= self.limits.last and recent.count(True) / self.limits.last >= self.limits.share:
            self.try_at = now + every


@given(
    limits=st.builds(
        Limits,
        last=st.integers(1, 8),
        share=st.sampled_from([0.25, 0.5, 0.75, 1.0]),
        half_open_every=st.integers(1, 5).map(lambda seconds: timedelta(seconds=seconds)),
    ),
    life=st.lists(st.tuples(st.booleans(), st.integers(0, 4)), max_size=80),
)
def test_over_any_life_it_is_as_the_plain_model(limits: Limits, life: list[tuple[bool, int]]) -> None:
    limiter, model, now = PoisonLimiter(limits), Model(limits), 0

    for bad, later in life:
        now += later
        if limiter.is_paused and limiter.wait(now) > 0:
            assert model.try_at is not None
            assert limiter.wait(now) == model.try_at - now
            continue
        if limiter.is_paused:
            limiter.tried(handled=not bad, now=now)
        else:
            limiter.note(fault=bad, now=now)
        model.settle(now, bad=bad)
        assert limiter.is_paused == (model.try_at is not None)


@given(faults=st.lists(st.booleans(), max_size=60))
def test_until_it_pauses_it_lets_at_most_its_share_of_faults_pass_and_one(faults: list[bool]) -> None:
    limiter = PoisonLimiter(Limits(last=10, share=0.5))
    passed = []

    for fault in faults:
        passed.append(fault)
        if limiter.note(fault=fault, now=0):
            break

    for start in range(len(passed) - 10):  # every full window but the one that paused it
        assert passed[start : start + 10].count(True) < 5
