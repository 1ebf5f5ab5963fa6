"""Of a purpose that is `enumeration_safe` a caller is shown the same of a real account and a decoy, at every step."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.otp.actions.issue import Issued
from services.otp.rules.generation import Fate
from services.otp.rules.policy import AdviceKind, Policy
from services.otp.rules.view import ChallengeView
from tests.fakes.otp import PURPOSE
from tests.unit.otp.desk import Desk

SAFE = Policy({PURPOSE.name: replace(PURPOSE, enumeration_safe=True)})
COOLDOWN_S = PURPOSE.cooldowns[0].total_seconds()

# What is heard of a real letter and never of a decoy, after both were handed over.
LATER: dict[str, list[tuple[Fate, float]]] = {
    "delivered": [(Fate.DELIVERED, 20)],
    "deferred by the relay": [(Fate.DEFERRED, 8)],
    "deferred again and again, then delivered": [(Fate.DEFERRED, 8), (Fate.DEFERRED, 60), (Fate.DELIVERED, 90)],
    "bounced": [(Fate.BOUNCED, 30)],
    "deferred, then bounced": [(Fate.DEFERRED, 8), (Fate.BOUNCED, 200)],
    "delivered, then bounced all the same": [(Fate.DELIVERED, 20), (Fate.BOUNCED, 30)],
    "bounced when it had expired": [(Fate.BOUNCED, 700)],
}


class Twins:
    """The same citizen at two desks: at one the account exists, at the other it is a decoy."""

    def __init__(self) -> None:
        self.real, self.decoy = Desk(policy=SAFE), Desk(policy=SAFE)
        self.now_s = 0.0

    async def ask(self) -> None:
        self.of_real = await self.real.ask()
        self.of_decoy = await self.decoy.ask(decoy=True)

    def at(self, seconds: float) -> None:
        for desk in (self.real, self.decoy):
            desk.later(seconds - self.now_s)
        self.now_s = seconds

    async def shown(self) -> tuple[ChallengeView, ChallengeView]:
        """Return what each page shows; the ids are random, and nothing else may differ."""
        return await _shown(self.real, self.of_real), await _shown(self.decoy, self.of_decoy)


async def _shown(desk: Desk, issued: Issued) -> ChallengeView:
    seen = await desk.get("portal", issued.handle)
    assert seen is not None
    return replace(seen, id="")


async def _demand_alike_until_the_end(twins: Twins) -> None:
    for second in (31, 46.001, 47, 100, 200, 246, 246.001, 260, 765, 766, 900, 1305, 1306, 1980, 1981):
        if second > twins.now_s:
            twins.at(second)
            real, decoy = await twins.shown()
            assert real == decoy


@pytest.mark.parametrize("heard", LATER.values(), ids=LATER.keys())
async def test_whatever_is_heard_after_the_hand_over_is_shown_by_nothing_not_even_by_the_version(
    heard: list[tuple[Fate, float]],
) -> None:
    twins = Twins()
    await twins.ask()
    twins.at(6)
    await twins.real.hand_over(twins.of_real)
    await twins.decoy.hand_over(twins.of_decoy)

    for fate, second in heard:
        twins.at(second)
        is_deferred = fate is Fate.DEFERRED
        next_try_at = twins.real.clock() + PURPOSE.max_life if is_deferred else None
        for is_hearsay in [False] if is_deferred else [True, False]:
            await twins.real.hear(twins.of_real, fate, is_hearsay=is_hearsay, next_try_at=next_try_at)
            real, decoy = await twins.shown()
            assert real == decoy

    await _demand_alike_until_the_end(twins)


async def test_a_mailbox_that_refuses_looks_like_one_that_takes() -> None:
    twins = Twins()
    await twins.ask()
    twins.at(6)

    await twins.real.hear(twins.of_real, Fate.REFUSED)
    await twins.decoy.hand_over(twins.of_decoy)

    real, decoy = await twins.shown()
    assert real == decoy
    assert (real.letters[0].fate, real.advice and real.advice.kind) == (Fate.HANDED_OVER, AdviceKind.TYPE_IT)
    await _demand_alike_until_the_end(twins)


async def test_typing_wrong_codes_and_asking_again_shows_nothing_either() -> None:
    twins = Twins()
    await twins.ask()
    twins.at(6)
    await twins.real.hear(twins.of_real, Fate.REFUSED)
    await twins.decoy.hand_over(twins.of_decoy)
    twins.at(6 + COOLDOWN_S)
    for desk, issued in ((twins.real, twins.of_real), (twins.decoy, twins.of_decoy)):
        await desk.type_in(issued.handle, desk.wrong_code(issued), key="entry")
        await desk.click(issued.handle)

    real, decoy = await twins.shown()

    assert real == decoy
    assert [letter.fate for letter in real.letters] == [Fate.QUEUED, Fate.HANDED_OVER]
    await _demand_alike_until_the_end(twins)


async def test_of_another_purpose_the_caller_is_shown_what_happened() -> None:
    desk = Desk()
    issued = await desk.ask()
    await desk.later(6).hand_over(issued)
    before = await _shown(desk, issued)

    await desk.hear(issued, Fate.BOUNCED)

    after = await _shown(desk, issued)
    assert after.version > before.version
    assert after.letters[0].fate is Fate.BOUNCED
