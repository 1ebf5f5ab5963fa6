"""Mail bombing by every way there is, for a day and a night: one mailbox gets what SECURITY.md says, and no more.

Who does it knows how: always somebody else, from elsewhere, by another spelling; presses again on one page; clicks on
for more letters; and lets the relay drop letters, for which the service makes fresh ones by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta

import pytest

from services.chassis.errors import ServiceError
from services.otp.actions.follow import FollowDelivery
from services.otp.actions.restrain import RestrainReissue
from services.otp.actions.sweep import AnnounceEntries
from services.otp.outbound.yaml_policy import read_policy
from services.otp.rules.challenge import Challenge
from services.otp.rules.generation import Cause, Fate
from services.otp.rules.quota import Dimension
from services.otp.settings import PACKAGED_POLICY
from tests.fakes.otp import ring
from tests.unit.otp.desk import Desk

HOUR, DAY = timedelta(hours=1), timedelta(hours=24)
TICK = timedelta(minutes=5)  # longer than any cooldown, and the limit has room again at every second one
SPELLINGS = ("lan@example.vn", "LAN@example.vn", "lan+{0}@example.vn", "Lan+a+{0}@Example.vn")


class Bomber:
    """Somebody with a caller, all the accounts and networks that they want, and a relay that drops what they like."""

    def __init__(self) -> None:
        self.desk = desk = Desk(policy=read_policy(PACKAGED_POLICY))
        announce = AnnounceEntries(desk.store, desk.events)
        limits = desk.policy.limits
        restraint = RestrainReissue(desk.admit, desk.quotas, desk.mint, limits, desk.clock, index_keys=ring("i1", 3))
        desk.follow = FollowDelivery(desk.store, desk.mint, announce, desk.policy, restraint=restraint)
        self.letters: dict[tuple[str, int], tuple[datetime, Cause]] = {}
        self.refused: Counter[str] = Counter()
        self.joined = 0
        self._asked = 0
        self._handles: list[str] = []

    async def tick(self, number: int) -> None:
        """Try every way, each time another one first; then let the relay take what waits."""
        ways = (self.asks_as_somebody_else, self.presses_again, self.clicks, self.drops)
        for step in range(len(ways)):
            way = ways[(number + step) % len(ways)]
            try:
                await way()
            except ServiceError as refusal:
                self.refused[f"{way.__name__} {refusal.reason}"] += 1
        for challenge in self._waiting():
            await self.desk.hand_over(challenge.id, challenge.newest.number)
        for challenge in self.desk.store.challenges():
            for letter in challenge.generations:
                self.letters.setdefault((challenge.id, letter.number), (letter.made_at, letter.cause))
        self.desk.later(TICK.total_seconds())

    async def asks_as_somebody_else(self) -> None:
        """Ask for the mailbox by another spelling, as nobody before."""
        self._asked += 1
        issued = await self.desk.ask(
            f"key-{self._asked}",
            subject=f"nobody-{self._asked}",
            email=SPELLINGS[self._asked % len(SPELLINGS)].format(self._asked),
            purpose=("confirm-email", "login", "approval")[self._asked % 3],
            client=f"2001:db8:0:{self._asked:x}::/64",
        )
        self._handles.append(issued.handle)

    async def presses_again(self) -> None:
        """Press the button of one page three times."""
        for _ in range(3):
            self._asked += 1
            issued = await self.desk.ask(f"key-{self._asked}", client=f"2001:db8:1:{self._asked:x}::/64")
            self.joined += issued.joined

    async def clicks(self) -> None:
        """Click on for more at every challenge of the last hour."""
        for handle in self._handles[-4:]:
            self._asked += 1
            await self.desk.click(handle, f"click-{self._asked}")

    async def drops(self) -> None:
        """Let the relay drop every letter that waits."""
        for challenge in self._waiting():
            await self.desk.hear(challenge.id, Fate.DROPPED, challenge.newest.number)

    def _waiting(self) -> list[Challenge]:
        now = self.desk.clock()
        return [each for each in self.desk.store.challenges() if each.newest.waits(now)]


def most_within(instants: Sequence[datetime], length: timedelta) -> int:
    """Return how many lie in the fullest stretch of that length, both its ends included."""
    return max(sum(first <= at <= first + length for at in instants) for first in instants)


@pytest.mark.timeout(60)
async def test_a_mailbox_that_is_bombed_in_every_way_gets_what_the_policy_says_and_not_one_more() -> None:
    bomber = Bomber()
    address = bomber.desk.policy.limits.letters[Dimension.ADDRESS]

    for number in range(DAY // TICK + 12):
        await bomber.tick(number)

    instants = sorted(at for at, _ in bomber.letters.values())
    assert most_within(instants, HOUR) == address.at_once + HOUR // address.one_each
    assert most_within(instants, DAY) == address.at_once + DAY // address.one_each
    # All of it was tried, brought letters when there was room, and was refused when there was none.
    assert {cause for _, cause in bomber.letters.values()} == set(Cause)
    assert bomber.joined > 0
    assert {f"{way} QUOTA_EXCEEDED" for way in ("asks_as_somebody_else", "presses_again", "clicks")} <= set(
        bomber.refused
    )
    assert set(bomber.refused) == {name for name in bomber.refused if name.endswith("QUOTA_EXCEEDED")}
