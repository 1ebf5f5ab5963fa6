"""The clock of a code (§6 of the design): until when it is good, tried a millisecond before and after its limit."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from services.otp.rules.generation import Delivery, Fate, Generation
from services.otp.rules.verdict import Accepted, Expired
from tests.fakes.otp import PURPOSE
from tests.unit.otp.desk import Desk
from tests.unit.otp.made_up import D_S, GIVEN_UP_S, MS, after, challenge, generation

END_S = 33 * 60
LIFE_S, MAX_LIFE_S = 240, 540
UNHEARD_S = GIVEN_UP_S + MAX_LIFE_S


@dataclass(frozen=True, slots=True)
class Heard:
    """A delivery event, and the second at which it reaches us."""

    delivery: Delivery
    at_s: float


def _taken(h: float, e: float, told_s: float | None = None) -> Heard:
    """Return the hand-over of a copy whose body began at second `e` and had its 250 at second `h`."""
    return Heard(Delivery(Fate.HANDED_OVER, after(h), body_started_at=after(e)), h if told_s is None else told_s)


def _told(fate: Fate, second: float, told_s: float | None = None, *, exposed: bool = False) -> Heard:
    return Heard(Delivery(fate, after(second), exposed=exposed), second if told_s is None else told_s)


TIMINGS: dict[str, tuple[list[Heard], float]] = {
    "nothing was heard": ([], UNHEARD_S),
    "only a deferral was heard": ([_told(Fate.DEFERRED, 20)], UNHEARD_S),
    "refused, and another copy may have left": ([_told(Fate.REFUSED, 20, exposed=True)], UNHEARD_S),
    "dropped, and its body may have left": ([_told(Fate.DROPPED, D_S, exposed=True)], UNHEARD_S),
    "handed over at once": ([_taken(6, 5)], 6 + LIFE_S),
    "handed over, nobody told when the body began": ([_told(Fate.HANDED_OVER, 6)], 6 + LIFE_S),
    "handed over after a long wait": ([_taken(601, 600)], 601 + LIFE_S),
    "handed over at the last moment that it is wanted": ([_taken(D_S, D_S - 1)], D_S + LIFE_S),
    "handed over after it was presumed dropped": ([_taken(1001, 1000)], 1001 + LIFE_S),
    "handed over, and told to us much later": ([_taken(6, 5, told_s=200)], 6 + LIFE_S),
    "handed over, though somebody said dropped": ([_taken(6, 5), _told(Fate.DROPPED, 30)], 6 + LIFE_S),
    "a relay that took the body slowly": ([_taken(400, 5)], 5 + MAX_LIFE_S),
    "life and max_life end together": ([_taken(305, 5)], 5 + MAX_LIFE_S),
    "max_life a second before life": ([_taken(306, 5)], 5 + MAX_LIFE_S),
    "two copies within max_life": ([_taken(6, 5), _taken(300, 299)], 300 + LIFE_S),
    "two copies, the later one told first": ([_taken(300, 299), _taken(6, 5, told_s=301)], 300 + LIFE_S),
    "two copies, the second beyond max_life": ([_taken(6, 5), _taken(500, 499)], 5 + MAX_LIFE_S),
    "delivered early": ([_taken(6, 5), _told(Fate.DELIVERED, 7)], 7 + LIFE_S),
    "delivered late": ([_taken(6, 5), _told(Fate.DELIVERED, 200)], 200 + LIFE_S),
    "delivered before the last copy left": (
        [_taken(6, 5), _told(Fate.DELIVERED, 100), _taken(290, 289)],
        290 + LIFE_S,
    ),
    "delivered later than a code may live": ([_taken(6, 5), _told(Fate.DELIVERED, 500)], 5 + MAX_LIFE_S),
    "the receipt came after the code had expired": ([_taken(6, 5), _told(Fate.DELIVERED, 100, 260)], 100 + LIFE_S),
    "delivered after the code had expired": ([_taken(6, 5), _told(Fate.DELIVERED, 250)], 250 + LIFE_S),
    "delivered, the hand-over is still on its way to us": ([_told(Fate.DELIVERED, 30)], 30 + LIFE_S),
    "delivered, though somebody said dropped": (
        [_told(Fate.DROPPED, 20), _told(Fate.DELIVERED, 30)],
        30 + LIFE_S,
    ),
    "bounced after the hand-over": ([_taken(6, 5), _told(Fate.BOUNCED, 9)], 6 + LIFE_S),
    "deferred by the relay after the hand-over": ([_taken(6, 5), _told(Fate.DEFERRED, 9)], 6 + LIFE_S),
    "the challenge ends first": ([_taken(END_S - 79, END_S - 80)], END_S),
}


def test_the_policy_of_these_tests_has_no_two_durations_alike() -> None:
    durations = [PURPOSE.life, PURPOSE.max_life, PURPOSE.patience, PURPOSE.deadline, PURPOSE.challenge_life]

    assert [PURPOSE.life, PURPOSE.max_life] == [timedelta(seconds=LIFE_S), timedelta(seconds=MAX_LIFE_S)]
    assert len(set(durations)) == len(durations)


@pytest.mark.parametrize(("heard", "limit_s"), TIMINGS.values(), ids=TIMINGS.keys())
def test_a_code_is_good_through_its_limit_and_not_a_millisecond_longer(heard: list[Heard], limit_s: float) -> None:
    code, ends_at, limit = generation(), after(END_S), after(limit_s)
    for each in heard:
        code = code.merged(each.delivery, after(each.at_s))

    assert code.good_until(ends_at) == limit
    assert code.is_good(ends_at, limit - MS)
    assert code.is_good(ends_at, limit)
    assert not code.is_good(ends_at, limit + MS)


@pytest.mark.parametrize(("late_ms", "verdict"), [(-1, Accepted), (0, Accepted), (1, Expired)])
@pytest.mark.parametrize(("heard", "limit_s"), TIMINGS.values(), ids=TIMINGS.keys())
async def test_who_types_it_a_millisecond_around_its_limit_is_told_so(
    heard: list[Heard], limit_s: float, late_ms: int, verdict: type
) -> None:
    desk = Desk()
    issued = await desk.ask()
    for each in heard:
        desk.clock.now = after(each.at_s)
        await desk.follow(issued.challenge.id, 1, each.delivery)
    desk.clock.now = after(limit_s) + late_ms * MS

    typed = await desk.type_in(issued.handle, desk.code_of(issued))

    assert type(typed) is verdict


def test_a_letter_that_is_wanted_for_longer_is_typed_for_longer_while_nothing_is_heard() -> None:
    code = generation(wanted_until=D_S + 100)

    assert code.good_until(after(END_S)) == after(UNHEARD_S + 100)


def test_an_unheard_of_code_ends_with_its_challenge() -> None:
    code, ends_at = generation(), after(UNHEARD_S - 1)

    assert code.good_until(ends_at) == ends_at
    assert not code.is_good(ends_at, ends_at + MS)


def test_the_life_of_a_code_is_the_one_it_was_made_with() -> None:
    code = generation(handed_over_at=6, life=after(90) - after(0), max_life=after(100) - after(0))

    assert code.good_until(after(END_S)) == after(96)


def _never_good(code: Generation) -> bool:
    instants = [after(-1), after(0), after(6), after(D_S), after(UNHEARD_S), after(END_S)]
    return not any(code.is_good(after(END_S), instant) for instant in instants)


def test_a_letter_that_was_dropped_unexposed_kills_its_code() -> None:
    assert _never_good(generation(dropped_at=30))


def test_a_code_that_was_told_expired_stays_so_whatever_is_heard_later() -> None:
    assert _never_good(generation(told_expired=True, body_started_at=5, handed_over_at=6, delivered_at=400))


@pytest.mark.parametrize(
    "seen",
    [{"handed_over_at": 6}, {"delivered_at": 6}, {"bounced_at": 6}, {"refused_at": 6}, {"dropped_at": 6}],
    ids=lambda seen: next(iter(seen)),
)
def test_a_letter_that_something_was_heard_of_waits_no_more_and_is_not_presumed_dropped(seen: dict[str, Any]) -> None:
    letter = generation(**seen)

    assert not letter.waits(after(7))
    assert not letter.is_presumed_dropped(after(GIVEN_UP_S) + MS)
    assert letter.left_us_at == after(6)


@pytest.mark.parametrize("seen", [{}, {"deferred_at": 6}], ids=["nothing heard", "deferred by us"])
def test_a_letter_in_our_hands_waits_until_45_seconds_after_its_deadline(seen: dict[str, Any]) -> None:
    letter, limit = generation(**seen), after(D_S + 45)

    assert letter.waits(after(0))
    assert letter.waits(limit)
    assert not letter.is_presumed_dropped(limit)
    assert not letter.waits(limit + MS)
    assert letter.is_presumed_dropped(limit + MS)
    assert letter.left_us_at == limit


def test_a_relay_that_defers_is_no_reason_to_wait_again() -> None:
    letter = generation(handed_over_at=6, deferred_at=9)

    assert not letter.waits(after(10))
    assert letter.left_us_at == after(6)


async def test_who_was_told_expired_is_not_told_otherwise_by_a_receipt_that_comes_later() -> None:
    desk = Desk()
    issued = await desk.ask()
    await desk.later(6).hand_over(issued)
    code = desk.code_of(issued)
    assert isinstance(await desk.later(LIFE_S + 1).type_in(issued.handle, code), Expired)

    await desk.later(10).hear(issued, Fate.DELIVERED, at=after(200))

    assert isinstance(await desk.later(1).type_in(issued.handle, code), Expired)


def test_a_late_event_revives_no_third_code() -> None:
    letters = [
        generation(1, handed_over_at=0, delivered_at=242),
        generation(2, made_at=100, handed_over_at=100),
        generation(3, made_at=241, handed_over_at=241),
    ]
    known = challenge(*letters)

    assert all(letter.is_good(known.ends_at, after(250)) for letter in letters)
    assert [letter.number for letter in known.live(after(250))] == [2, 3]
