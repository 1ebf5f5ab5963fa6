"""Looking at a challenge once: what the handle opens, and nothing for anybody else."""

from __future__ import annotations

import pytest

from services.otp.ports import StoreUnavailable
from services.otp.rules.generation import Fate
from services.otp.rules.policy import AdviceKind
from tests.unit.otp.desk import NO_HANDLE, Desk


async def test_the_handle_shows_the_challenge_as_it_is_now() -> None:
    desk = Desk()
    issued = await desk.ask()

    queued = await desk.get("portal", issued.handle)
    await desk.later(9).hand_over(issued)
    taken = await desk.get("portal", issued.handle)

    assert queued is not None
    assert taken is not None
    assert queued.advice is not None
    assert taken.advice is not None
    assert (queued.letters[0].fate, queued.advice.kind) == (Fate.QUEUED, AdviceKind.WAIT)
    assert (taken.letters[0].fate, taken.advice.kind) == (Fate.HANDED_OVER, AdviceKind.TYPE_IT)
    assert taken.version > queued.version


async def test_looking_changes_nothing_and_costs_one_call() -> None:
    desk = Desk()
    issued = await desk.ask()
    before = desk.store.challenges()
    desk.store.calls.clear()

    await desk.get("portal", issued.handle)

    assert desk.store.calls == ["load"]
    assert desk.store.challenges() == before


@pytest.mark.parametrize("who", ["another caller", "an unknown handle", "nonsense", "a mistyped secret"])
async def test_a_stranger_sees_nothing_at_the_same_cost(who: str) -> None:
    desk = Desk()
    issued = await desk.ask()
    desk.store.calls.clear()
    caller, handle = {
        "another caller": ("clinic", issued.handle),
        "an unknown handle": ("portal", NO_HANDLE),
        "nonsense": ("portal", "nonsense"),
        "a mistyped secret": ("portal", issued.handle[:-2]),
    }[who]

    assert await desk.get(caller, handle) is None
    assert desk.store.calls == ["load"]


async def test_a_store_that_is_away_is_not_told_as_an_unknown_handle() -> None:
    desk = Desk()
    issued = await desk.ask()
    desk.store.is_away = True

    with pytest.raises(StoreUnavailable):
        await desk.get("portal", issued.handle)
