"""The way out of any state: whoever waits as told and asks again gets a letter, and its code opens the challenge."""

from __future__ import annotations

from services.otp.actions.issue import QuotaExceeded
from services.otp.rules.verdict import Accepted, Locked
from tests.unit.otp.looks import MS
from tests.unit.otp.two_worlds import TwoWorlds

ROUNDS = 40
"""Of waiting and asking again: three are usual, more while four pages are open."""


async def way_out(worlds: TwoWorlds) -> None:
    """Walk it, on the second replica; fail when it is longer than `ROUNDS`."""
    desk = worlds.desks[1]
    for round_ in range(ROUNDS):
        try:
            issued = await desk.ask(f"way-out-{round_}")
        except QuotaExceeded as refusal:
            worlds.turn((refusal.retry_after or MS) // MS + 1)
            continue
        number = len(issued.challenge.letters)
        if issued.joined:  # nobody ever hears of that letter
            given_up_at = desk.stored(issued).newest.given_up_at
            worlds.turn((given_up_at - worlds.store.clock()) // MS + 1)
            continue
        await desk.hand_over(issued, number)
        verdict = await desk.type_in(issued.handle, desk.code_of(issued, number))
        if isinstance(verdict, Accepted):
            return
        assert isinstance(verdict, Locked)
        worlds.turn((verdict.retry_at - worlds.store.clock()) // MS + 1)
    raise AssertionError("no way out")
