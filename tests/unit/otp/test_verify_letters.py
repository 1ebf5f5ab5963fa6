"""What a typed code does to letters: one that came too late is replaced, one that waits for nothing is withdrawn."""

from __future__ import annotations

import pytest

from services.otp.actions.issue import Issued
from services.otp.rules.challenge import Stall
from services.otp.rules.generation import Cause, Fate
from services.otp.rules.verdict import Accepted, Expired, Wrong
from tests.fakes.otp import PURPOSE, Drawer, LeavesIt
from tests.unit.otp.desk import Desk

LIFE_S = PURPOSE.life.total_seconds()
END_S = PURPOSE.challenge_life.total_seconds()


async def _arrived() -> tuple[Desk, Issued]:
    """A code in a mailbox."""
    desk = Desk()
    issued = await desk.ask()
    await desk.hand_over(issued)
    return desk, issued


def _attempts(desk: Desk, issued: Issued) -> int:
    return desk.stored(issued).attempts


# The right code, too late


async def test_a_right_but_expired_code_costs_nothing_stays_expired_and_brings_a_new_letter() -> None:
    desk, issued = await _arrived()
    desk.later(LIFE_S + 1)

    verdict = await desk.type_in(issued.handle, desk.code_of(issued))

    stored = desk.stored(issued)
    assert verdict == Expired(stored.newest.reference)
    assert (_attempts(desk, issued), stored.newest.number, stored.newest.cause) == (0, 2, Cause.REISSUED)
    assert desk.events.published[-1] == f"{stored.id}.2"
    await desk.hear(issued, Fate.DELIVERED, 1)
    assert isinstance(await desk.type_in(issued.handle, desk.code_of(issued, 1)), Expired)
    assert isinstance(await desk.type_in(issued.handle, desk.code_of(issued, 2)), Accepted)


async def test_an_expired_code_typed_five_times_brings_one_letter_and_costs_no_attempt() -> None:
    desk, issued = await _arrived()
    desk.later(LIFE_S + 1)

    verdicts = [await desk.later(1).type_in(issued.handle, desk.code_of(issued)) for _ in range(5)]

    stored = desk.stored(issued)
    assert verdicts == [Expired(stored.newest.reference)] * 5
    assert desk.events.published == [f"{stored.id}.1", f"{stored.id}.2"]
    assert (_attempts(desk, issued), stored.generations[0].told_expired) == (0, True)
    assert isinstance(await desk.type_in(issued.handle, desk.code_of(issued, 2)), Accepted)


async def test_an_expired_code_typed_after_its_replacement_has_arrived_brings_no_other_letter() -> None:
    desk, issued = await _arrived()
    first = await desk.later(LIFE_S + 1).type_in(issued.handle, desk.code_of(issued))
    await desk.hand_over(issued, 2)

    assert await desk.later(5).type_in(issued.handle, desk.code_of(issued)) == first
    assert len(desk.stored(issued).generations) == 2


async def test_a_mailbox_that_is_always_late_stalls_its_challenge() -> None:
    desk = Desk()
    issued = await desk.ask()
    for number in (1, 2, 3):
        await desk.hand_over(issued, number)
        await desk.later(PURPOSE.max_life.total_seconds() - 1).hear(issued, Fate.DELIVERED, number)
        desk.later(2)

    verdict = await desk.type_in(issued.handle, desk.code_of(issued, 3))

    assert verdict == Expired()
    assert (len(desk.stored(issued).generations), desk.stored(issued).stalled) == (3, Stall.CHANNEL_SLOW)


async def test_when_the_letters_made_by_itself_are_used_up_an_expired_code_brings_none() -> None:
    desk, issued = await _arrived()
    for number in (1, 2):
        assert await desk.later(LIFE_S + 1).type_in(issued.handle, desk.code_of(issued, number)) != Expired()
        await desk.hand_over(issued, number + 1)

    verdict = await desk.later(LIFE_S + 1).type_in(issued.handle, desk.code_of(issued, 3))

    assert verdict == Expired()
    assert (len(desk.stored(issued).generations), desk.stored(issued).stalled) == (3, Stall.BUDGET)
    assert _attempts(desk, issued) == 0


async def test_at_the_end_of_a_challenge_an_expired_code_brings_no_letter() -> None:
    desk, issued = await _arrived()

    late = await desk.later(END_S - LIFE_S).type_in(issued.handle, desk.code_of(issued))
    later = await desk.later(LIFE_S + 1).type_in(issued.handle, desk.code_of(issued))

    assert (late, later) == (Expired(), Expired())
    assert (len(desk.stored(issued).generations), desk.stored(issued).stalled) == (1, Stall.CHANNEL_SLOW)


@pytest.mark.parametrize("trouble", ["the seal key is gone", "sealed for another letter"])
async def test_without_the_seal_key_an_expired_code_is_judged_and_brings_no_letter(trouble: str) -> None:
    desk, issued = await _arrived()
    desk.mint.is_locked = trouble == "the seal key is gone"
    here = Desk(store=desk.store, mint=desk.mint if desk.mint.is_locked else Drawer())

    verdict = await here.later(LIFE_S + 1).type_in(issued.handle, desk.code_of(issued))

    assert verdict == Expired()
    assert (_attempts(desk, issued), len(desk.stored(issued).generations)) == (0, 1)
    assert desk.stored(issued).newest.told_expired


# What becomes of a letter that waits


async def test_the_last_wrong_code_withdraws_the_waiting_letter() -> None:
    desk = Desk()
    handles = [(await desk.ask(f"key-{n}")).handle for n in range(3)]
    issued = await desk.ask("key-0")
    for handle in (*[handles[0]] * 3, *[handles[1]] * 3):
        await desk.type_in(handle, desk.wrong_code(issued))
    before = list(desk.events.published)

    verdict = await desk.type_in(handles[2], desk.wrong_code(issued))

    assert verdict == Wrong(0)
    assert before == [f"{issued.challenge.id}.1"]
    assert desk.events.published == [*before, f"{issued.challenge.id}.1 withdrawn"]


async def test_an_older_code_that_is_accepted_withdraws_the_newer_letter() -> None:
    desk, issued = await _arrived()
    await desk.later(60).click(issued.handle)

    assert isinstance(await desk.type_in(issued.handle, desk.code_of(issued)), Accepted)

    assert desk.events.published[-1] == f"{issued.challenge.id}.2 withdrawn"


async def test_a_code_that_is_accepted_after_its_letter_arrived_withdraws_nothing() -> None:
    desk, issued = await _arrived()

    assert isinstance(await desk.type_in(issued.handle, desk.code_of(issued)), Accepted)

    assert desk.events.published == [f"{issued.challenge.id}.1"]


async def test_a_withdrawal_that_nobody_announced_stays_in_the_outbox() -> None:
    desk = Desk(announce=LeavesIt())
    issued = await desk.ask()

    await desk.type_in(issued.handle, desk.code_of(issued))

    assert desk.store.outbox() == [f"{issued.challenge.id}.1", f"{issued.challenge.id}.1 withdrawn"]
