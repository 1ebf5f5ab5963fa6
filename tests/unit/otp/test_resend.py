"""Stories of asking for another letter: at most one waits, two codes live, and a repeat of a click makes no other."""

from __future__ import annotations

import asyncio

import pytest

from services.otp.actions.issue import Issued
from services.otp.actions.resend import ResendOutcome
from services.otp.ports import COMMIT_TRIES, KeysUnknown, StoreUnavailable
from services.otp.rules.challenge import State
from services.otp.rules.generation import Cause, Fate
from services.otp.rules.policy import MAX_LIVE, Policy
from services.otp.rules.verdict import Accepted, Locked, Wrong
from tests.fakes.otp import PURPOSE, Breaks, LeavesIt
from tests.unit.otp.desk import NO_HANDLE, REQUEST, Desk
from tests.unit.otp.made_up import D_S, GIVEN_UP_S, after
from tests.unit.otp.overtaken import Overtaken

COOLDOWN_S, SECOND_COOLDOWN_S = (pause.total_seconds() for pause in PURPOSE.cooldowns[:2])
LIFE_S = PURPOSE.life.total_seconds()
END_S = PURPOSE.challenge_life.total_seconds()


async def _arrived() -> tuple[Desk, Issued]:
    """A code in a mailbox."""
    desk = Desk()
    issued = await desk.ask()
    await desk.hand_over(issued)
    return desk, issued


def _letters(desk: Desk, issued: Issued) -> int:
    return len(desk.stored(issued).generations)


async def test_after_the_pause_a_click_queues_another_letter_and_announces_it() -> None:
    desk, issued = await _arrived()
    before = desk.stored(issued)

    answer = await desk.later(COOLDOWN_S).click(issued.handle)

    stored = desk.stored(issued)
    assert answer.outcome is ResendOutcome.QUEUED
    assert (stored.generations[0], stored.newest.cause) == (before.newest, Cause.RESENT)
    assert desk.events.published == [f"{stored.id}.1", f"{stored.id}.2"]
    assert answer.challenge == await desk.get("portal", issued.handle)
    assert desk.mint.part(stored).email == REQUEST.email


async def test_both_codes_open_the_challenge() -> None:
    for number in (1, 2):
        desk, issued = await _arrived()
        await desk.later(COOLDOWN_S).click(issued.handle)

        assert isinstance(await desk.type_in(issued.handle, desk.code_of(issued, number)), Accepted)


async def test_a_click_within_the_pause_is_told_when_to_come_back() -> None:
    desk, issued = await _arrived()
    before = desk.stored(issued)

    answer = await desk.later(COOLDOWN_S - 0.001).click(issued.handle)

    assert answer.outcome is ResendOutcome.NOT_YET
    assert answer.challenge is not None
    assert answer.challenge.resend_allowed_at == after(COOLDOWN_S)
    assert desk.stored(issued) == before
    assert (await desk.later(0.001).click(issued.handle)).outcome is ResendOutcome.QUEUED


async def test_while_the_letter_waits_a_click_keeps_its_place_and_lets_it_be_wanted_for_longer() -> None:
    desk = Desk()
    await desk.ask("key-0", subject="citizen-1")
    issued = await desk.ask()
    desk.queue.committed[0] = 0

    answer = await desk.later(100).click(issued.handle)

    assert answer.outcome is ResendOutcome.STILL_QUEUED
    assert answer.challenge is not None
    (letter,) = answer.challenge.letters
    assert (letter.wanted_until, letter.place) == (after(100 + D_S), 1)
    assert desk.events.published[2:] == [f"{issued.challenge.id}.1 wanted"]


async def test_clicks_in_a_row_are_told_to_the_mailer_once_in_30_seconds() -> None:
    desk = Desk()
    issued = await desk.ask()

    for _ in range(60):
        assert (await desk.later(1).click(issued.handle, key=f"click-{desk.clock()}")).outcome == "still_queued"

    assert desk.events.published[1:] == [f"{issued.challenge.id}.1 wanted"] * 2
    assert _letters(desk, issued) == 1


async def test_a_letter_that_nobody_heard_of_is_replaced_by_a_click_after_the_pause() -> None:
    desk = Desk()
    issued = await desk.ask()

    given_up = await desk.later(GIVEN_UP_S + 0.001).click(issued.handle, key="click-1")
    paused = await desk.later(COOLDOWN_S).click(issued.handle, key="click-2")

    assert (given_up.outcome, paused.outcome) == (ResendOutcome.NOT_YET, ResendOutcome.QUEUED)


