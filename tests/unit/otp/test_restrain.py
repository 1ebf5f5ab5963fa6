"""The machine is restrained by limits and the queue like everybody, and by a brake where too few codes are in time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import pytest

from services.otp.actions.restrain import HeldBackBy, RestrainReissue
from services.otp.metrics import HELD_BACK_BY
from services.otp.ports import StoreUnavailable
from services.otp.rules.address import Folding
from services.otp.rules.challenge import Challenge, Stall
from services.otp.rules.code_fate import HandOver, Milestone
from services.otp.rules.generation import CodeFate
from services.otp.rules.policy import Policy
from services.otp.rules.quota import Dimension, Limit, Limits, Reissues, ReissuesBy
from tests.fakes.otp import PURPOSE, ring
from tests.unit.otp.desk import Desk

HOUR = timedelta(hours=1)
AMPLE = Limit(1000, HOUR)
DOMAIN, SYSTEM = Limit(3, timedelta(minutes=10)), Limit(7, timedelta(minutes=5))
BRAKE = Reissues(0.1, {ReissuesBy.DOMAIN: DOMAIN, ReissuesBy.SYSTEM: SYSTEM})
FOLDINGS = {name: Folding("gmail.com", ignores_dots=True, tag="") for name in ("gmail.com", "googlemail.com")}
NO_PRAISE = [CodeFate.LATE, CodeFate.NEVER, CodeFate.UNPROVED, HandOver(is_prompt=True)]


class Braked:
    """A desk, and the machine's restraint on its quotas; two of them on one desk are two replicas."""

    def __init__(self, desk: Desk | None = None, *, reissues: Reissues | None = BRAKE, **letters: Limit) -> None:
        known = {dimension: letters.get(dimension, AMPLE) for dimension in Dimension}
        limits = Limits(known, foldings=FOLDINGS, reissues=reissues)
        self.desk = desk or Desk(policy=Policy({PURPOSE.name: PURPOSE}, limits))
        desk = self.desk
        self.restraint = RestrainReissue(
            desk.admit, desk.quotas, desk.mint, limits, desk.clock, index_keys=ring("i1", 3)
        )
        self.held_back: list[HeldBackBy] = []
        self.restraint.on_held_back.append(self.held_back.append)

    async def late(self, number: int, domain: str = "slow.example.vn") -> Challenge:
        """Return the challenge of a citizen whose letter is of no use."""
        mark = f"citizen-{number}"
        issued = await self.desk.ask(f"key-{domain}-{number}", subject=mark + domain, email=f"{mark}@{domain}")
        return self.desk.stored(issued)

    async def reissued(self, numbers: Sequence[int], domain: str = "slow.example.vn") -> list[Stall | None]:
        """Ask for each of these citizens."""
        return [await self.restraint(await self.late(number, domain), PURPOSE) for number in numbers]

    async def in_time(self, codes: int, domain: str = "slow.example.vn") -> None:
        """Let codes come in time, and be told."""
        reached: list[Milestone] = [CodeFate.IN_TIME] * codes
        self.restraint.heard(await self.late(-1, domain), reached)
        await self.restraint.tell_in_time()


async def test_a_letter_made_by_the_service_itself_pays_once_and_is_forbidden_by_limits_and_by_the_queue() -> None:
    braked = Braked(address=Limit(2, HOUR))
    desk, restrain = braked.desk, braked.restraint
    first, second = await desk.ask("key-1"), await desk.ask("key-2", subject="somebody else")

    assert await restrain(desk.stored(first), PURPOSE) is Stall.QUOTA
    desk.later(HOUR.total_seconds())
    assert await restrain(desk.stored(first), PURPOSE) is None
    spent = desk.quotas.spent()
    assert await restrain(desk.stored(first), PURPOSE) is None
    assert desk.quotas.spent() == spent
    desk.queue.waits = [PURPOSE.deadline * 2]
    desk.later(60)

    assert await restrain(desk.stored(second), PURPOSE) is Stall.OVERLOAD
    assert braked.held_back == [HeldBackBy.QUOTA, HeldBackBy.OVERLOAD]


async def test_where_no_code_comes_in_time_the_machine_makes_as_many_letters_as_its_budget_and_others_are_told() -> (
    None
):
    braked = Braked()

    answers = await braked.reissued(range(10))

    assert answers == [None] * DOMAIN.at_once + [Stall.CHANNEL_SLOW] * (10 - DOMAIN.at_once)
    assert braked.held_back == [HeldBackBy.DOMAIN] * (10 - DOMAIN.at_once)
    braked.desk.later(DOMAIN.one_each.total_seconds())
    assert await braked.reissued([10, 11]) == [None, Stall.CHANNEL_SLOW]


async def test_a_slow_domain_uses_up_nobody_elses_budget() -> None:
    braked = Braked()
    await braked.reissued(range(50))

    others = await braked.reissued(range(DOMAIN.at_once), "quick.example.vn")

    assert others == [None] * DOMAIN.at_once


