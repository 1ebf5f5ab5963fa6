"""What the mailer is told of a change: a new letter, one wanted for longer, one not wanted any more; nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from services.otp.rules.announcement import LetterWanted, WishChanged, announcements
from services.otp.rules.challenge import Challenge
from tests.fakes.otp import PURPOSE
from tests.unit.otp.made_up import D_S, GIVEN_UP_S, MS, after, challenge, generation, handle

END_S = PURPOSE.challenge_life.total_seconds()
NOW = after(60)


def _ended(known: Challenge, how: str) -> Challenge:
    handles = tuple(replace(each, cancelled=True) for each in known.handles)
    changes: dict[str, dict[str, object]] = {
        "verified": {"verified_at": NOW},
        "cancelled": {"handles": handles},
        "spent": {"attempts": PURPOSE.attempts},
    }
    return replace(known, version=known.version + 1, **changes[how])  # type: ignore[arg-type] # named above


def test_the_letter_of_a_new_challenge_is_wanted() -> None:
    known = challenge()

    assert announcements(None, known, PURPOSE, NOW) == [LetterWanted(known, known.newest)]


def test_another_letter_is_wanted_and_of_the_one_before_nothing_is_told() -> None:
    before = challenge(generation(dropped_at=5))
    changed = challenge(*before.generations, generation(2, wanted_until=900))

    assert announcements(before, changed, PURPOSE, NOW) == [LetterWanted(changed, changed.newest)]


def test_a_letter_that_is_wanted_for_longer_is_told_once() -> None:
    before = challenge(generation())
    changed = challenge(generation(wanted_until=D_S + 30))

    assert announcements(before, changed, PURPOSE, NOW) == [
        WishChanged(changed, changed.newest, withdrawn=False, at=NOW)
    ]
    assert announcements(changed, replace(changed, version=3), PURPOSE, NOW) == []


@pytest.mark.parametrize("how", ["verified", "cancelled", "spent"])
def test_a_waiting_letter_is_withdrawn_when_its_challenge_ends(how: str) -> None:
    before = challenge()
    ended = _ended(before, how)

    assert announcements(before, ended, PURPOSE, NOW) == [WishChanged(ended, ended.newest, withdrawn=True, at=NOW)]


@pytest.mark.parametrize("how", ["verified", "cancelled", "spent"])
@pytest.mark.parametrize("seen", [{"handed_over_at": 6}, {"refused_at": 6}, {"bounced_at": 6}, {"dropped_at": 6}])
def test_of_a_letter_that_has_left_nothing_is_told(how: str, seen: dict[str, Any]) -> None:
    before = challenge(generation(**seen))

    assert announcements(before, _ended(before, how), PURPOSE, NOW) == []


@pytest.mark.parametrize("first", ["verified", "cancelled", "spent"])
@pytest.mark.parametrize("then", ["verified", "cancelled", "spent"])
def test_it_is_withdrawn_once(first: str, then: str) -> None:
    over = _ended(challenge(), first)

    assert announcements(over, _ended(over, then), PURPOSE, NOW) == []


def test_a_withdrawal_wins_over_an_extension_of_the_same_change() -> None:
    before = challenge()
    changed = _ended(challenge(generation(wanted_until=D_S + 30)), "verified")

    assert [
        each.withdrawn for each in announcements(before, changed, PURPOSE, NOW) if isinstance(each, WishChanged)
    ] == [True]


def test_a_letter_is_withdrawn_until_it_is_given_up() -> None:
    before = challenge()
    ended = _ended(before, "cancelled")

    assert len(announcements(before, ended, PURPOSE, after(GIVEN_UP_S))) == 1
    assert announcements(before, ended, PURPOSE, after(GIVEN_UP_S) + MS) == []


def test_a_letter_of_an_older_code_is_withdrawn_too_when_the_newest_waits() -> None:
    before = challenge(generation(handed_over_at=6), generation(2))
    ended = _ended(before, "verified")

    (told,) = announcements(before, ended, PURPOSE, NOW)

    assert told.generation.number == 2
    assert isinstance(told, WishChanged)


def test_a_challenge_whose_time_is_over_withdraws_nothing_by_itself() -> None:
    before = challenge(generation(wanted_until=END_S))

    assert announcements(before, replace(before, version=2), PURPOSE, after(END_S) + MS) == []


@pytest.mark.parametrize(
    "change",
    [
        {"attempts": PURPOSE.attempts - 1},
        {"handles": (handle(), handle(key="another"))},
        {"handles": (replace(handle(), cancelled=True), handle(key="another"))},
        {"generations": (generation(deferred_at=9),)},
    ],
    ids=["an attempt", "a handle", "one of two handles given back", "deferred"],
)
def test_what_does_not_concern_the_mailer_is_not_told(change: dict[str, object]) -> None:
    before = challenge()

    assert announcements(before, replace(before, version=2, **change), PURPOSE, NOW) == []  # type: ignore[arg-type] # named above
