"""What a caller is shown: the state, each letter's fate, and one advice that fits the moment."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from services.otp.rules.challenge import Cause, Challenge, Fate, State
from services.otp.rules.policy import AdviceKind
from services.otp.rules.view import Advice, LetterView, seen_by
from tests.fakes.clock import NOON
from tests.fakes.otp import PURPOSE
from tests.unit.otp.made_up import D_S, GIVEN_UP_S, MS, after, challenge, generation, handle

END = NOON + PURPOSE.challenge_life
SPAM_S = 6 + 40


def _advice(known: Challenge, now: datetime) -> Advice:
    return seen_by(known, 0, PURPOSE, now).advice


ADVICE = {
    "queued": ({}, after(1), AdviceKind.WAIT),
    "deferred by us": ({"deferred_at": 6}, after(7), AdviceKind.WAIT),
    "past its deadline, an event may be on its way": ({}, after(GIVEN_UP_S), AdviceKind.WAIT),
    "presumed dropped": ({}, after(GIVEN_UP_S) + MS, AdviceKind.OTHER_CHANNEL),
    "handed over a moment ago": ({"handed_over_at": 6}, after(SPAM_S), AdviceKind.TYPE_IT),
    "handed over a while ago": ({"handed_over_at": 6}, after(SPAM_S) + MS, AdviceKind.CHECK_SPAM),
    "deferred by the relay": ({"handed_over_at": 6, "deferred_at": 7}, after(SPAM_S) + MS, AdviceKind.CHECK_SPAM),
    "delivered": ({"handed_over_at": 6, "delivered_at": 7}, after(SPAM_S) + MS, AdviceKind.TYPE_IT),
    "bounced": ({"handed_over_at": 6, "bounced_at": 7}, after(8), AdviceKind.OTHER_CHANNEL),
    "refused": ({"refused_at": 6}, after(7), AdviceKind.OTHER_CHANNEL),
    "dropped": ({"dropped_at": D_S}, after(D_S + 1), AdviceKind.OTHER_CHANNEL),
}


@pytest.mark.parametrize(("seen", "now", "kind"), ADVICE.values(), ids=ADVICE.keys())
def test_the_advice_fits_what_is_known_of_the_newest_letter(
    seen: dict[str, Any], now: datetime, kind: AdviceKind
) -> None:
    advice = _advice(challenge(generation(1, handed_over_at=1), generation(2, **seen)), now)

    assert advice.kind is kind
    assert advice.text == PURPOSE.advice[kind]
    assert advice.until == (NOON + PURPOSE.deadline if kind is AdviceKind.WAIT else None)
    assert advice.alternatives == (("hotline", "counter") if kind is AdviceKind.OTHER_CHANNEL else ())


STATES = {
    "open": ({}, END, State.OPEN),
    "ended": ({}, END + MS, State.ENDED),
    "verified": ({"verified_at": after(9)}, after(10), State.VERIFIED),
    "verified stays verified after the end": ({"verified_at": after(9)}, END + MS, State.VERIFIED),
    "one attempt is left": ({"attempts": PURPOSE.attempts - 1}, after(10), State.OPEN),
    "no attempt is left": ({"attempts": PURPOSE.attempts}, after(10), State.SPENT),
    "ended without attempts": ({"attempts": PURPOSE.attempts}, END + MS, State.ENDED),
}


@pytest.mark.parametrize(("fields", "now", "state"), STATES.values(), ids=STATES.keys())
def test_the_state_says_whether_it_is_open_or_how_it_ended(fields: dict[str, Any], now: datetime, state: State) -> None:
    assert seen_by(challenge(**fields), 0, PURPOSE, now).state is state


@pytest.mark.parametrize("seen", [{}, {"deferred_at": 6}], ids=["queued", "deferred by us"])
def test_a_letter_presumed_dropped_is_shown_as_dropped(seen: dict[str, Any]) -> None:
    known = challenge(generation(**seen))

    in_time, after_that = (seen_by(known, 0, PURPOSE, after(GIVEN_UP_S) + late).letters[0] for late in (0 * MS, MS))

    assert in_time.fate is (Fate.DEFERRED if seen else Fate.QUEUED)
    assert after_that.fate is Fate.DROPPED


def test_letters_are_shown_newest_first_with_all_that_is_known() -> None:
    known = challenge(generation(1, body_started_at=5, handed_over_at=6, delivered_at=9), generation(2, made_at=100))

    newest, oldest = seen_by(known, 0, PURPOSE, after(101)).letters

    assert newest == LetterView(
        "REF02", Fate.QUEUED, Cause.REQUESTED, after(100), None, None, known.newest.good_until(known.ends_at)
    )
    assert oldest == LetterView(
        "REF01", Fate.DELIVERED, Cause.REQUESTED, after(0), after(6), after(9), after(9) + PURPOSE.life
    )


def test_each_handle_sees_the_challenge_with_its_own_attempts() -> None:
    known = challenge(handles=(replace(handle(key="a"), attempts=2), handle(key="b")), attempts=2, version=9)

    first, second = (seen_by(known, place, PURPOSE, after(1)) for place in (0, 1))

    assert (first.attempts_left, second.attempts_left) == (1, 3)
    assert (first.id, first.version, first.purpose, first.code_length) == (known.id, 9, PURPOSE.name, 6)
    assert (first.ends_at, first.verified_at) == (END, None)


RESEND_S = {
    "a letter that waits: when it is given up, at the latest": ([{}], 1, GIVEN_UP_S + 50),
    "handed over": ([{"handed_over_at": 300}], 301, 350),
    "delivered, the hand-over was not heard of": ([{"delivered_at": 300}], 301, 350),
    "refused": ([{"refused_at": 2}], 3, 52),
    "dropped": ([{"dropped_at": 2}], 3, 52),
    "bounced long after the hand-over": ([{"handed_over_at": 2, "bounced_at": 300}], 301, 52),
    "two live: when the first ends": ([{"handed_over_at": 6}, {"handed_over_at": 70}], 80, 6 + 240 + 1e-6),
    "two live, the cooldown is longer": ([{"handed_over_at": 6}, {"handed_over_at": 230}], 231, 280),
    "of two only one lives": ([{"handed_over_at": 6}, {"handed_over_at": 230}], 247, 280),
}


@pytest.mark.parametrize(("letters", "now_s", "allowed_s"), RESEND_S.values(), ids=RESEND_S.keys())
def test_when_another_letter_may_be_asked_for(letters: list[dict[str, Any]], now_s: float, allowed_s: float) -> None:
    known = challenge(*(generation(place + 1, **seen) for place, seen in enumerate(letters)))

    assert seen_by(known, 0, PURPOSE, after(now_s)).resend_allowed_at == after(allowed_s)
