"""Following a letter: a hand-over starts the clock; repeats, races and strangers change nothing."""

from __future__ import annotations

import asyncio
from itertools import permutations

import pytest

from services.otp.actions.follow import Unfollowed
from services.otp.ports import COMMIT_TRIES, StoreUnavailable
from services.otp.rules.challenge import Challenge
from services.otp.rules.generation import Delivery, Fate
from services.otp.rules.verdict import Accepted, Expired
from tests.fakes.otp import PURPOSE, InMemoryChallengeStore
from tests.unit.otp.desk import Desk
from tests.unit.otp.made_up import D_S, after, handed_over

LIFE_S = PURPOSE.life.total_seconds()


async def test_a_hand_over_starts_the_clock_however_long_the_letter_waited() -> None:
    desk = Desk()
    issued = await desk.ask()
    desk.later(700)

    followed = await desk.follow(issued.challenge.id, 1, handed_over(699, 698))

    assert followed == desk.stored(issued)
    assert desk.stored(issued).newest.good_until(desk.stored(issued).ends_at) == after(699 + LIFE_S)
    assert isinstance(await desk.later(LIFE_S - 1).type_in(issued.handle, desk.code_of(issued)), Accepted)


@pytest.mark.parametrize(("claimed_s", "believed_s"), [(3600, 8), (-3600, 0)], ids=["ahead", "behind"])
async def test_a_mailer_whose_clock_is_wrong_is_believed_only_within_what_is_possible(
    claimed_s: float, believed_s: float
) -> None:
    desk = Desk()
    issued = await desk.ask()

    await desk.later(8).follow(issued.challenge.id, 1, handed_over(claimed_s))

    assert desk.stored(issued).newest.handed_over_at == after(believed_s)
    assert isinstance(await desk.later(LIFE_S - 9).type_in(issued.handle, desk.code_of(issued)), Accepted)


async def test_a_late_event_about_a_letter_presumed_dropped_revives_it() -> None:
    desk = Desk()
    issued = await desk.ask()
    desk.later(1400)
    assert await desk.get("portal", issued.handle) is not None

    await desk.follow(issued.challenge.id, 1, handed_over(1390, 1389))

    assert isinstance(await desk.type_in(issued.handle, desk.code_of(issued)), Accepted)


async def test_a_code_dropped_unexposed_is_told_expired() -> None:
    desk = Desk()
    issued = await desk.ask()

    await desk.later(D_S).follow(issued.challenge.id, 1, Delivery(Fate.DROPPED, after(D_S)))
    typed = await desk.type_in(issued.handle, desk.code_of(issued))

    assert typed == Expired(desk.stored(issued).newest.reference)


async def test_a_code_dropped_although_its_body_may_have_left_is_still_accepted() -> None:
    desk = Desk()
    issued = await desk.ask()

    await desk.later(D_S).follow(issued.challenge.id, 1, Delivery(Fate.DROPPED, after(D_S), exposed=True))

    assert isinstance(await desk.type_in(issued.handle, desk.code_of(issued)), Accepted)


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
async def test_events_may_come_in_any_order_and_again(order: tuple[int, ...]) -> None:
    events = [handed_over(6, 5), Delivery(Fate.DEFERRED, after(8)), Delivery(Fate.DELIVERED, after(20))]
    desk = Desk()
    issued = await desk.ask()
    desk.later(30)

    for place in order:
        assert isinstance(await desk.follow(issued.challenge.id, 1, events[place]), Challenge)
    repeats = [await desk.follow(issued.challenge.id, 1, event) for event in events]

    known = desk.stored(issued).newest
    assert repeats == [Unfollowed.NOTHING_NEW] * 3
    assert (known.fate, known.handed_over_at, known.delivered_at) == (Fate.DELIVERED, after(6), after(20))


async def test_events_of_all_copies_at_once_are_all_merged() -> None:
    desk = Desk()
    issued = await desk.ask()
    desk.later(300)

    await asyncio.gather(*(desk.follow(issued.challenge.id, 1, handed_over(100 + n, 90 - n)) for n in range(60)))

    assert (desk.stored(issued).newest.body_started_at, desk.stored(issued).newest.handed_over_at) == (
        after(90 - 59),
        after(100 + 59),
    )


@pytest.mark.parametrize("challenge_id", ["", "nonsense", "c00" + "0" * 32])
async def test_a_challenge_that_is_not_ours_is_unknown(challenge_id: str) -> None:
    assert await Desk().follow(challenge_id, 1, handed_over(6)) is Unfollowed.UNKNOWN


async def test_a_challenge_that_has_been_forgotten_is_unknown() -> None:
    desk = Desk()
    issued = await desk.ask()

    assert await desk.later(24 * 3600).follow(issued.challenge.id, 1, handed_over(6)) is Unfollowed.UNKNOWN


async def test_a_generation_that_is_not_there_is_nothing_new() -> None:
    desk = Desk()
    issued = await desk.ask()

    assert await desk.later(8).follow(issued.challenge.id, 2, handed_over(6)) is Unfollowed.NOTHING_NEW


async def test_a_store_that_is_away_is_said_so_that_the_event_comes_again() -> None:
    desk = Desk()
    issued = await desk.ask()
    desk.store.is_away = True

    with pytest.raises(StoreUnavailable):
        await desk.follow(issued.challenge.id, 1, handed_over(6))


async def test_who_loses_every_race_lets_the_event_come_again() -> None:
    class AlwaysLate(InMemoryChallengeStore):
        is_late = False

        async def commit(self, *args: object, **fields: object) -> object:  # type: ignore[override] # passes on
            if self.is_late:
                self.calls.append("late commit")
                return None
            return await super().commit(*args, **fields)  # type: ignore[arg-type] # as they came

    store = AlwaysLate()
    desk = Desk(store=store)
    issued = await desk.ask()
    store.is_late = True

    with pytest.raises(StoreUnavailable):
        await desk.later(8).follow(issued.challenge.id, 1, handed_over(6))

    assert store.calls.count("late commit") == COMMIT_TRIES