async def test_two_codes_live_at_most() -> None:
    desk, issued = await _arrived()
    await desk.later(100).click(issued.handle, key="click-1")
    await desk.hand_over(issued, 2)

    too_many = await desk.later(SECOND_COOLDOWN_S).click(issued.handle, key="click-2")
    at_last = await desk.later(LIFE_S - 100 - SECOND_COOLDOWN_S + 0.001).click(issued.handle, key="click-3")

    assert too_many.outcome is ResendOutcome.NOT_YET
    assert too_many.challenge is not None
    assert after(LIFE_S) < too_many.challenge.resend_allowed_at < after(LIFE_S + 0.001)
    assert at_last.outcome is ResendOutcome.QUEUED
    assert len(desk.stored(issued).live(desk.clock())) == MAX_LIVE


@pytest.mark.parametrize("over", ["verified", "spent", "ended", "no room for a code"])
async def test_a_challenge_that_is_over_gets_no_letter_and_says_so(over: str) -> None:
    desk = Desk()
    handles = [(await desk.ask(f"key-{n}")).handle for n in range(3)]
    issued = await desk.ask("key-0")
    await desk.hand_over(issued)
    if over == "verified":
        await desk.type_in(handles[0], desk.code_of(issued))
    if over == "spent":
        for n in range(PURPOSE.attempts):
            await desk.type_in(handles[n // 3], desk.wrong_code(issued, n))
    desk.later({"ended": END_S + 0.001, "no room for a code": END_S - LIFE_S}.get(over, COOLDOWN_S))
    before = desk.stored(issued)

    answer = await desk.click(handles[0])

    assert answer.outcome is ResendOutcome.NOT_OPEN
    assert answer.challenge is not None
    assert (answer.challenge.state is State.OPEN) == (over == "no room for a code")
    assert desk.stored(issued) == before


@pytest.mark.parametrize("who", ["unknown", "foreign", "mistyped", "nothing", "given back", "another purpose"])
async def test_a_stranger_is_shown_nothing_and_changes_nothing(who: str) -> None:
    desk, issued = await _arrived()
    if who == "given back":
        await desk.cancel("portal", issued.handle)
    handle, caller = {
        "unknown": (NO_HANDLE, "portal"),
        "foreign": (issued.handle, "clinic"),
        "mistyped": (issued.handle[:-1] + ("0" if issued.handle[-1] != "0" else "1"), "portal"),
        "nothing": ("", "portal"),
    }.get(who, (issued.handle, "portal"))
    before = desk.stored(issued)
    here = Desk(store=desk.store, policy=Policy({})) if who == "another purpose" else desk

    answer = await here.later(COOLDOWN_S).click(handle, caller=caller)

    assert (answer.outcome, answer.challenge) == (ResendOutcome.NOT_OPEN, None)
    assert desk.stored(issued) == before


# A resend resets nothing


async def test_another_letter_resets_no_attempt() -> None:
    desk, issued = await _arrived()
    for guess in range(3):
        await desk.type_in(issued.handle, desk.wrong_code(issued, guess))

    answer = await desk.later(COOLDOWN_S).click(issued.handle)

    assert answer.outcome is ResendOutcome.QUEUED
    assert answer.challenge is not None
    assert answer.challenge.attempts_left == 0
    assert isinstance(await desk.type_in(issued.handle, desk.code_of(issued, 2)), Locked)


async def test_another_letter_resets_neither_the_end_nor_what_was_told() -> None:
    desk, issued = await _arrived()
    await desk.type_in(issued.handle, desk.wrong_code(issued), key="entry-1")
    before = desk.stored(issued)

    await desk.later(COOLDOWN_S).click(issued.handle)

    stored = desk.stored(issued)
    assert (stored.ends_at, stored.attempts, stored.handles) == (before.ends_at, before.attempts, before.handles)
    assert await desk.type_in(issued.handle, desk.wrong_code(issued), key="entry-1") == Wrong(2)


async def test_another_letter_wakes_no_code_that_was_told_expired() -> None:
    desk, issued = await _arrived()
    await desk.later(LIFE_S + 1).type_in(issued.handle, desk.code_of(issued))
    await desk.hear(issued, Fate.DROPPED, 2)

    await desk.later(COOLDOWN_S * 10).click(issued.handle)

    assert desk.stored(issued).generations[0].told_expired
    assert not isinstance(await desk.type_in(issued.handle, desk.code_of(issued, 1)), Accepted)


# Repeats, crowds and faults


async def test_the_same_click_again_is_answered_the_same_and_queues_no_other_letter() -> None:
    desk, issued = await _arrived()
    first = await desk.later(COOLDOWN_S).click(issued.handle, key="click-1")

    repeats = [await desk.click(issued.handle, key="click-1") for _ in range(3)]
    await desk.hand_over(issued, 2)
    later = await desk.later(SECOND_COOLDOWN_S + LIFE_S).click(issued.handle, key="click-1")

    assert repeats == [first] * 3
    assert later.outcome is ResendOutcome.QUEUED
    assert _letters(desk, issued) == 2
    assert (await desk.click(issued.handle, key="click-2")).outcome is ResendOutcome.QUEUED
    assert _letters(desk, issued) == 3


async def test_the_same_key_on_another_handle_is_another_click() -> None:
    desk = Desk()
    first, second = await desk.ask("key-1"), await desk.ask("key-2")
    await desk.hand_over(first)
    await desk.later(COOLDOWN_S).click(first.handle, key="click-1")

    answer = await desk.click(second.handle, key="click-1")

    assert answer.outcome is ResendOutcome.STILL_QUEUED


async def test_of_a_click_whose_answer_was_lost_the_repeat_tells() -> None:
    desk, issued = await _arrived()
    desk.later(COOLDOWN_S).store.breaks_next("commit", Breaks.AFTER)
    with pytest.raises(StoreUnavailable):
        await desk.click(issued.handle)

    answer = await desk.click(issued.handle)

    assert (answer.outcome, _letters(desk, issued)) == (ResendOutcome.QUEUED, 2)
    assert desk.store.outbox() == [f"{issued.challenge.id}.2"]  # for the sweep


async def test_fifty_clicks_at_once_queue_one_letter() -> None:
    desk, issued = await _arrived()
    desk.later(COOLDOWN_S)

    answers = await asyncio.gather(*(desk.click(issued.handle, key=f"click-{n}") for n in range(50)))

    outcomes = sorted(answer.outcome for answer in answers)
    assert outcomes == [ResendOutcome.QUEUED] + [ResendOutcome.STILL_QUEUED] * 49
    assert _letters(desk, issued) == 2
    assert desk.events.published[1:] == [f"{issued.challenge.id}.2"]


async def test_fifty_repeats_of_one_click_at_once_are_all_told_of_the_same_letter() -> None:
    desk, issued = await _arrived()
    desk.later(COOLDOWN_S)

    answers = await asyncio.gather(*(desk.click(issued.handle, key="click-1") for _ in range(50)))

    assert {answer.outcome for answer in answers} == {ResendOutcome.QUEUED}
    assert _letters(desk, issued) == 2


async def test_where_the_letter_stands_is_told_when_it_is_known() -> None:
    desk, issued = await _arrived()
    desk.queue.committed[0] = 0

    answer = await desk.later(COOLDOWN_S).click(issued.handle)
    again = await desk.later(1).click(issued.handle, key="click-2")

    for each in (answer, again):
        assert each.challenge is not None
        assert each.challenge.letters[0].place == 1


async def test_an_old_place_is_not_told_of_a_new_letter() -> None:
    desk, issued = await _arrived()
    desk.queue.committed[0] = 0
    desk.events.is_away = True

    answer = await desk.later(COOLDOWN_S).click(issued.handle)

    assert answer.challenge is not None
    assert answer.challenge.letters[0].place is None


async def test_without_the_seal_key_no_letter_is_made_and_the_caller_is_told() -> None:
    desk, issued = await _arrived()
    before = desk.stored(issued)
    desk.mint.is_locked = True

    with pytest.raises(KeysUnknown):
        await desk.later(COOLDOWN_S).click(issued.handle)

    assert desk.stored(issued) == before


@pytest.mark.parametrize(("lost_races", "succeeds"), [(COMMIT_TRIES - 1, True), (COMMIT_TRIES, False)])
async def test_who_loses_every_race_is_told_to_come_back(lost_races: int, *, succeeds: bool) -> None:
    store = Overtaken()
    desk = Desk(store=store, announce=LeavesIt())
    issued = await desk.ask()
    store.lost = lost_races

    if succeeds:
        assert (await desk.later(30).click(issued.handle)).outcome is ResendOutcome.STILL_QUEUED
    else:
        with pytest.raises(StoreUnavailable):
            await desk.later(30).click(issued.handle)
