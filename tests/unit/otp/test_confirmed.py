"""What a repeat finds may be a commit that no replica has: nothing of it is told before that is known to be safe."""

from __future__ import annotations

import pytest

from services.otp.actions.resend import ResendOutcome
from services.otp.ports import StoreUnavailable
from services.otp.rules.verdict import Accepted
from tests.fakes.otp import Breaks
from tests.unit.otp.desk import Desk


async def test_a_request_that_is_repeated_is_told_of_its_challenge_once_that_is_safe() -> None:
    desk = Desk()
    issued = await desk.ask()
    desk.store.breaks_next("confirm")

    with pytest.raises(StoreUnavailable):
        await desk.ask()

    assert (await desk.ask()).handle == issued.handle


async def test_a_code_that_was_accepted_is_told_again_once_that_is_safe() -> None:
    desk = Desk()
    issued = await desk.ask()
    await desk.hand_over(issued)
    desk.store.breaks_next("commit", None)
    desk.store.breaks_next("commit", Breaks.AFTER)
    with pytest.raises(StoreUnavailable):
        await desk.type_in(issued.handle, desk.code_of(issued), key="entry-1")
    desk.store.breaks_next("confirm")

    with pytest.raises(StoreUnavailable):
        await desk.type_in(issued.handle, desk.code_of(issued), key="entry-1")

    assert isinstance(await desk.type_in(issued.handle, desk.code_of(issued), key="entry-1"), Accepted)


async def test_a_click_that_is_repeated_is_told_of_its_letter_once_that_is_safe() -> None:
    desk = Desk()
    issued = await desk.ask()
    await desk.hand_over(issued)
    desk.later(60)
    assert (await desk.click(issued.handle)).outcome is ResendOutcome.QUEUED
    desk.store.breaks_next("confirm")

    with pytest.raises(StoreUnavailable):
        await desk.click(issued.handle)

    assert (await desk.click(issued.handle)).outcome is ResendOutcome.QUEUED
