"""What a caller is shown: the state, each letter's fate, and one advice that fits the moment."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from services.otp.rules.challenge import Challenge, Stall, State
from services.otp.rules.generation import Cause, Fate
from services.otp.rules.outlook import Outlook
from services.otp.rules.policy import AdviceKind, Purpose
from services.otp.rules.view import VERSIONS, Advice, LetterView, seen_by
from tests.fakes.clock import NOON
from tests.fakes.otp import PURPOSE
from tests.unit.otp.made_up import D_S, GIVEN_UP_S, MS, after, challenge, generation, handle

END = NOON + PURPOSE.challenge_life
SPAM_S = 6 + 40
LIFE_S = 240


def _advice(known: Challenge, now: datetime, purpose: Purpose = PURPOSE) -> Advice | None:
    return seen_by(known, 0, purpose, now).advice


RESENT_S = 95  # the pause after a second letter
ADVICE: dict[str, tuple[dict[str, Any], datetime, AdviceKind, float | None]] = {
    "queued": ({}, after(1), AdviceKind.WAIT, D_S),
    "wanted for longer": ({"wanted_until": 900}, after(1), AdviceKind.WAIT, 900),
    "deferred by us": ({"deferred_at": 6}, after(7), AdviceKind.WAIT, D_S),
    "past its deadline, an event may be on its way": ({}, after(GIVEN_UP_S), AdviceKind.WAIT, D_S),
    "presumed dropped": ({}, after(GIVEN_UP_S) + MS, AdviceKind.ASK_AGAIN, GIVEN_UP_S + RESENT_S),
    "handed over a moment ago": ({"handed_over_at": 6}, after(SPAM_S), AdviceKind.TYPE_IT, None),
    "handed over a while ago": ({"handed_over_at": 6}, after(SPAM_S) + MS, AdviceKind.CHECK_SPAM, None),
    "its code is at its end": ({"handed_over_at": 6}, after(6 + LIFE_S), AdviceKind.CHECK_SPAM, None),
    "its code has expired": ({"handed_over_at": 6}, after(6 + LIFE_S) + MS, AdviceKind.ASK_AGAIN, 6 + RESENT_S),
    "deferred by the relay": (
        {"handed_over_at": 6, "deferred_at": 7},
        after(SPAM_S) + MS,
        AdviceKind.WAIT,
        6 + LIFE_S,
    ),
    "delivered": ({"handed_over_at": 6, "delivered_at": 7}, after(SPAM_S) + MS, AdviceKind.TYPE_IT, None),
    "bounced": ({"handed_over_at": 6, "bounced_at": 7}, after(8), AdviceKind.OTHER_CHANNEL, None),
    "refused": ({"refused_at": 6}, after(7), AdviceKind.OTHER_CHANNEL, None),
    "dropped": ({"dropped_at": D_S}, after(D_S + 1), AdviceKind.ASK_AGAIN, D_S + RESENT_S),
    "told expired": (
        {"handed_over_at": 6, "told_expired": True},
        after(7),
        AdviceKind.ASK_AGAIN,
        6 + RESENT_S,
    ),
}


@pytest.mark.parametrize(("seen", "now", "kind", "until_s"), ADVICE.values(), ids=ADVICE.keys())
def test_the_advice_fits_what_is_known_of_the_newest_letter(
    seen: dict[str, Any], now: datetime, kind: AdviceKind, until_s: float | None
) -> None:
    advice = _advice(challenge(generation(1, handed_over_at=1), generation(2, **seen)), now)

    assert advice is not None
    assert (advice.kind, advice.text) == (kind, PURPOSE.advice[kind])
    assert advice.until == (None if until_s is None else after(until_s))
    elsewhere = kind is AdviceKind.OTHER_CHANNEL
    assert advice.alternatives == (("hotline", "counter") if elsewhere else ())
    assert advice.hotline == (PURPOSE.hotline if elsewhere else None)


STALLED = challenge(generation(1, handed_over_at=6), stalled=Stall.BUDGET)


def test_a_stalled_challenge_is_told_with_another_way_and_not_with_a_mail_that_is_of_no_use() -> None:
    seen = seen_by(STALLED, 0, PURPOSE, after(7))

    assert seen.stalled is Stall.BUDGET
    assert seen.advice is not None
    assert seen.advice.kind is AdviceKind.OTHER_CHANNEL


def test_while_the_hotline_is_open_the_other_way_is_to_call_it() -> None:
    assert PURPOSE.hotline is not None
    at_noon = replace(PURPOSE, hotline=replace(PURPOSE.hotline, zone=UTC))

    advice = _advice(STALLED, after(7), at_noon)

    assert advice == Advice(
        AdviceKind.CALL, PURPOSE.advice[AdviceKind.CALL], None, PURPOSE.alternatives, at_noon.hotline
    )


def test_without_a_hotline_there_are_the_alternatives() -> None:
    advice = _advice(STALLED, after(7), replace(PURPOSE, hotline=None))

    assert advice is not None
    assert (advice.kind, advice.alternatives, advice.hotline) == (
        AdviceKind.OTHER_CHANNEL,
        PURPOSE.alternatives,
        None,
    )


GIVEN_BACK = (replace(handle(), cancelled=True),)
OVER: dict[str, tuple[dict[str, Any], dict[str, Any], datetime, float]] = {
    "spent": ({"handed_over_at": 6}, {"attempts": PURPOSE.attempts}, after(7), 6 + 50),
    "spent while its letter waits": ({}, {"attempts": PURPOSE.attempts}, after(7), 50),
    "given back": ({}, {"handles": GIVEN_BACK}, after(7), 50),
    "ended": ({"handed_over_at": 6}, {}, END + MS, 6 + 50),
    "stalled and ended": ({"handed_over_at": 6}, {"stalled": Stall.BUDGET}, END + MS, 6 + 50),
}


@pytest.mark.parametrize(("seen", "fields", "now", "until_s"), OVER.values(), ids=OVER.keys())
def test_when_it_is_over_the_advice_is_to_ask_again_and_from_when_on(
    seen: dict[str, Any], fields: dict[str, Any], now: datetime, until_s: float
) -> None:
    advice = _advice(challenge(generation(**seen), **fields), now)

    assert advice == Advice(AdviceKind.ASK_AGAIN, PURPOSE.advice[AdviceKind.ASK_AGAIN], after(until_s))


@pytest.mark.parametrize("now", [after(10), END + MS], ids=["at once", "after the end"])
def test_once_verified_there_is_nothing_left_to_do(now: datetime) -> None:
    assert _advice(challenge(generation(handed_over_at=6), verified_at=after(9)), now) is None


STATES = {
    "open": ({}, END, State.OPEN),
    "ended": ({}, END + MS, State.ENDED),
    "verified": ({"verified_at": after(9)}, after(10), State.VERIFIED),
    "verified stays verified after the end": ({"verified_at": after(9)}, END + MS, State.VERIFIED),
    "one attempt is left": ({"attempts": PURPOSE.attempts - 1}, after(10), State.OPEN),
    "no attempt is left": ({"attempts": PURPOSE.attempts}, after(10), State.SPENT),
    "given back": ({"handles": GIVEN_BACK}, after(10), State.CANCELLED),
    "given back by one of two": ({"handles": (*GIVEN_BACK, handle())}, after(10), State.OPEN),
    "verified and given back": ({"handles": GIVEN_BACK, "verified_at": after(9)}, after(10), State.VERIFIED),
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


@pytest.mark.parametrize(("seen", "shown"), [({}, (3, after(9))), ({"deferred_at": 6}, (None, None))], ids=str)
def test_the_queue_says_nothing_of_a_letter_that_has_left_it_to_be_tried_again(
    seen: dict[str, Any], shown: tuple[int | None, datetime | None]
) -> None:
    letter = seen_by(challenge(generation(**seen)), 0, PURPOSE, after(7), Outlook(3, after(9))).letters[0]

    assert (letter.place, letter.expected_at) == shown


def test_letters_are_shown_newest_first_with_all_that_is_known() -> None:
    known = challenge(
        generation(1, body_started_at=5, handed_over_at=6, delivered_at=9),
        generation(2, made_at=100, wanted_until=800, cause=Cause.RESENT),
    )

    newest, oldest = seen_by(known, 0, PURPOSE, after(101)).letters

    assert newest == LetterView(
        reference="REF02",
        fate=Fate.QUEUED,
        cause=Cause.RESENT,
        queued_at=after(100),
        wanted_until=after(800),
        handed_over_at=None,
        delivered_at=None,
        good_until=after(800 + 45) + PURPOSE.max_life,
    )
    assert oldest == LetterView(
        reference="REF01",
        fate=Fate.DELIVERED,
        cause=Cause.REQUESTED,
        queued_at=after(0),
        wanted_until=after(D_S),
        handed_over_at=after(6),
        delivered_at=after(9),
        good_until=after(9) + PURPOSE.life,
    )


OUTLOOK = Outlook(place=12, leaves_at=after(90))


def test_only_the_letter_that_waits_has_a_place_and_an_expected_time() -> None:
    waiting = challenge(generation(1, handed_over_at=6), generation(2, made_at=60))
    left = challenge(generation(1, handed_over_at=6), generation(2, made_at=60, handed_over_at=70))

    newest, oldest = seen_by(waiting, 0, PURPOSE, after(80), OUTLOOK).letters
    gone = seen_by(left, 0, PURPOSE, after(80), OUTLOOK).letters

    assert (newest.place, newest.expected_at) == (12, after(90))
    assert [(letter.place, letter.expected_at) for letter in (oldest, *gone)] == [(None, None)] * 3


def test_each_handle_sees_the_challenge_with_its_own_attempts() -> None:
    known = challenge(handles=(replace(handle(key="a"), attempts=2), handle(key="b")), attempts=2, version=9)

    first, second = (seen_by(known, place, PURPOSE, after(1)) for place in (0, 1))

    assert (first.attempts_left, second.attempts_left) == (1, 3)
    assert (first.id, first.version // VERSIONS, first.purpose, first.code_length) == (known.id, 9, PURPOSE.name, 6)
    assert (first.ends_at, first.verified_at) == (END, None)


RESEND_S = {
    "a letter that waits: when it is given up, at the latest": ([{}], 1, GIVEN_UP_S + 50),
    "handed over": ([{"handed_over_at": 300}], 301, 350),
    "delivered, the hand-over was not heard of": ([{"delivered_at": 300}], 301, 350),
    "refused": ([{"refused_at": 2}], 3, 52),
    "dropped": ([{"dropped_at": 2}], 3, 52),
    "bounced long after the hand-over": ([{"handed_over_at": 2, "bounced_at": 300}], 301, 52),
    "two live: when the first ends": ([{"handed_over_at": 6}, {"handed_over_at": 70}], 80, 6 + 240 + 1e-6),
    "two live, the second pause is longer": ([{"handed_over_at": 6}, {"handed_over_at": 230}], 231, 230 + 95),
    "of two only one lives": ([{"handed_over_at": 6}, {"handed_over_at": 230}], 247, 230 + 95),
}


@pytest.mark.parametrize(("letters", "now_s", "allowed_s"), RESEND_S.values(), ids=RESEND_S.keys())
def test_when_another_letter_may_be_asked_for(letters: list[dict[str, Any]], now_s: float, allowed_s: float) -> None:
    known = challenge(*(generation(place + 1, **seen) for place, seen in enumerate(letters)))

    assert seen_by(known, 0, PURPOSE, after(now_s)).resend_allowed_at == after(allowed_s)
