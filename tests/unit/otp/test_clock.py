"""The clock of a code (§6 of the design): until when it is good, tried a millisecond before and after its limit."""

from __future__ import annotations

from typing import Any

import pytest

from services.otp.rules.challenge import Generation
from tests.unit.otp.made_up import D_S, GIVEN_UP_S, MS, after, generation

END_S = 33 * 60
LIFE_S, MAX_LIFE_S = 240, 540
UNHEARD_S = GIVEN_UP_S + MAX_LIFE_S

LIMITS = {
    "nothing was heard": ({}, UNHEARD_S),
    "only a deferral was heard": ({"deferred_at": 20}, UNHEARD_S),
    "it was refused, and another copy may have left": ({"refused_at": 20}, UNHEARD_S),
    "it was dropped, and its body may have left": ({"dropped_at": D_S, "exposed": True}, UNHEARD_S),
    "handed over at once": ({"body_started_at": 5, "handed_over_at": 6}, 6 + LIFE_S),
    "handed over, nobody told when the body began": ({"handed_over_at": 6}, 6 + LIFE_S),
    "handed over after a long wait": ({"body_started_at": 600, "handed_over_at": 601}, 601 + LIFE_S),
    "handed over after it was presumed dropped": ({"body_started_at": 1000, "handed_over_at": 1001}, 1001 + LIFE_S),
    "handed over, though somebody said dropped": (
        {"body_started_at": 5, "handed_over_at": 6, "dropped_at": D_S},
        6 + LIFE_S,
    ),
    "a relay that took the body slowly": ({"body_started_at": 5, "handed_over_at": 400}, 5 + MAX_LIFE_S),
    "max_life as long as life after a slow body": ({"body_started_at": 5, "handed_over_at": 305}, 5 + MAX_LIFE_S),
    "two copies within max_life": ({"body_started_at": 5, "handed_over_at": 300}, 300 + LIFE_S),
    "delivered after the hand-over": ({"body_started_at": 5, "handed_over_at": 6, "delivered_at": 100}, 100 + LIFE_S),
    "delivered before the last copy's hand-over": (
        {"body_started_at": 5, "handed_over_at": 300, "delivered_at": 100},
        300 + LIFE_S,
    ),
    "delivered later than a code may live": (
        {"body_started_at": 5, "handed_over_at": 6, "delivered_at": 500},
        5 + MAX_LIFE_S,
    ),
    "delivered, the hand-over is still on its way to us": ({"delivered_at": 30}, 30 + LIFE_S),
    "delivered, though somebody said dropped": ({"delivered_at": 30, "dropped_at": D_S}, 30 + LIFE_S),
    "bounced after the hand-over": ({"body_started_at": 5, "handed_over_at": 6, "bounced_at": 9}, 6 + LIFE_S),
    "the challenge ends first": ({"body_started_at": END_S - 80, "handed_over_at": END_S - 79}, END_S),
}


@pytest.mark.parametrize(("seen", "limit_s"), LIMITS.values(), ids=LIMITS.keys())
def test_a_code_is_good_through_its_limit_and_not_a_millisecond_longer(seen: dict[str, Any], limit_s: float) -> None:
    code, ends_at, limit = generation(**seen), after(END_S), after(limit_s)

    assert code.good_until(ends_at) == limit
    assert code.is_good(ends_at, limit - MS)
    assert code.is_good(ends_at, limit)
    assert not code.is_good(ends_at, limit + MS)


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
