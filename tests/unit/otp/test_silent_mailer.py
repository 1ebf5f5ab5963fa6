"""The mailer says nothing any more: nobody joins the void, a click works again, and no mail is sent by itself."""

from __future__ import annotations

from datetime import datetime

import pytest

from services.otp.actions.issue import Issued, QuotaExceeded
from services.otp.actions.resend import ResendOutcome
from services.otp.rules.generation import Cause, Delivery, Fate
from services.otp.rules.policy import AdviceKind
from services.otp.rules.verdict import Accepted, Expired
from services.otp.rules.view import ChallengeView
from tests.fakes.otp import PURPOSE
from tests.unit.otp.bounded import taken
from tests.unit.otp.desk import Desk
from tests.unit.otp.made_up import GIVEN_UP_S, MS

MS_S = 0.001
COOLDOWN_S = PURPOSE.cooldowns[0].total_seconds()


async def _nothing_heard() -> tuple[Desk, Issued]:
    """A letter that was queued, and the last instant at which it may still be on its way."""
    desk = Desk()
    issued = await desk.ask()
    return desk.later(GIVEN_UP_S), issued


async def _seen(desk: Desk, issued: Issued) -> ChallengeView:
    seen = await desk.get("portal", issued.handle)
    assert seen is not None
    return seen


def _after_the_pause(desk: Desk) -> Desk:
    """Turn to where another letter may be asked for: a cooldown after the letter was given up."""
    return desk.later(COOLDOWN_S)


async def test_until_the_deadline_and_the_grace_are_over_a_second_request_joins() -> None:
    desk, issued = await _nothing_heard()

    second = await desk.ask("key-2")

    assert second.joined
    assert second.challenge.id == issued.challenge.id


async def test_a_millisecond_later_nobody_joins_the_void_and_the_refusal_says_when_to_come_back() -> None:
    desk, _ = await _nothing_heard()
    desk.later(MS_S)

    with pytest.raises(QuotaExceeded) as refusal:
        await desk.ask("key-2")

    assert refusal.value.retry_after == PURPOSE.cooldowns[0] - MS


async def test_whoever_asks_when_the_pause_is_over_gets_a_letter_of_their_own() -> None:
    desk, issued = await _nothing_heard()
    _after_the_pause(desk)

    second = await desk.ask("key-2")

    assert not second.joined
    assert [letter.fate for letter in second.challenge.letters] == [Fate.QUEUED, Fate.DROPPED]
    assert desk.events.published == [f"{issued.challenge.id}.1", f"{issued.challenge.id}.2"]


async def test_a_click_a_millisecond_before_the_pause_is_over_comes_too_early() -> None:
    desk, issued = await _nothing_heard()
    _after_the_pause(desk).later(-MS_S)

    answer = await desk.click(issued.handle)

    assert answer.outcome is ResendOutcome.NOT_YET
    assert answer.challenge is not None
    assert answer.challenge.resend_allowed_at == desk.clock() + MS


async def test_a_click_works_again_when_the_pause_is_over() -> None:
    desk, issued = await _nothing_heard()
    _after_the_pause(desk)

    answer = await desk.click(issued.handle)

    assert answer.outcome is ResendOutcome.QUEUED
    assert desk.stored(issued).newest.cause is Cause.RESENT


async def test_a_click_before_the_deadline_keeps_the_letter_wanted_and_queues_no_other() -> None:
    desk = Desk()
    issued = await desk.ask()

    answer = await desk.later(GIVEN_UP_S - 60).click(issued.handle)

    assert answer.outcome is ResendOutcome.STILL_QUEUED
    assert desk.stored(issued).newest.wanted_until == desk.clock() + PURPOSE.deadline
    assert desk.events.published == [f"{issued.challenge.id}.1", f"{issued.challenge.id}.1 wanted"]


async def test_who_looks_is_told_to_ask_again_and_from_when() -> None:
    desk, issued = await _nothing_heard()
    waiting = await _seen(desk, issued)
    desk.later(MS_S)

    seen = await _seen(desk, issued)

    assert waiting.advice is not None
    assert waiting.advice.kind is AdviceKind.WAIT
    assert seen.advice is not None
    assert (seen.advice.kind, seen.advice.until) == (AdviceKind.ASK_AGAIN, seen.resend_allowed_at)
    assert seen.version > waiting.version


async def test_no_mail_is_sent_by_itself_however_long_nothing_is_heard_and_whoever_looks() -> None:
    desk = Desk()
    issued = await desk.ask()
    end = desk.stored(issued).kept_until

    while desk.clock() < end:
        desk.later(97)
        await _seen_or_gone(desk, issued, end)
        await desk.sweep()

    letters = [name for name in desk.events.published if not name.endswith(" wanted")]
    assert letters == [f"{issued.challenge.id}.1"]


async def _seen_or_gone(desk: Desk, issued: Issued, end: datetime) -> None:
    views, _ = await taken(desk.watch("portal", issued.handle, 0))
    assert bool(views) == (desk.clock() < end)


async def test_the_code_of_a_letter_that_nobody_heard_of_is_accepted_from_who_has_it() -> None:
    desk, issued = await _nothing_heard()
    desk.later(PURPOSE.max_life.total_seconds())

    verdict = await desk.type_in(issued.handle, desk.code_of(issued))

    assert isinstance(verdict, Accepted)


async def test_a_millisecond_after_its_longest_life_it_is_expired_and_a_right_entry_brings_a_fresh_one() -> None:
    desk, issued = await _nothing_heard()
    desk.later(PURPOSE.max_life.total_seconds() + MS_S)

    verdict = await desk.type_in(issued.handle, desk.code_of(issued))

    assert verdict == Expired(desk.stored(issued).newest.reference)
    assert desk.stored(issued).newest.cause is Cause.REISSUED


async def test_a_hand_over_that_is_heard_of_late_revives_the_letter() -> None:
    desk, issued = await _nothing_heard()
    _after_the_pause(desk)
    taken_at = desk.clock()

    await desk.hand_over(issued)
    seen = await _seen(desk.later(3), issued)

    (letter,) = seen.letters
    assert (letter.fate, letter.handed_over_at) == (Fate.HANDED_OVER, taken_at)
    assert letter.good_until == taken_at + PURPOSE.life
    assert seen.advice is not None
    assert seen.advice.kind is AdviceKind.TYPE_IT
    assert isinstance(await desk.type_in(issued.handle, desk.code_of(issued)), Accepted)


async def test_a_revived_letter_and_the_one_that_took_its_place_are_both_good() -> None:
    desk, issued = await _nothing_heard()
    await _after_the_pause(desk).click(issued.handle)

    await desk.hand_over(issued, 1)

    assert [letter.number for letter in desk.stored(issued).live(desk.clock())] == [1, 2]
    assert isinstance(await desk.type_in(issued.handle, desk.code_of(issued, 1)), Accepted)


async def test_a_drop_that_is_heard_of_only_now_brings_no_letter_that_nobody_waits_for() -> None:
    desk, issued = await _nothing_heard()

    await desk.follow(issued.challenge.id, 1, Delivery(Fate.DROPPED, desk.clock()))

    assert [letter.number for letter in desk.stored(issued).generations] == [1]
