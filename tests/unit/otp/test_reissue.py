"""What else brings a letter by itself: a relay whose next try is too late, and hearsay; and what forbids it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from services.otp.ports import StoreUnavailable
from services.otp.rules.challenge import Challenge, Fresh, SealedPart, Stall
from services.otp.rules.generation import Cause, CodeFate, Delivery, Fate, Generation
from services.otp.rules.policy import AdviceKind, Policy
from services.otp.rules.renewal import healed, reissued
from services.otp.rules.verdict import Accepted, Expired
from services.otp.rules.view import seen_by
from tests.fakes.otp import PURPOSE
from tests.unit.otp.desk import Desk
from tests.unit.otp.made_up import D_S, MS, after, challenge, generation

MAX_LIFE_S, RESERVE_S = PURPOSE.max_life.total_seconds(), PURPOSE.reserve.total_seconds()
LIFE_S, END_S = PURPOSE.life.total_seconds(), PURPOSE.challenge_life.total_seconds()
BODY_S = 5
LAST_TRY_S = BODY_S + MAX_LIFE_S - RESERVE_S
"""The last instant at which a try of the relay still leaves the reserve to type the code."""


def _fresh(_: Challenge, number: int) -> Fresh:
    return Fresh(f"NEW{number:02}", "c9", SealedPart("s9", b"m" * 12, b"sealed"))


def _deferred(number: int = 1, *, until: float, **fields: Any) -> Generation:
    return generation(number, body_started_at=BODY_S, handed_over_at=6, deferred_at=8, next_try_at=until, **fields)


def _healed(known: Challenge, seconds: float = 9, *, forbidden: Stall | None = None) -> Challenge | None:
    return healed(known, _fresh, PURPOSE, after(seconds), is_watched=False, forbidden=forbidden)


async def _handed_over(desk: Desk) -> str:
    issued = await desk.ask()
    await desk.hand_over(issued)
    return issued.challenge.id


# The relay defers


def test_a_letter_whose_next_try_leaves_no_time_to_type_is_replaced_at_once() -> None:
    in_time = _healed(challenge(_deferred(until=LAST_TRY_S)))
    too_late = _healed(challenge(_deferred(until=LAST_TRY_S + 0.001)))

    assert in_time is None
    assert too_late is not None
    assert too_late.newest.cause is Cause.REISSUED


def test_near_the_end_of_a_challenge_its_end_decides_whether_the_next_try_is_too_late() -> None:
    known = challenge(_deferred(until=200), ends_at=after(200 + RESERVE_S))

    assert not known.newest.will_come_too_late(known.ends_at, PURPOSE.reserve)
    assert known.newest.will_come_too_late(known.ends_at - MS, PURPOSE.reserve)


@pytest.mark.parametrize(
    "seen",
    [
        {"deferred_at": 8, "next_try_at": 2000},
        {"handed_over_at": 9, "deferred_at": 8, "next_try_at": 2000},
        {"handed_over_at": 6, "deferred_at": 8},
        {"handed_over_at": 6, "deferred_at": 8, "next_try_at": 2000, "delivered_at": 30},
        {"handed_over_at": 6, "deferred_at": 8, "next_try_at": 2000, "bounced_at": 30},
    ],
    ids=["still ours", "handed over again since", "nobody knows when", "delivered after all", "bounced"],
)
def test_a_deferral_that_is_over_or_ours_or_open_brings_no_letter(seen: dict[str, Any]) -> None:
    assert _healed(challenge(generation(**seen))) is None


def test_how_long_until_the_next_try_counts_and_not_what_the_relays_clock_shows() -> None:
    ahead = Delivery(Fate.DEFERRED, after(1000), next_try_at=after(1300))
    backwards = Delivery(Fate.DEFERRED, after(20), next_try_at=after(10))

    assert generation().merged(ahead, after(30)).next_try_at == after(330)
    assert generation().merged(backwards, after(30)).next_try_at == after(20)


async def test_a_letter_deferred_beyond_use_is_replaced_in_the_commit_that_hears_of_it() -> None:
    desk = Desk()
    known = await _handed_over(desk)
    version = desk.stored(known).version

    await desk.later(1).hear(known, Fate.DEFERRED, next_try_at=after(MAX_LIFE_S))

    stored = desk.stored(known)
    assert (stored.version, stored.newest.cause) == (version + 1, Cause.REISSUED)
    assert desk.events.published == [f"{known}.1", f"{known}.2"]


async def test_a_letter_deferred_for_a_while_is_waited_for_and_its_code_lives_from_its_delivery() -> None:
    desk = Desk()
    issued = await desk.ask()
    await desk.hand_over(issued)

    await desk.later(1).hear(issued, Fate.DEFERRED, next_try_at=after(LIFE_S + 40))
    await desk.later(LIFE_S + 60).hear(issued, Fate.DELIVERED)

    assert len(desk.stored(issued).generations) == 1
    assert isinstance(await desk.later(30).type_in(issued.handle, desk.code_of(issued)), Accepted)


def test_while_the_relay_will_try_in_time_the_advice_is_to_wait_for_that_although_the_code_has_run_out() -> None:
    known = challenge(_deferred(until=LIFE_S + 60))

    before = seen_by(known, 0, PURPOSE, after(LIFE_S + 60))
    later = seen_by(known, 0, PURPOSE, after(LIFE_S + 60) + MS)

    assert before.advice is not None
    assert later.advice is not None
    assert (before.advice.kind, before.advice.until) == (AdviceKind.WAIT, after(LIFE_S + 60))
    assert later.advice.kind is AdviceKind.ASK_AGAIN
    assert later.version > before.version


async def test_a_relay_that_stays_slow_gets_three_letters_and_the_channel_is_called_slow_at_once() -> None:
    desk = Desk(policy=Policy({PURPOSE.name: replace(PURPOSE, challenge_life=timedelta(hours=1))}))
    issued = await desk.ask()

    for number in (1, 2, 3):
        await desk.hand_over(issued, number)
        await desk.later(1).hear(issued, Fate.DEFERRED, number, next_try_at=desk.clock() + PURPOSE.max_life)
        if number == 2:  # two codes are good: no third is made until the relay says so again
            assert len(desk.stored(issued).generations) == number
            await desk.later(LIFE_S).hear(issued, Fate.DEFERRED, number, next_try_at=desk.clock() + PURPOSE.max_life)

    stored = desk.stored(issued)
    assert [letter.cause for letter in stored.generations] == [Cause.REQUESTED, Cause.REISSUED, Cause.REISSUED]
    assert stored.stalled is Stall.CHANNEL_SLOW


# Hearsay


async def test_what_a_dsn_says_is_shown_and_starts_no_clock_and_proves_nothing() -> None:
    desk = Desk()
    issued = await desk.ask()
    await desk.hand_over(issued)
    good_until = desk.stored(issued).newest.good_until(after(END_S))

    await desk.later(100).hear(issued, Fate.DELIVERED, is_hearsay=True)

    seen = await desk.get("portal", issued.handle)
    assert seen is not None
    assert (seen.letters[0].fate, seen.letters[0].delivered_at) == (Fate.DELIVERED, after(100))
    assert seen.letters[0].good_until == good_until
    assert desk.stored(issued).newest.code_fate is None


async def test_a_letter_that_came_too_late_by_hearsay_is_replaced() -> None:
    desk = Desk()
    known = await _handed_over(desk)

    await desk.later(LIFE_S - RESERVE_S + 0.001).hear(known, Fate.DELIVERED, is_hearsay=True)

    assert desk.stored(known).newest.cause is Cause.REISSUED


async def test_a_bounce_by_hearsay_shows_the_alternatives_and_is_overruled_by_a_trusted_delivery() -> None:
    desk = Desk()
    issued = await desk.ask()
    await desk.hand_over(issued)

    await desk.later(5).hear(issued, Fate.BOUNCED, is_hearsay=True)
    bounced = await desk.get("portal", issued.handle)
    await desk.later(5).hear(issued, Fate.DELIVERED)

    assert bounced is not None
    assert bounced.advice is not None
    assert (bounced.advice.kind, bounced.advice.alternatives) == (AdviceKind.OTHER_CHANNEL, PURPOSE.alternatives)
    stored = desk.stored(issued).newest
    assert (stored.fate, stored.code_fate) == (Fate.DELIVERED, CodeFate.IN_TIME)


# What forbids it


@pytest.mark.parametrize("forbidden", [Stall.QUOTA, Stall.OVERLOAD, Stall.CHANNEL_SLOW])
async def test_a_letter_that_is_forbidden_is_not_made_and_the_challenge_says_why(forbidden: Stall) -> None:
    desk = Desk()
    issued = await desk.ask()
    desk.restraint.forbids = forbidden

    await desk.later(9).hear(issued, Fate.DROPPED)

    seen = await desk.get("portal", issued.handle)
    assert seen is not None
    assert seen.advice is not None
    assert (len(seen.letters), seen.stalled, seen.advice.kind) == (1, forbidden, AdviceKind.OTHER_CHANNEL)
    assert desk.restraint.asked == [f"{issued.challenge.id}.2"]


async def test_once_forbidden_the_machine_asks_no_more_and_a_click_still_may() -> None:
    desk = Desk()
    issued = await desk.ask()
    await desk.hand_over(issued)
    code = desk.code_of(issued)
    desk.later(LIFE_S + 1).restraint.forbids = Stall.OVERLOAD

    told = [await desk.type_in(issued.handle, code) for _ in range(5)]
    desk.restraint.forbids = None
    told += [await desk.type_in(issued.handle, code)]
    await desk.click(issued.handle)

    assert told == [Expired()] * 6
    stored = desk.stored(issued)
    assert [letter.cause for letter in stored.generations] == [Cause.REQUESTED, Cause.RESENT]
    assert (stored.stalled, stored.attempts, len(desk.restraint.asked)) == (None, 0, 1)


async def test_held_back_because_the_channel_is_slow_the_machine_asks_again_and_makes_the_letter_when_it_is_well() -> (
    None
):
    desk = Desk()
    issued = await desk.ask()
    await desk.hand_over(issued)
    desk.restraint.forbids = Stall.CHANNEL_SLOW
    await desk.later(9).hear(issued, Fate.DEFERRED, next_try_at=after(END_S))
    stalled = desk.stored(issued)

    await desk.later(9).hear(issued, Fate.DEFERRED, next_try_at=after(END_S))
    still = desk.stored(issued)
    desk.restraint.forbids = None
    await desk.later(9).hear(issued, Fate.DEFERRED, next_try_at=after(END_S))

    assert (stalled.stalled, still.stalled) == (Stall.CHANNEL_SLOW, Stall.CHANNEL_SLOW)
    healed_at_last = desk.stored(issued)
    assert (healed_at_last.stalled, healed_at_last.newest.cause) == (None, Cause.REISSUED)


async def test_of_each_code_that_came_in_time_its_channel_is_told_once_by_a_receipt_or_by_a_right_entry() -> None:
    desk = Desk()
    receipted, typed, late = [await desk.ask(f"key-{who}", subject=who) for who in ("an", "binh", "chi")]
    for issued in (receipted, typed, late):
        await desk.hand_over(issued)

    for _ in range(2):
        desk.later(1)
        await desk.follow(receipted.challenge.id, 1, Delivery(Fate.DELIVERED, desk.clock()))
        await desk.type_in(typed.handle, desk.code_of(typed))
    await desk.type_in(receipted.handle, desk.code_of(receipted))
    await desk.later(MAX_LIFE_S).hear(late, Fate.DELIVERED)

    assert desk.restraint.in_time == [receipted.challenge.id, typed.challenge.id]


async def test_a_right_code_too_late_typed_five_times_makes_one_letter_and_costs_no_attempt() -> None:
    desk = Desk()
    issued = await desk.ask()
    await desk.hand_over(issued)
    code = desk.code_of(issued)
    desk.later(LIFE_S + 1)

    told = [await desk.type_in(issued.handle, code) for _ in range(5)]

    stored = desk.stored(issued)
    assert [verdict.reference for verdict in told if isinstance(verdict, Expired)] == [stored.newest.reference] * 5
    assert ([letter.cause for letter in stored.generations], stored.attempts) == ([Cause.REQUESTED, Cause.REISSUED], 0)


async def test_nothing_is_asked_where_no_letter_would_be_made() -> None:
    desk = Desk()
    issued = await desk.ask()
    desk.restraint.forbids = Stall.QUOTA

    await desk.later(D_S).hear(issued, Fate.DROPPED)

    assert desk.restraint.asked == []
    assert desk.stored(issued).stalled is None


async def test_while_nobody_knows_whether_it_is_allowed_the_event_waits() -> None:
    desk = Desk()
    issued = await desk.ask()
    desk.restraint.is_away = True
    dropped = Delivery(Fate.DROPPED, after(9))

    with pytest.raises(StoreUnavailable):
        await desk.later(9).follow(issued.challenge.id, 1, dropped)

    desk.restraint.is_away = False
    await desk.follow(issued.challenge.id, 1, dropped)
    assert desk.stored(issued).newest.cause is Cause.REISSUED


def test_the_budget_speaks_before_what_is_forbidden() -> None:
    lost = [generation(1, dropped_at=8), *(generation(n, dropped_at=8, cause=Cause.REISSUED) for n in (2, 3))]

    stalled = reissued(challenge(*lost), _fresh, PURPOSE, after(9), forbidden=Stall.QUOTA)

    assert stalled is not None
    assert stalled.stalled is Stall.BUDGET


def test_a_spent_budget_is_told_although_two_codes_are_good() -> None:
    late = [_deferred(number, until=END_S, cause=Cause.REISSUED) for number in (2, 3)]

    stalled = _healed(challenge(_deferred(until=END_S), *late))

    assert stalled is not None
    assert stalled.stalled is Stall.CHANNEL_SLOW
