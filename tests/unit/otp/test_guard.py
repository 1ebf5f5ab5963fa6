"""Guesses over all challenges: limits per network and per caller, and halved attempts while too many fail."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from services.otp.actions.guard import WatchGuesses
from services.otp.ports import IdempotencyKeyReused, KeysUnknown, StoreUnavailable
from services.otp.rules.guesses import CALM, LEAST, Tally, is_guessing
from services.otp.rules.policy import Policy
from services.otp.rules.quota import GuessesBy, Limit, Limits
from services.otp.rules.verdict import Accepted, Expired, Locked, Unknown, Used, Verdict, Wrong
from tests.fakes.otp import PURPOSE, Breaks, ring
from tests.fakes.otp_quotas import InMemoryTally
from tests.unit.otp.desk import NO_HANDLE, Desk

HOUR = timedelta(hours=1)
HERE, THERE = "203.0.113.7", "2001:db8:1:2::/64"
AMPLE = Limit(1000, HOUR)


def desk_with(client: Limit = AMPLE, caller: Limit = AMPLE) -> Desk:
    limits = Limits(guesses={GuessesBy.CLIENT: client, GuessesBy.CALLER: caller})
    return Desk(policy=Policy({PURPOSE.name: PURPOSE}, limits))


async def _type(desk: Desk, handle: str, code: str, *, key: str = "", client: str = HERE) -> Verdict:
    return await desk.guard("portal", handle, code, key, desk.clock(), client=client)


async def _handles(desk: Desk, count: int) -> list[str]:
    """Return handles of as many challenges whose letters have arrived."""
    handles = []
    for number in range(count):
        issued = await desk.ask(f"key-{number}", subject=f"citizen-{number}")
        await desk.hand_over(issued)
        handles.append(issued.handle)
    return handles


def _id(handle: str) -> str:
    return handle.partition(".")[0]


async def test_wrong_codes_over_many_challenges_are_counted_by_network_and_stopped() -> None:
    desk = desk_with(client=Limit(3, HOUR))
    handles = await _handles(desk, 5)
    full: list[GuessesBy] = []
    desk.guard.on_full.append(full.append)

    verdicts = [await _type(desk, handle, desk.wrong_code(_id(handle))) for handle in handles]

    assert [type(verdict) for verdict in verdicts] == [Wrong, Wrong, Wrong, Locked, Locked]
    assert verdicts[-1] == Locked(desk.clock() + HOUR)
    assert full == [GuessesBy.CLIENT] * 2
    assert desk.quotas.spent(GuessesBy.CALLER) == 3
    assert isinstance(await _type(desk, handles[3], desk.wrong_code(_id(handles[3])), client=THERE), Wrong)


async def test_they_are_counted_by_caller_too_whatever_network_it_names() -> None:
    desk = desk_with(caller=Limit(2, HOUR))
    handles = await _handles(desk, 3)

    verdicts = [
        await _type(desk, handle, desk.wrong_code(_id(handle)), client=f"10.0.0.{number}")
        for number, handle in enumerate(handles)
    ]

    assert [type(verdict) for verdict in verdicts] == [Wrong, Wrong, Locked]


async def test_nothing_is_compared_without_room_so_that_a_right_code_stays_good() -> None:
    desk = desk_with(client=Limit(1, HOUR))
    guessed, owned = await _handles(desk, 2)
    await _type(desk, guessed, desk.wrong_code(_id(guessed)))
    code = desk.code_of(_id(owned))

    assert isinstance(await _type(desk, owned, code), Locked)
    assert desk.stored(_id(owned)).attempts == 0
    assert isinstance(await _type(desk, owned, code, client=THERE), Accepted)


async def test_guessed_handles_are_guesses_as_well() -> None:
    desk = desk_with(client=Limit(2, HOUR))

    verdicts = [await _type(desk, NO_HANDLE, "123456") for _ in range(3)]

    assert [type(verdict) for verdict in verdicts] == [Unknown, Unknown, Locked]


async def test_right_codes_cost_nothing_also_when_late_or_typed_again() -> None:
    desk = desk_with(client=Limit(1, HOUR))
    first, second = await _handles(desk, 2)
    code = desk.code_of(_id(first))

    verdicts = [await _type(desk, first, code), await _type(desk, first, code)]
    late = desk.code_of(_id(second))
    desk.later(PURPOSE.max_life.total_seconds())
    verdicts.append(await _type(desk, second, late))

    assert [type(verdict) for verdict in verdicts] == [Accepted, Used, Expired]
    assert desk.quotas.spent("guesses") == 0


async def test_an_entry_that_a_lock_kept_from_being_compared_costs_nothing() -> None:
    desk = desk_with()
    (handle,) = await _handles(desk, 1)
    for guess in range(PURPOSE.attempts_per_handle):
        await _type(desk, handle, desk.wrong_code(_id(handle), guess))
    before = desk.quotas.spent("guesses")

    assert isinstance(await _type(desk, handle, desk.wrong_code(_id(handle))), Locked)

    assert desk.quotas.spent("guesses") == before == 2 * PURPOSE.attempts_per_handle


async def test_no_repeat_gives_back_what_its_first_entry_took() -> None:
    """Else a guesser would repeat each wrong code once the handle is locked, when nothing is compared any more."""
    desk = desk_with()
    (handle,) = await _handles(desk, 1)
    wrong = [desk.wrong_code(_id(handle), guess) for guess in range(PURPOSE.attempts_per_handle)]
    for key, code in enumerate(wrong):
        await _type(desk, handle, code, key=str(key))
    desk.later(61)  # what was answered is forgotten

    for key, code in enumerate(wrong):
        assert isinstance(await _type(desk, handle, code, key=str(key)), Locked)

    assert desk.quotas.spent("guesses_client") == len(wrong)


async def test_a_crowd_of_guesses_at_once_gets_no_more_compared_than_the_limit() -> None:
    desk = desk_with(client=Limit(4, HOUR))
    handles = await _handles(desk, 20)

    verdicts = await asyncio.gather(*(_type(desk, handle, desk.wrong_code(_id(handle))) for handle in handles))

    assert sum(isinstance(verdict, Wrong) for verdict in verdicts) == 4
    assert sum(desk.stored(_id(handle)).attempts for handle in handles) == 4


async def test_what_nobody_knows_counts_and_what_was_not_compared_does_not() -> None:
    desk = desk_with()
    (handle,) = await _handles(desk, 1)
    wrong = desk.wrong_code(_id(handle))
    desk.store.breaks_next("commit", Breaks.AFTER)
    with pytest.raises(StoreUnavailable):
        await _type(desk, handle, wrong)
    assert desk.quotas.spent("guesses_client") == 1

    await _type(desk, handle, wrong, key="a")
    with pytest.raises(IdempotencyKeyReused):
        await _type(desk, handle, desk.wrong_code(_id(handle), 7), key="a")
    assert desk.quotas.spent("guesses_client") == 2


async def test_without_an_index_key_nothing_is_counted_and_nothing_compared() -> None:
    limits = Limits(guesses={GuessesBy.CALLER: AMPLE})
    policy = Policy({PURPOSE.name: PURPOSE}, limits)
    desk = Desk(policy=policy, index_keys=ring("i1", 3, not_before=Desk().clock() + HOUR))

    with pytest.raises(KeysUnknown):
        await _type(desk, NO_HANDLE, "123456")


@pytest.mark.parametrize(
    ("was", "failed", "right", "then"),
    [
        (False, LEAST // 2 + 1, LEAST // 2, True),
        (False, LEAST // 2, LEAST // 2, False),
        (True, LEAST // 2, LEAST // 2, True),
        (True, int(CALM * 500) + 1, 1000 - int(CALM * 500) - 1, True),
        (True, int(CALM * 500), 1000 - int(CALM * 500), False),
        (False, LEAST - 1, 0, False),
        (True, LEAST - 1, 0, False),
        (False, 0, 0, False),
    ],
)
def test_somebody_is_guessing_when_too_many_fail_until_clearly_fewer_do(
    was: bool,  # noqa: FBT001 - a case of the table
    failed: int,
    right: int,
    then: bool,  # noqa: FBT001 - a case of the table
) -> None:
    assert is_guessing(was, Tally(failed, right), 0.5) is then


async def test_attempts_are_halved_everywhere_while_somebody_is_guessing() -> None:
    desk = desk_with()
    tally = InMemoryTally(desk.clock)
    watch = WatchGuesses(desk.guard, tally, 0.5, desk.policy.strictness)
    (handle,) = await _handles(desk, 1)
    await tally.add(Tally(LEAST, 0))

    await watch()
    verdicts = [await _type(desk, handle, desk.wrong_code(_id(handle), guess)) for guess in range(3)]
    seen = await desk.get("portal", handle)

    assert verdicts[:2] == [Wrong(1), Wrong(0)]  # of three attempts, rounded up
    assert isinstance(verdicts[2], Locked)
    assert seen is not None
    assert seen.attempts_left == 0
    desk.later(600)
    await watch()
    assert desk.policy.find(PURPOSE.name) == PURPOSE


async def test_what_was_compared_here_is_added_once() -> None:
    desk = desk_with()
    tally = InMemoryTally(desk.clock)
    watch = WatchGuesses(desk.guard, tally, 0.5, desk.policy.strictness)
    first, second = await _handles(desk, 2)
    await _type(desk, first, desk.wrong_code(_id(first)))
    await _type(desk, first, desk.code_of(_id(first)))
    await _type(desk, second, desk.wrong_code(_id(second)))

    assert await watch() == Tally(failed=2, right=1)
    assert await watch() == Tally(failed=2, right=1)


async def test_without_the_store_everything_stays_as_strict_as_it_is() -> None:
    desk = desk_with()
    tally = InMemoryTally(desk.clock)
    watch = WatchGuesses(desk.guard, tally, 0.5, desk.policy.strictness)
    await tally.add(Tally(LEAST, 0))
    await watch()
    tally.is_away = True

    with pytest.raises(StoreUnavailable):
        await watch()

    assert desk.policy.strictness.is_on
