"""A dependency that fails again and again is left alone, and asked with one call."""

from __future__ import annotations

from services.mailer.rules.breaker import FAILURES, PAUSE, Breaker

PAUSE_S = PAUSE.total_seconds()


def opened_at(now_s: float) -> Breaker:
    breaker = Breaker()
    for _ in range(FAILURES):
        breaker.failed(now_s)
    return breaker


def test_a_few_failures_are_no_reason() -> None:
    breaker = Breaker()
    for _ in range(FAILURES - 1):
        breaker.failed(7)

    assert breaker.lets_through(7)
    assert not breaker.is_open


def test_a_success_between_them_forgets_the_failures() -> None:
    breaker = Breaker()
    for _ in range(3 * FAILURES):
        breaker.failed(7)
        breaker.succeeded()

    assert breaker.lets_through(7)


def test_after_enough_failures_in_a_row_nothing_goes_through_for_a_while() -> None:
    breaker = opened_at(7)

    assert breaker.is_open
    assert not breaker.lets_through(7)
    assert not breaker.lets_through(7 + PAUSE_S - 0.001)


def test_after_a_while_one_call_asks_for_all() -> None:
    breaker = opened_at(7)

    assert breaker.lets_through(7 + PAUSE_S)
    assert not breaker.lets_through(7 + PAUSE_S)
    assert breaker.is_open


def test_the_answer_to_the_one_call_closes() -> None:
    breaker = opened_at(7)
    breaker.lets_through(7 + PAUSE_S)
    breaker.succeeded()

    assert not breaker.is_open
    assert breaker.lets_through(7 + PAUSE_S)


def test_the_failure_of_the_one_call_opens_for_another_while() -> None:
    breaker = opened_at(7)
    breaker.lets_through(7 + PAUSE_S)
    breaker.failed(8 + PAUSE_S)

    assert not breaker.lets_through(8 + 2 * PAUSE_S - 0.001)
    assert breaker.lets_through(8 + 2 * PAUSE_S)


def test_a_call_that_asks_for_all_and_is_never_heard_of_does_not_hold_it_open() -> None:
    breaker = opened_at(7)

    assert breaker.lets_through(7 + PAUSE_S)
    assert breaker.lets_through(7 + 2 * PAUSE_S)