async def test_all_domains_together_have_a_budget() -> None:
    braked = Braked()

    answers = [answer for n in range(10) for answer in await braked.reissued([0, 1], f"town-{n}.example.vn")]

    assert answers.count(None) == SYSTEM.at_once
    assert braked.held_back == [HeldBackBy.SYSTEM] * (20 - SYSTEM.at_once)
    assert braked.desk.quotas.spent("reissues_domain") == SYSTEM.at_once, "who is refused has taken of no domain"


async def test_ten_codes_in_time_let_the_machine_make_one_letter_more_to_their_domain_and_to_no_other() -> None:
    braked = Braked()
    for domain in ("slow.example.vn", "quick.example.vn"):
        assert await braked.reissued(range(4), domain) == [None] * 3 + [Stall.CHANNEL_SLOW]

    await braked.in_time(9)
    assert await braked.reissued([5]) == [Stall.CHANNEL_SLOW]
    await braked.in_time(1)

    assert await braked.reissued([5, 6]) == [None, Stall.CHANNEL_SLOW]
    assert await braked.reissued([5], "quick.example.vn") == [Stall.CHANNEL_SLOW]


async def test_the_domains_of_one_provider_share_a_budget() -> None:
    braked = Braked()
    await braked.reissued(range(3), "gmail.com")
    assert await braked.reissued([4], "googlemail.com") == [Stall.CHANNEL_SLOW]

    await braked.in_time(10, "googlemail.com")

    assert await braked.reissued([5], "gmail.com") == [None]


async def test_replicas_share_a_budget_and_what_each_of_them_heard() -> None:
    one = Braked()
    other = Braked(one.desk)

    answers = [*await one.reissued([0, 1]), *await other.reissued([2, 3]), *await one.reissued([4])]
    await other.in_time(5)
    await one.in_time(5)

    assert answers.count(None) == DOMAIN.at_once
    assert await one.reissued([20]) == [None]


@pytest.mark.parametrize("milestone", NO_PRAISE, ids=str)
async def test_only_a_code_that_came_in_time_speaks_for_its_channel(milestone: Milestone) -> None:
    braked = Braked()
    known = await braked.late(0)

    braked.restraint.heard(known, [milestone] * 100)
    await braked.restraint.tell_in_time()

    assert "refill" not in braked.desk.quotas.calls


async def test_what_is_heard_asks_the_store_for_nothing_and_is_told_once() -> None:
    braked = Braked()
    await braked.reissued(range(4))
    known = await braked.late(0)
    calls = list(braked.desk.quotas.calls)

    braked.restraint.heard(known, [CodeFate.IN_TIME] * 10)
    assert braked.desk.quotas.calls == calls

    await braked.restraint.tell_in_time()
    await braked.restraint.tell_in_time()

    assert braked.desk.quotas.calls.count("refill") == 1
    assert await braked.reissued([5, 6]) == [None, Stall.CHANNEL_SLOW]


async def test_codes_in_time_that_the_store_did_not_hear_of_make_the_budget_smaller_and_nothing_worse() -> None:
    braked = Braked()
    await braked.reissued(range(4))
    braked.restraint.heard(await braked.late(0), [CodeFate.IN_TIME] * 10)
    braked.desk.quotas.breaks_next("refill")
    with pytest.raises(StoreUnavailable):
        await braked.restraint.tell_in_time()

    await braked.restraint.tell_in_time()

    assert await braked.reissued([5]) == [Stall.CHANNEL_SLOW]


async def test_a_letter_that_a_limit_or_the_queue_refuses_costs_nothing_of_the_budget() -> None:
    braked = Braked(address=Limit(1, HOUR))

    assert await braked.reissued(range(5)) == [Stall.QUOTA] * 5
    assert braked.desk.quotas.spent("reissues") == 0


async def test_a_letter_that_the_brake_holds_back_costs_nothing_of_any_limit_and_the_queue_is_not_asked() -> None:
    braked = Braked()
    await braked.reissued(range(3))
    known = await braked.late(4)
    spent = braked.desk.quotas.spent()
    braked.desk.queue.waits = [PURPOSE.deadline * 2]

    assert await braked.restraint(known, PURPOSE) is Stall.CHANNEL_SLOW
    assert braked.desk.quotas.spent() == spent


async def test_no_budget_is_named_by_a_domain() -> None:
    braked = Braked()
    await braked.reissued([0], "slow.example.vn")

    names = [name for name in braked.desk.quotas.names() if name.startswith("reissues")]

    assert len(names) == 2
    assert not any("slow" in name or "example" in name for name in names)


async def test_without_a_budget_in_the_policy_nothing_brakes() -> None:
    braked = Braked(reissues=None)

    assert await braked.reissued(range(30)) == [None] * 30
    await braked.in_time(5)
    assert braked.desk.quotas.spent("reissues") == 0


def test_every_reason_has_its_label() -> None:
    assert set(HELD_BACK_BY) == set(HeldBackBy)
