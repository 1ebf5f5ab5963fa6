"""The ramp: who is let in as the queue grows, and a recorded surge in which it neither swings nor starves the relay."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from services.otp.actions.resend import ResendOutcome
from services.otp.rules.admission import (
    ASSUMED_PER_SECOND,
    HOPELESS,
    JITTER,
    LATEST,
    SOONEST,
    Load,
    Ramp,
    moved,
    refused_for,
)
from services.otp.rules.refusal import Overloaded
from tests.fakes.clock import NOON
from tests.fakes.otp import PURPOSE
from tests.unit.otp.desk import Desk

D = timedelta(seconds=840)
S = timedelta(seconds=1)


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("of_deadline", "share"),
    [(0, 0), (0.3, 0), (0.72, 0), (0.75, 0), (0.7875, 0.25), (0.825, 0.5), (0.9, 1), (1.0, 1), (50, 1)],
)
def test_the_ramp_rises_from_nobody_to_everybody(of_deadline: float, share: float) -> None:
    assert moved(Ramp(), D * of_deadline, D, at(0)).share == pytest.approx(share, abs=1e-6)


def test_a_wait_that_jumps_moves_the_ramp_within_ten_seconds() -> None:
    calm = moved(Ramp(), 0 * S, D, at(0))

    shares = [moved(calm, D, D, at(second)).share for second in (0, 1, 10, 60)]

    assert shares[0] == 0
    assert shares[1] == pytest.approx(0.095, abs=0.001)
    assert shares[2] == pytest.approx(0.632, abs=0.001)
    assert shares[3] > 0.99


def test_in_a_rehearsal_of_seconds_it_moves_as_much_faster() -> None:
    short = timedelta(seconds=60)

    assert moved(moved(Ramp(), 0 * S, short, at(0)), short, short, at(1)).share == pytest.approx(0.632, abs=0.001)


def test_a_clock_that_is_set_back_moves_nothing() -> None:
    full = moved(Ramp(), D, D, at(100))

    assert moved(full, 0 * S, D, at(0)) == Ramp(1.0, at(100), is_refusing=False)


def test_what_is_told_to_operators_has_a_border() -> None:
    told = []
    ramp = Ramp()
    for of_deadline in (0.74, 0.76, 0.74, 0.51, 0.5, 0.74, 0.76):
        ramp = moved(ramp, D * of_deadline, D, at(0))
        told.append(ramp.is_refusing)

    assert told == [False, True, True, True, False, False, True]


def test_where_the_ramp_is_at_half_half_of_the_people_are_let_in_and_pressing_again_does_not_help() -> None:
    """Luck changes once a minute, for each at a moment of their own: else who press on would be let in in a wave."""
    people = [f"citizen-{n}" for n in range(2_000)]
    refused = [
        [refused_for(Ramp(0.5), who, D * 0.825, D, at(second)) is not None for second in range(60)] for who in people
    ]

    each_second = [sum(now) for now in zip(*refused, strict=True)]
    changes = [Counter(second for second in range(1, 60) if of[second] is not of[second - 1]) for of in refused]
    waves = sum(changes, Counter[int]())

    assert all(900 < count < 1_100 for count in each_second)
    assert max(each.total() for each in changes) == 1
    assert max(waves.values()) < 0.03 * len(people)


def test_the_luck_of_the_next_minute_is_another_one() -> None:
    ramp = Ramp(0.5)
    lucky = [
        sum(refused_for(ramp, f"citizen-{n}", D * 0.825, D, at(60 * minute)) is None for minute in range(10))
        for n in range(200)
    ]

    assert min(lucky) >= 1
    assert max(lucky) <= 9 + 1


@given(st.floats(0, 1), st.timedeltas(0 * S, timedelta(days=3)), st.text())
def test_who_is_refused_is_told_a_time_that_is_neither_none_nor_endless(
    share: float, wait: timedelta, who: str
) -> None:
    told = refused_for(Ramp(share), who, wait, D, at(0))

    assert told is None or SOONEST <= told <= LATEST


@given(st.floats(0, HOPELESS), st.floats(0.75, 0.9), st.text(), st.floats(0, 3_600), st.floats(0, 1))
def test_who_comes_when_told_to_is_let_in_if_as_many_are_refused_as_before(
    share: float, of_deadline: float, who: str, second: float, jitter: float
) -> None:
    told = refused_for(Ramp(share), who, D * of_deadline, D, at(second))
    assume(told is not None and told < LATEST)
    assert told is not None
    back = at(second) + told * (1 + jitter * JITTER)

    assert refused_for(Ramp(share), who, D * of_deadline, D, back) is None


def test_nobody_is_told_to_come_before_the_queue_can_be_short_enough_to_let_anybody_in() -> None:
    waits = [refused_for(Ramp(1.0), f"citizen-{n}", 2 * D, D, at(n)) for n in range(500)]

    assert min(wait for wait in waits if wait is not None) >= D * (2 - 0.9)
    assert None not in waits


def test_those_who_are_refused_together_are_told_to_come_apart() -> None:
    told = [refused_for(Ramp(0.9), f"citizen-{n}", D * 0.885, D, at(0)) for n in range(1_000)]
    seconds = Counter(int(wait.total_seconds()) for wait in told if wait is not None)

    assert max(seconds.values()) <= 0.02 * seconds.total()


def test_nobody_is_refused_below_the_ramp_and_nobody_let_in_above_it() -> None:
    people = [f"citizen-{n}" for n in range(500)]

    assert not any(refused_for(Ramp(0.0), who, 0 * S, D, at(0)) for who in people)
    assert all(refused_for(Ramp(1.0), who, D, D, at(0)) for who in people)


def test_blind_the_outbox_alone_is_the_queue() -> None:
    assert Load(None, 600, 2.0).told_wait == 300 * S
    assert Load(None, 600).told_wait == timedelta(seconds=600 / ASSUMED_PER_SECOND)
    assert Load(None).told_wait == 0 * S
    assert Load(7 * S, 600, 2.0).told_wait == 7 * S
    assert Load(None, 10**18, 1e-300).told_wait == timedelta(days=1)


@dataclass(slots=True)
class Relay:
    """A queue, first come, first served; people ask, and the ramp decides from what was measured last second."""

    per_second: float
    deadline: timedelta
    queue: deque[int] = field(default_factory=deque)
    """When each was asked for."""
    ramp: Ramp = field(default_factory=Ramp)
    waited: list[int] = field(default_factory=list)
    refused: int = 0
    turns: list[int] = field(default_factory=list)
    idle: float = 0
    _credit: float = 0

    def second(self, now: int, asking: int) -> None:
        """Live through one second."""
        wait = timedelta(seconds=len(self.queue) / self.per_second)
        for person in range(asking):
            was = self.ramp.is_refusing
            self.ramp = moved(self.ramp, wait, self.deadline, at(now))
            if self.ramp.is_refusing is not was:
                self.turns.append(now)
            if refused_for(self.ramp, f"{now}-{person}", wait, self.deadline, at(now)) is None:
                self.queue.append(now)
            else:
                self.refused += 1
        self._credit += self.per_second
        while self._credit >= 1:
            self._credit -= 1
            if self.queue:
                self.waited.append(now - self.queue.popleft())
            else:
                self.idle += 1


@pytest.mark.parametrize(("per_second", "deadline_s"), [(2.0, 840), (8.0, 540), (2.0, 60)])
def test_in_a_surge_that_no_queue_can_serve_nobody_who_is_let_in_waits_too_long_and_the_relay_never_idles(
    per_second: float, deadline_s: int
) -> None:
    relay = Relay(per_second, timedelta(seconds=deadline_s))

    for now in range(3_600):
        relay.second(now, int(3 * per_second))
    served = len(relay.waited)
    for now in range(3_600, 3_600 + 2 * deadline_s):
        relay.second(now, 0)

    assert max(relay.waited) < deadline_s
    assert served >= 0.95 * per_second * 3_600
    assert relay.refused > 3_600
    assert len(relay.turns) == 1  # it begins; that it is over nobody asks about
    assert relay.ramp.is_refusing


def test_in_a_surge_that_the_queue_can_serve_nobody_is_refused() -> None:
    relay = Relay(2.0, D)

    for now in range(300):
        relay.second(now, 6)  # for five minutes three times what leaves
    for now in range(300, 3_000):
        relay.second(now, 1)

    assert (relay.refused, relay.turns) == (0, [])


def test_a_surge_that_ends_and_comes_again_turns_admission_four_times() -> None:
    relay = Relay(2.0, D)

    for now in range(9_000):
        relay.second(now, 6 if now % 4_500 < 1_500 else 1)

    assert len(relay.turns) == 4
    assert max(relay.waited) < D.total_seconds()


async def test_whoever_asks_in_an_overload_is_told_when_to_come_back_and_has_taken_nothing() -> None:
    desk = Desk()
    desk.queue.waits = [PURPOSE.deadline * 2]

    with pytest.raises(Overloaded) as refusal:
        await desk.ask()

    assert refusal.value.reason == "OVERLOADED"
    assert refusal.value.exceeded == ()
    assert refusal.value.retry_after is not None
    assert PURPOSE.deadline < refusal.value.retry_after <= LATEST * (1 + JITTER)
    assert "phút" in refusal.value.words.vi
    assert all("1900 0000" in words for words in (refusal.value.words.vi, refusal.value.words.en))
    assert desk.store.challenges() == []
    assert desk.quotas.calls == []
    desk.queue.waits = []
    desk.later(120)
    assert (await desk.ask()).outcome == "queued"


async def test_where_admission_is_off_everybody_is_let_in_however_long_the_queue_is() -> None:
    desk = Desk(admission=False)
    desk.queue.waits = [PURPOSE.deadline * 2]

    assert (await desk.ask()).outcome == "queued"
    assert desk.admit.refusing(PURPOSE.deadline, desk.clock()) == (0.0, False)


async def test_who_joins_is_let_in_however_long_the_queue_is() -> None:
    desk = Desk()
    await desk.ask("key-1")
    desk.queue.waits = [PURPOSE.deadline * 2]

    assert (await desk.ask("key-2")).joined


async def test_a_click_is_gated_like_a_request() -> None:
    desk = Desk()
    issued = await desk.ask()
    await desk.hand_over(issued)
    desk.later(PURPOSE.cooldowns[0].total_seconds())
    desk.queue.waits = [PURPOSE.deadline * 2]

    with pytest.raises(Overloaded):
        await desk.click(issued.handle)
    desk.queue.waits = []
    desk.later(120)

    assert (await desk.click(issued.handle)).outcome is ResendOutcome.QUEUED


async def test_a_letter_is_put_where_it_leaves_earlier() -> None:
    desk = Desk()
    desk.queue.waits = [PURPOSE.deadline * 2, timedelta(0)]

    refused = 0
    for number in range(64):
        try:
            await desk.ask(f"key-{number}", subject=f"citizen-{number}")
        except Overloaded:
            refused += 1

    assert 4 <= refused <= 28  # a quarter of all pairs of places has no better one


async def test_blind_it_goes_by_the_outbox_alone() -> None:
    desk = Desk()
    desk.queue.is_blind = True
    await desk.ask("key-1")

    desk.queue.unpublished(int(ASSUMED_PER_SECOND * 2 * PURPOSE.deadline.total_seconds()))
    desk.later(120)

    with pytest.raises(Overloaded):
        await desk.ask("key-2", subject="somebody else")


async def test_what_is_refused_now_is_told_also_when_nobody_asks_any_more() -> None:
    desk = Desk()
    assert desk.admit.refusing(PURPOSE.deadline, desk.clock()) == (0.0, False)
    desk.queue.waits = [PURPOSE.deadline * 2]
    with pytest.raises(Overloaded):
        await desk.ask()
    assert desk.admit.refusing(PURPOSE.deadline, desk.clock()) == (1.0, True)

    desk.queue.waits = []
    desk.later(300)

    share, is_refusing = desk.admit.refusing(PURPOSE.deadline, desk.clock())
    assert share < 0.01
    assert not is_refusing
