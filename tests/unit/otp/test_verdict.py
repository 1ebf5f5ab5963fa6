"""What a typed code is worth: attempts are counted first, and a right entry gives its own back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.otp.rules.challenge import Challenge, Handle
from services.otp.rules.verdict import (
    Accepted,
    Expired,
    Locked,
    Used,
    Wrong,
    attempts_left,
    cleaned,
    counted,
    judged,
)
from tests.fakes.otp import PURPOSE
from tests.unit.otp.made_up import MS, after, challenge, generation, handle

GOOD_UNTIL = after(6 + 240)


def _arrived(*, attempts: int = 0, **fields: object) -> Challenge:
    """A challenge whose letter was taken at second 6, and whose one handle has spent attempts."""
    letter = generation(body_started_at=5, handed_over_at=6)
    return challenge(letter, handles=(replace(handle(), attempts=attempts),), attempts=attempts, **fields)


def _spent(known: Challenge) -> tuple[int, list[int]]:
    return known.attempts, [one.attempts for one in known.handles]


def test_an_attempt_is_counted_on_its_handle_and_on_the_challenge() -> None:
    known = challenge(handles=(handle(key="a"), handle(key="b")), version=4)

    spent = counted(known, 1, PURPOSE)

    assert isinstance(spent, Challenge)
    assert spent.version == 5
    assert _spent(spent) == (1, [0, 1])


@pytest.mark.parametrize(
    ("of_handle", "of_challenge", "left"),
    [(0, 0, 3), (1, 1, 2), (2, 2, 1), (3, 3, 0), (0, 4, 3), (0, 5, 2), (0, 6, 1), (0, 7, 0), (1, 6, 1), (9, 9, 0)],
)
def test_what_is_left_is_the_smaller_of_the_handles_and_the_challenges_budget(
    of_handle: int, of_challenge: int, left: int
) -> None:
    known = challenge(handles=(replace(handle(), attempts=of_handle),), attempts=of_challenge)

    assert attempts_left(known, 0, PURPOSE) == left
    assert (counted(known, 0, PURPOSE) == Locked(known.ends_at)) == (left == 0)


def test_one_handle_without_attempts_locks_no_other() -> None:
    known = challenge(handles=(Handle("portal", b"a", attempts=3), Handle("portal", b"b")), attempts=3)

    assert counted(known, 0, PURPOSE) == Locked(known.ends_at)
    assert isinstance(counted(known, 1, PURPOSE), Challenge)


def test_a_wrong_code_costs_its_attempt_and_changes_nothing_more() -> None:
    assert judged(_arrived(attempts=1), 0, [], PURPOSE, after(10)) == (Wrong(attempts_left=2), None)


def test_the_right_code_is_accepted_and_gives_its_attempt_back() -> None:
    known = _arrived(attempts=2)

    verdict, changed = judged(known, 0, [1], PURPOSE, after(10))

    assert verdict == Accepted(after(10))
    assert changed is not None
    assert changed.verified_at == after(10)
    assert changed.version == known.version + 1
    assert _spent(changed) == (1, [1])


def test_a_right_code_after_the_acceptance_is_used_and_gives_its_attempt_back() -> None:
    known = _arrived(attempts=1, verified_at=after(9))

    verdict, changed = judged(known, 0, [1], PURPOSE, after(10))

    assert verdict == Used()
    assert changed is not None
    assert (changed.verified_at, _spent(changed)) == (after(9), (0, [0]))


def test_a_wrong_code_after_the_acceptance_is_wrong() -> None:
    verdict, changed = judged(_arrived(attempts=1, verified_at=after(9)), 0, [], PURPOSE, after(10))

    assert (verdict, changed) == (Wrong(attempts_left=2), None)


def test_a_code_is_accepted_at_its_last_instant_and_expired_after_it() -> None:
    known = _arrived(attempts=1)

    assert judged(known, 0, [1], PURPOSE, GOOD_UNTIL)[0] == Accepted(GOOD_UNTIL)
    assert judged(known, 0, [1], PURPOSE, GOOD_UNTIL + MS)[0] == Expired()


def test_a_right_but_expired_code_gives_its_attempt_back_and_stays_expired() -> None:
    verdict, changed = judged(_arrived(attempts=1), 0, [1], PURPOSE, GOOD_UNTIL + MS)

    assert verdict == Expired()
    assert changed is not None
    assert _spent(changed) == (0, [0])
    assert changed.verified_at is None
    revived = replace(changed, generations=(replace(changed.newest, delivered_at=after(300)),))
    assert judged(revived, 0, [1], PURPOSE, after(301))[0] == Expired()


def test_only_the_generation_that_was_typed_is_told_expired() -> None:
    old, new = generation(1, handed_over_at=6), generation(2, handed_over_at=200)

    verdict, changed = judged(challenge(old, new, attempts=1), 0, [1], PURPOSE, GOOD_UNTIL + MS)

    assert verdict == Expired()
    assert changed is not None
    assert [one.told_expired for one in changed.generations] == [True, False]


def test_of_two_generations_with_the_same_code_the_one_that_lives_is_enough() -> None:
    old, new = generation(1, handed_over_at=6), generation(2, handed_over_at=200)

    verdict, _ = judged(challenge(old, new, attempts=1), 0, [1, 2], PURPOSE, GOOD_UNTIL + MS)

    assert verdict == Accepted(GOOD_UNTIL + MS)


def test_an_older_code_that_still_lives_is_accepted() -> None:
    old, new = generation(1, handed_over_at=6), generation(2)

    assert judged(challenge(old, new, attempts=1), 0, [1], PURPOSE, after(100))[0] == Accepted(after(100))


def test_the_code_of_a_letter_that_was_dropped_unexposed_is_not_accepted() -> None:
    assert judged(challenge(generation(dropped_at=30), attempts=1), 0, [1], PURPOSE, after(40))[0] == Expired()


@pytest.mark.parametrize(
    "typed",
    [
        "123456",
        "123 456",
        " 1 2 3 4 5 6 ",
        "123-456",
        "12.34.56",
        "123\u2013456",
        "123\u2014456",
        "123\u2212456",
        "123\u00a0456",
        "123\u202f456",
        "123\u2003456",
        "123\u3000456",
        "１２３４５６",
        "１２３－４５６",
        "１２３　４５６",
        "\u200b123456\ufeff",
        "\u200e123456\u200f",
        "123456\r\n",
        "\t123456",
    ],
    ids=ascii,
)
def test_digits_are_understood_however_they_are_parted(typed: str) -> None:
    assert cleaned(typed) == "123456"


@pytest.mark.parametrize("typed", ["12345a", "12345O", "123,456", "123_456", "12345\x00", "١٢٣٤٥٦"], ids=ascii)
def test_what_is_no_digit_stays_and_is_no_code(typed: str) -> None:
    kept = cleaned(typed)

    assert not (kept.isascii() and kept.isdigit())


def test_of_nothing_nothing_is_left() -> None:
    assert cleaned("") == cleaned(" - \u2014 ") == ""
