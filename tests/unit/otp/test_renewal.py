"""Another letter: by a click when there is room for it, by itself when the last one is of no use, within a budget."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from services.otp.rules.challenge import Challenge, Fresh, SealedPart, Stall
from services.otp.rules.generation import Cause, Fate, Generation
from services.otp.rules.policy import MAX_LIVE, REISSUES, WANTED_STEP
from services.otp.rules.renewal import (
    NotOpen,
    NotYet,
    Resent,
    ResentBefore,
    StillQueued,
    asked_again,
    decide_resend,
    healed,
    kept_wanted,
    reissued,
    replacement,
)
from tests.fakes.otp import PURPOSE
from tests.unit.otp.desk import Desk
from tests.unit.otp.made_up import D_S, GIVEN_UP_S, MS, after, challenge, generation, handle

COOLDOWN_S, SECOND_COOLDOWN_S = (pause.total_seconds() for pause in PURPOSE.cooldowns[:2])
END_S = PURPOSE.challenge_life.total_seconds()
LIFE_S = PURPOSE.life.total_seconds()
RESERVE_S = PURPOSE.reserve.total_seconds()
LATE_S = 5 + PURPOSE.max_life.total_seconds() - RESERVE_S
"""When it is too late for a letter to be delivered whose body began at second 5."""
CLICK = b"click-of-16-byte"


def _fresh(_: Challenge, number: int) -> Fresh:
    return Fresh(f"NEW{number:02}", "c9", SealedPart("s9", b"m" * 12, f"sealed {number}".encode()))


def _no_fresh(_: Challenge, number: int) -> Fresh:
    raise AssertionError(f"letter {number} was made")


def _click(
    known: Challenge, seconds: float, extra: timedelta = timedelta(0)
) -> Resent | StillQueued | ResentBefore | NotYet | NotOpen:
    return decide_resend(known, CLICK, _fresh, PURPOSE, after(seconds) + extra)


def _arrived(number: int = 1, *, at: float = 6, **fields: Any) -> Generation:
    return generation(number, body_started_at=at - 1, handed_over_at=at, **fields)


def _late(number: int = 1, **fields: Any) -> Generation:
    """Delivered when its code had less than the reserve to live."""
    return _arrived(number, delivered_at=LATE_S + 0.001, **fields)


def _lost(number: int = 1, **fields: Any) -> Generation:
    return generation(number, dropped_at=30, **fields)


# A click


def test_a_click_after_the_pause_makes_another_letter_and_takes_nothing_from_the_first() -> None:
    known = challenge(_arrived(), version=7, attempts=2, stalled=Stall.BUDGET)

    decided = _click(known, 6 + COOLDOWN_S)

    assert isinstance(decided, Resent)
    first, second = decided.challenge.generations
    assert first == known.newest
    assert (second.number, second.reference, second.code_kid) == (2, "NEW02", "c9")
    assert (second.cause, second.asked_by, second.made_at) == (Cause.RESENT, CLICK, after(6 + COOLDOWN_S))
    assert second.wanted_until == after(6 + COOLDOWN_S + D_S)
    assert decided.challenge == replace(
        known,
        version=8,
        generations=(first, second),
        sealed=SealedPart("s9", b"m" * 12, b"sealed 2"),
        stalled=None,
    )


@pytest.mark.parametrize(
    ("letters", "allowed_s"),
    [
        ((_arrived(at=6),), 6 + COOLDOWN_S),
        ((generation(bounced_at=9),), 9 + COOLDOWN_S),
        ((generation(refused_at=9),), 9 + COOLDOWN_S),
        ((generation(dropped_at=9),), 9 + COOLDOWN_S),
        ((generation(),), GIVEN_UP_S + COOLDOWN_S),
        ((_arrived(at=6), generation(2, dropped_at=90)), 90 + SECOND_COOLDOWN_S),
    ],
    ids=["handed over", "bounced", "refused", "dropped", "presumed dropped", "the second one"],
)
def test_a_click_within_the_pause_is_too_soon_to_the_instant(letters: tuple[Generation, ...], allowed_s: float) -> None:
    known = challenge(*letters)

    assert _click(known, allowed_s, -MS) == NotYet()
    assert isinstance(_click(known, allowed_s), Resent)


def test_a_click_waits_until_fewer_than_two_codes_are_good() -> None:
    known = challenge(_arrived(at=200), _arrived(2, at=260))  # the pause ends at 355, the first code at 440

    assert MAX_LIVE == 2
    assert _click(known, 200 + LIFE_S) == NotYet()
    assert isinstance(_click(known, 200 + LIFE_S, timedelta.resolution), Resent)


def test_while_a_letter_waits_a_click_makes_none_and_keeps_it_wanted() -> None:
    known = challenge(generation(), version=3)

    decided = decide_resend(known, CLICK, _no_fresh, PURPOSE, after(100))

    assert decided == StillQueued(
        replace(known, version=4, generations=(generation(wanted_until=100 + D_S),)), extended=True
    )


def test_clicks_are_worth_writing_down_every_30_seconds() -> None:
    known = challenge(generation())

    assert timedelta(seconds=30) == WANTED_STEP
    assert _click(known, 30, -MS) == StillQueued(known, extended=False)
    assert isinstance(_click(known, 30), StillQueued)
    assert _click(known, 30) != StillQueued(known, extended=False)


def test_a_click_is_still_queued_until_the_letter_is_given_up() -> None:
    known = challenge(generation(deferred_at=20))

    assert isinstance(_click(known, GIVEN_UP_S), StillQueued)
    assert _click(known, GIVEN_UP_S, MS) == NotYet()


def test_a_letter_is_wanted_no_longer_than_its_code_can_live() -> None:
    known = challenge(generation(wanted_until=END_S - LIFE_S - 40))

    extended = asked_again(known, PURPOSE, after(END_S - LIFE_S - 41))

    assert extended is not None
    assert extended.newest.wanted_until == after(END_S - LIFE_S)
    assert asked_again(extended, PURPOSE, after(END_S - LIFE_S - 1)) is None


def test_a_letter_is_never_wanted_for_less_than_before() -> None:
    known = challenge(generation(wanted_until=900))

    assert asked_again(known, PURPOSE, after(100)) is None


@pytest.mark.parametrize("state", ["verified", "cancelled", "spent", "ended"])
def test_a_challenge_that_is_over_gets_no_letter(state: str) -> None:
    cases: dict[str, tuple[dict[str, Any], float]] = {
        "verified": ({"verified_at": after(10)}, 300.0),
        "cancelled": ({"handles": (replace(handle(), cancelled=True),)}, 300.0),
        "spent": ({"attempts": PURPOSE.attempts}, 300.0),
        "ended": ({}, END_S + 0.001),
    }
    changes, seconds = cases[state]
    known = challenge(_arrived(), **changes)

    assert decide_resend(known, CLICK, _no_fresh, PURPOSE, after(seconds)) == NotOpen()
    assert reissued(replace(known, generations=(_lost(),)), _no_fresh, PURPOSE, after(seconds)) is None


def test_a_challenge_that_can_hold_no_other_code_is_not_open_for_one() -> None:
    known = challenge(_arrived())

    assert isinstance(_click(known, END_S - LIFE_S, -MS), Resent)
    assert _click(known, END_S - LIFE_S) == NotOpen()


@pytest.mark.parametrize("then", ["waits", "arrived", "verified"])
def test_the_same_click_again_makes_no_other_letter(then: str) -> None:
    second = generation(2, asked_by=CLICK) if then == "waits" else _arrived(2, at=80, asked_by=CLICK)
    known = challenge(_arrived(), second, verified_at=after(90) if then == "verified" else None)

    assert decide_resend(known, CLICK, _no_fresh, PURPOSE, after(700)) == ResentBefore(known)
    assert decide_resend(known, b"another", _fresh, PURPOSE, after(700)) != ResentBefore(known)


# Somebody watches


def test_a_watched_letter_near_its_deadline_is_kept_wanted() -> None:
    known = challenge(generation(), version=3)

    assert kept_wanted(known, PURPOSE, after(D_S - RESERVE_S) - MS) is None
    assert kept_wanted(known, PURPOSE, after(D_S - RESERVE_S)) == replace(
        known, version=4, generations=(generation(wanted_until=D_S - RESERVE_S + D_S, watch_extended=True),)
    )


def test_watching_keeps_a_letter_wanted_once() -> None:
    known = challenge(generation(watch_extended=True))

    assert kept_wanted(known, PURPOSE, after(D_S - 1)) is None


def test_watching_keeps_only_what_waits_and_can_still_be_used() -> None:
    over = challenge(generation(), verified_at=after(1))
    left = challenge(_arrived())
    at_the_end = challenge(generation(wanted_until=END_S - LIFE_S))

    for known in (over, left):
        assert kept_wanted(known, PURPOSE, after(D_S - 1)) is None
    assert kept_wanted(at_the_end, PURPOSE, after(END_S - LIFE_S - 1)) is None


# By itself


def test_a_letter_that_came_too_late_to_be_typed_is_replaced() -> None:
    known = challenge(_late(), version=7)

    changed = healed(known, _fresh, PURPOSE, after(LATE_S + 1), is_watched=False)

    assert changed is not None
    assert (changed.version, changed.generations[0]) == (8, known.newest)
    assert (changed.newest.number, changed.newest.cause, changed.newest.asked_by) == (2, Cause.REISSUED, b"")


def test_a_letter_that_came_with_the_reserve_left_is_not_replaced() -> None:
    known = challenge(_arrived(delivered_at=LATE_S))

    assert healed(known, _no_fresh, PURPOSE, after(LATE_S + 1), is_watched=True) is None


@pytest.mark.parametrize("seen", [{}, {"handed_over_at": 6}, {"bounced_at": 6}, {"refused_at": 6}, {"deferred_at": 6}])
def test_what_is_not_late_nor_dropped_is_not_replaced(seen: dict[str, Any]) -> None:
    for second in (10, D_S - 1, GIVEN_UP_S + 1):
        assert healed(challenge(generation(**seen)), _no_fresh, PURPOSE, after(second), is_watched=True) is None


@pytest.mark.parametrize(("is_watched", "after_deadline"), [(False, False), (True, True)])
def test_a_dropped_letter_is_replaced_until_its_deadline_or_while_somebody_watches(
    *, is_watched: bool, after_deadline: bool
) -> None:
    known = challenge(_lost())

    before = healed(known, _fresh, PURPOSE, after(D_S) - MS, is_watched=is_watched)
    later = healed(known, _fresh, PURPOSE, after(D_S), is_watched=is_watched)

    assert before is not None
    assert before.newest.cause is Cause.REISSUED
    assert (later is not None) == after_deadline


def test_nothing_is_made_while_a_letter_waits_or_two_codes_are_good() -> None:
    waiting = challenge(_arrived(), generation(2))
    two_good = challenge(_arrived(), _arrived(2, at=100))

    assert reissued(waiting, _no_fresh, PURPOSE, after(400)) is None
    assert reissued(two_good, _no_fresh, PURPOSE, after(6 + LIFE_S)) is None
    assert reissued(two_good, _fresh, PURPOSE, after(6 + LIFE_S) + MS) is not None


def test_the_budget_counts_only_what_was_made_by_itself() -> None:
    clicked = [_lost(number, cause=Cause.RESENT) for number in (2, 3, 4)]
    once = challenge(_lost(), *clicked, _lost(5, cause=Cause.REISSUED))

    twice = reissued(once, _fresh, PURPOSE, after(40))

    assert REISSUES == 2
    assert twice is not None
    assert (twice.newest.number, twice.newest.cause, twice.stalled) == (6, Cause.REISSUED, None)


def test_a_spent_budget_stalls_once_and_makes_no_letter() -> None:
    known = challenge(_lost(), _lost(2, cause=Cause.REISSUED), _lost(3, cause=Cause.REISSUED), version=7)

    stalled = reissued(known, _no_fresh, PURPOSE, after(40))

    assert stalled == replace(known, version=8, stalled=Stall.BUDGET)
    assert reissued(stalled, _no_fresh, PURPOSE, after(41)) is None


def test_when_every_letter_came_late_the_channel_is_called_slow() -> None:
    late = [_late(1), _late(2, cause=Cause.REISSUED), _late(3, cause=Cause.REISSUED)]

    slow = reissued(challenge(*late), _no_fresh, PURPOSE, after(900))
    not_all = reissued(challenge(_lost(), *late[1:]), _no_fresh, PURPOSE, after(900))

    assert slow is not None
    assert slow.stalled is Stall.CHANNEL_SLOW
    assert not_all is not None
    assert not_all.stalled is Stall.BUDGET


def test_when_no_other_code_could_live_the_channel_is_called_slow() -> None:
    known = challenge(_lost())

    letter = reissued(known, _fresh, PURPOSE, after(END_S - LIFE_S) - MS)
    stalled = reissued(known, _no_fresh, PURPOSE, after(END_S - LIFE_S))

    assert letter is not None
    assert (letter.newest.number, letter.stalled) == (2, None)
    assert stalled == replace(known, version=2, stalled=Stall.CHANNEL_SLOW)


def test_where_no_letter_can_be_made_nothing_happens_but_a_stall_is_told() -> None:
    spent = challenge(_lost(), _lost(2, cause=Cause.REISSUED), _lost(3, cause=Cause.REISSUED))

    assert reissued(challenge(_lost()), None, PURPOSE, after(40)) is None
    assert reissued(spent, None, PURPOSE, after(40)) == replace(spent, version=2, stalled=Stall.BUDGET)


def test_a_letter_replaces_those_before_it_while_it_waits_or_is_good() -> None:
    waiting = challenge(_arrived(), generation(2))
    there = challenge(_arrived(), _arrived(2, at=300))

    assert replacement(waiting, [1], after(300)) == "REF02"
    assert replacement(there, [1], after(300 + LIFE_S)) == "REF02"
    assert replacement(there, [1], after(300 + LIFE_S) + MS) is None


@pytest.mark.parametrize("seen", [{"refused_at": 9}, {"handed_over_at": 8, "bounced_at": 9}, {"wanted_until": 10}])
def test_a_letter_that_nobody_will_have_replaces_nothing(seen: dict[str, Any]) -> None:
    assert replacement(challenge(_arrived(), generation(2, **seen)), [1], after(100)) is None


def test_no_letter_replaces_itself() -> None:
    known = challenge(_arrived(), _arrived(2, at=300))

    assert replacement(known, [2], after(400)) is None
    assert replacement(known, [1, 2], after(400)) is None


# Stories


async def test_a_letter_that_the_mailer_dropped_is_replaced_without_a_click_twice_and_no_more() -> None:
    desk = Desk()
    issued = await desk.ask()

    for number in (1, 2, 3):
        await desk.later(10).hear(issued, Fate.DROPPED, number)

    stored = desk.stored(issued)
    assert [letter.cause for letter in stored.generations] == [Cause.REQUESTED, Cause.REISSUED, Cause.REISSUED]
    assert stored.stalled is Stall.BUDGET
    assert desk.events.published == [f"{stored.id}.{number}" for number in (1, 2, 3)]


async def test_a_stalled_challenge_gets_a_letter_by_a_click_all_the_same() -> None:
    desk = Desk()
    issued = await desk.ask()
    for number in (1, 2, 3):
        await desk.later(10).hear(issued, Fate.DROPPED, number)

    await desk.later(PURPOSE.cooldowns[2].total_seconds()).click(issued.handle)

    stored = desk.stored(issued)
    assert (len(stored.generations), stored.newest.cause, stored.stalled) == (4, Cause.RESENT, None)


async def test_without_the_seal_key_a_dropped_letter_is_noted_and_not_replaced() -> None:
    desk = Desk()
    issued = await desk.ask()
    desk.mint.is_locked = True

    await desk.later(10).hear(issued, Fate.DROPPED)

    stored = desk.stored(issued)
    assert (len(stored.generations), stored.newest.fate, stored.stalled) == (1, Fate.DROPPED, None)
