"""A letter of no use is replaced by itself, in the commit that hears of it, within a budget; else it is told why."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from services.otp.actions.follow import Unfollowed
from services.otp.actions.issue import Issued
from services.otp.actions.resend import ResendOutcome
from services.otp.ports import StoreUnavailable
from services.otp.rules.challenge import Stall, State
from services.otp.rules.generation import Cause, Delivery, Fate
from services.otp.rules.policy import REISSUES, AdviceKind, Policy
from services.otp.rules.verdict import Accepted
from tests.fakes.otp import PURPOSE, Breaks, LeavesIt
from tests.unit.otp.desk import Desk
from tests.unit.otp.made_up import D_S, GIVEN_UP_S, after

RESERVE_S, MAX_LIFE_S = PURPOSE.reserve.total_seconds(), PURPOSE.max_life.total_seconds()
LIFE_S, END_S = PURPOSE.life.total_seconds(), PURPOSE.challenge_life.total_seconds()
LAST_USEFUL_S = MAX_LIFE_S - RESERVE_S
"""After its body began to leave: delivered later, less than the reserve is left to type the code."""


async def _handed_over(desk: Desk) -> Issued:
    """A letter that the relay took at noon."""
    issued = await desk.ask()
    await desk.hand_over(issued)
    return issued


async def _delivered(desk: Desk, issued: Issued, number: int, *, late: bool) -> None:
    """Let the relay take a letter, and the mailbox get it too late, or at once."""
    await desk.hand_over(issued, number)
    await desk.later(LAST_USEFUL_S + 1 if late else 0).hear(issued, Fate.DELIVERED, number)


def _causes(desk: Desk, issued: Issued) -> list[Cause]:
    return [generation.cause for generation in desk.stored(issued).generations]


async def test_a_letter_delivered_too_late_to_be_typed_is_replaced_in_the_commit_that_hears_of_it() -> None:
    desk = Desk()
    issued = await _handed_over(desk)
    version = desk.stored(issued).version
    desk.store.calls.clear()

    await desk.later(LAST_USEFUL_S + 0.001).hear(issued, Fate.DELIVERED)

    known = desk.stored(issued)
    assert _causes(desk, issued) == [Cause.REQUESTED, Cause.REISSUED]
    assert (known.version, desk.store.calls.count("commit")) == (version + 1, 1)
    assert known.generations[0].fate is Fate.DELIVERED
    assert (known.newest.made_at, known.newest.wanted_until) == (desk.clock(), desk.clock() + PURPOSE.deadline)
    assert desk.events.published == [f"{known.id}.1", f"{known.id}.2"]
    assert isinstance(await desk.type_in(issued.handle, desk.code_of(issued, 2)), Accepted)


async def test_a_letter_delivered_with_just_the_reserve_left_is_left_alone() -> None:
    desk = Desk()
    issued = await _handed_over(desk)

    await desk.later(LAST_USEFUL_S).hear(issued, Fate.DELIVERED)

    assert _causes(desk, issued) == [Cause.REQUESTED]
    assert desk.stored(issued).stalled is None


async def test_a_late_delivery_that_is_told_twice_makes_one_letter() -> None:
    desk = Desk()
    issued = await _handed_over(desk)
    late = Delivery(Fate.DELIVERED, after(LAST_USEFUL_S + 1))
    desk.later(LAST_USEFUL_S + 2)

    told = await asyncio.gather(*(desk.follow(issued.challenge.id, 1, late) for _ in range(5)))

    assert _causes(desk, issued) == [Cause.REQUESTED, Cause.REISSUED]
    assert told.count(Unfollowed.NOTHING_NEW) == 4
    assert len(desk.events.published) == 2


async def test_news_of_a_letter_that_has_a_successor_makes_no_other() -> None:
    desk = Desk()
    issued = await _handed_over(desk)
    await desk.later(PURPOSE.cooldowns[0].total_seconds()).click(issued.handle)
    await desk.hand_over(issued, 2)

    await desk.later(LAST_USEFUL_S).hear(issued, Fate.DELIVERED, number=1)

    assert _causes(desk, issued) == [Cause.REQUESTED, Cause.RESENT]


async def test_news_of_an_earlier_letter_makes_none_for_the_last_one() -> None:
    desk = Desk()
    issued = await _handed_over(desk)
    await desk.later(100).click(issued.handle)
    await desk.later(D_S).hear(issued, Fate.DROPPED, 2)
    await desk.store.note_watched(issued.challenge.id, after(END_S))

    await desk.hear(issued, Fate.DELIVERED, 1, at=after(9))

    assert _causes(desk, issued) == [Cause.REQUESTED, Cause.RESENT]


async def test_a_letter_dropped_before_its_deadline_is_replaced() -> None:
    desk = Desk()
    issued = await desk.ask()

    await desk.later(D_S - 0.001).hear(issued, Fate.DROPPED)

    assert _causes(desk, issued) == [Cause.REQUESTED, Cause.REISSUED]
    assert desk.events.published == [f"{issued.challenge.id}.1", f"{issued.challenge.id}.2"]


async def test_a_letter_dropped_at_its_deadline_that_nobody_watches_is_left_to_a_click() -> None:
    desk = Desk()
    issued = await desk.ask()

    await desk.later(D_S).hear(issued, Fate.DROPPED)

    assert _causes(desk, issued) == [Cause.REQUESTED]
    assert desk.stored(issued).stalled is None
    clicked = await desk.later(PURPOSE.cooldowns[0].total_seconds()).click(issued.handle)
    assert clicked.outcome is ResendOutcome.QUEUED


async def test_a_join_that_kept_the_letter_wanted_counts_when_it_is_dropped() -> None:
    desk = Desk()
    issued = await desk.ask("key-1")
    await desk.later(100).ask("key-2")

    await desk.later(D_S - 100).hear(issued, Fate.DROPPED)

    assert _causes(desk, issued) == [Cause.REQUESTED, Cause.REISSUED]


@pytest.mark.parametrize(("lease_s", "letters"), [(0.001, 2), (0, 1)], ids=["watched", "the lease has run out"])
async def test_a_letter_dropped_at_its_deadline_is_replaced_for_whoever_still_watches(
    lease_s: float, letters: int
) -> None:
    desk = Desk()
    issued = await desk.ask()
    desk.later(D_S)
    await desk.store.note_watched(issued.challenge.id, desk.clock() + timedelta(seconds=lease_s))

    await desk.hear(issued, Fate.DROPPED)

    assert len(_causes(desk, issued)) == letters


@pytest.mark.parametrize("fate", [Fate.HANDED_OVER, Fate.DEFERRED, Fate.BOUNCED, Fate.REFUSED, Fate.DELIVERED])
async def test_nothing_else_that_is_heard_makes_a_letter(fate: Fate) -> None:
    desk = Desk()
    issued = await desk.ask()
    await desk.store.note_watched(issued.challenge.id, after(END_S))

    await desk.later(6).hear(issued, fate)

    assert _causes(desk, issued) == [Cause.REQUESTED]


async def test_silence_makes_no_letter_however_long_it_lasts() -> None:
    desk = Desk()
    issued = await desk.ask()

    seen = await desk.later(GIVEN_UP_S + 60).get("portal", issued.handle)

    assert seen is not None
    assert seen.letters[0].fate is Fate.DROPPED
    assert _causes(desk, issued) == [Cause.REQUESTED]


async def test_a_drop_whose_letter_was_handed_over_all_the_same_is_no_loss() -> None:
    desk = Desk()
    issued = await _handed_over(desk)

    await desk.later(5).hear(issued, Fate.DROPPED)

    assert _causes(desk, issued) == [Cause.REQUESTED]


async def test_a_challenge_that_is_over_gets_no_letter() -> None:
    verified, given_back = Desk(), Desk()
    done = await verified.ask()
    assert isinstance(await verified.type_in(done.handle, verified.code_of(done)), Accepted)
    closed = await given_back.ask()
    assert await given_back.cancel("portal", closed.handle)

    await verified.later(9).hear(done, Fate.DROPPED)
    await given_back.later(9).hear(closed, Fate.DROPPED)

    assert _causes(verified, done) == _causes(given_back, closed) == [Cause.REQUESTED]


async def test_while_two_codes_are_good_no_third_is_made() -> None:
    desk = Desk()
    issued = await _handed_over(desk)
    await desk.later(100).click(issued.handle)

    await desk.later(30).hear(issued, Fate.DROPPED, 2, exposed=True)

    assert len(desk.stored(issued).live(desk.clock())) == 2
    assert _causes(desk, issued) == [Cause.REQUESTED, Cause.RESENT]


async def test_after_two_letters_by_itself_that_all_came_late_the_channel_is_called_slow() -> None:
    desk = Desk(policy=_of_long_challenges())
    issued = await desk.ask()

    for number in range(1, REISSUES + 2):
        await _delivered(desk, issued, number, late=True)

    known = desk.stored(issued)
    assert _causes(desk, issued) == [Cause.REQUESTED, *[Cause.REISSUED] * REISSUES]
    assert known.stalled is Stall.CHANNEL_SLOW
    seen = await desk.get("portal", issued.handle)
    assert seen is not None
    assert seen.advice is not None
    assert (seen.state, seen.advice.kind) == (State.OPEN, AdviceKind.OTHER_CHANNEL)


async def test_after_two_letters_by_itself_of_which_one_was_dropped_the_budget_is_named() -> None:
    desk = Desk()
    issued = await desk.ask()

    for number in range(1, REISSUES + 2):
        await desk.later(30).hear(issued, Fate.DROPPED, number)

    assert _causes(desk, issued) == [Cause.REQUESTED, *[Cause.REISSUED] * REISSUES]
    assert desk.stored(issued).stalled is Stall.BUDGET


async def test_a_click_may_still_try_what_the_machine_does_not_and_ends_the_stall() -> None:
    desk = Desk()
    issued = await desk.ask()
    for number in range(1, REISSUES + 2):
        await desk.later(5).hear(issued, Fate.DROPPED, number)

    clicked = await desk.later(PURPOSE.cooldowns[-1].total_seconds()).click(issued.handle)

    assert clicked.outcome is ResendOutcome.QUEUED
    assert desk.stored(issued).stalled is None
    await desk.later(5).hear(issued, Fate.DROPPED, REISSUES + 2)
    assert len(_causes(desk, issued)) == REISSUES + 2
    assert desk.stored(issued).stalled is Stall.BUDGET


async def test_where_no_code_could_live_its_life_any_more_the_channel_is_called_slow() -> None:
    desk = Desk()
    issued = await desk.ask()
    desk.later(END_S - LIFE_S)
    await desk.store.note_watched(issued.challenge.id, after(END_S))

    await desk.hear(issued, Fate.DROPPED)

    assert _causes(desk, issued) == [Cause.REQUESTED]
    assert desk.stored(issued).stalled is Stall.CHANNEL_SLOW


async def test_without_the_key_of_its_part_the_event_is_merged_and_the_letter_left_to_a_click() -> None:
    desk = Desk()
    issued = await desk.ask()
    desk.mint.is_locked = True

    await desk.later(9).hear(issued, Fate.DROPPED)

    known = desk.stored(issued)
    assert (known.newest.fate, known.version, known.stalled) == (Fate.DROPPED, 2, None)
    assert _causes(desk, issued) == [Cause.REQUESTED]


async def test_a_record_whose_part_does_not_open_takes_the_event_all_the_same() -> None:
    desk = Desk()
    issued = await desk.ask()
    opens_no_seal_of_it = Desk(store=desk.store)

    await opens_no_seal_of_it.later(9).hear(issued, Fate.DROPPED)

    assert desk.stored(issued).newest.fate is Fate.DROPPED
    assert _causes(desk, issued) == [Cause.REQUESTED]


async def test_without_the_key_a_stall_is_still_told() -> None:
    desk = Desk()
    issued = await desk.ask()
    for number in range(1, REISSUES + 1):
        await desk.later(9).hear(issued, Fate.DROPPED, number)
    desk.mint.is_locked = True

    await desk.later(9).hear(issued, Fate.DROPPED, REISSUES + 1)

    assert desk.stored(issued).stalled is Stall.BUDGET


async def test_a_letter_made_by_itself_waits_in_the_outbox_if_the_process_dies_after_the_commit() -> None:
    desk = Desk()
    issued = await desk.ask()
    dying = Desk(store=desk.store, announce=LeavesIt(), mint=desk.mint)

    await dying.later(9).hear(issued, Fate.DROPPED)

    assert desk.store.outbox() == [f"{issued.challenge.id}.2"]


@pytest.mark.parametrize("when", list(Breaks), ids=str)
async def test_a_commit_that_broke_is_repeated_by_the_record_and_makes_one_letter(when: Breaks) -> None:
    desk = Desk()
    issued = await desk.ask()
    dropped = Delivery(Fate.DROPPED, after(9))
    desk.later(9).store.breaks_next("commit", when)
    with pytest.raises(StoreUnavailable):
        await desk.follow(issued.challenge.id, 1, dropped)

    await desk.follow(issued.challenge.id, 1, dropped)

    assert _causes(desk, issued) == [Cause.REQUESTED, Cause.REISSUED]
    await desk.later(6).sweep()
    assert desk.events.published == [f"{issued.challenge.id}.1", f"{issued.challenge.id}.2"]


def _of_long_challenges() -> Policy:
    """Three late letters in a row need more than half an hour."""
    return Policy({PURPOSE.name: replace(PURPOSE, challenge_life=timedelta(hours=1))})
