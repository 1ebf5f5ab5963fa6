"""The fate of each code: judged once, by the first proof or at the end, and counted by whoever committed it."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest

from services.otp.actions.conclude import BATCH
from services.otp.actions.issue import Issued
from services.otp.ports import StoreUnavailable
from services.otp.rules.code_fate import HandOver
from services.otp.rules.generation import CodeFate, Fate
from services.otp.rules.policy import GRACE, Policy
from services.otp.rules.verdict import Accepted, Expired, Used
from tests.fakes.otp import PURPOSE, Breaks
from tests.unit.otp.desk import Desk
from tests.unit.otp.made_up import D_S

IN_TIME, LATE, NEVER, UNPROVED = CodeFate.IN_TIME, CodeFate.LATE, CodeFate.NEVER, CodeFate.UNPROVED
LIFE_S, RESERVE_S = PURPOSE.life.total_seconds(), PURPOSE.reserve.total_seconds()
END_S, GRACE_S = PURPOSE.challenge_life.total_seconds(), GRACE.total_seconds()
PROMPT_S = PURPOSE.prompt.total_seconds()


def fates(desk: Desk) -> list[CodeFate]:
    return [each for each in desk.store.milestones if isinstance(each, CodeFate)]


async def _over(desk: Desk) -> Desk:
    """Let the end of a challenge of noon pass, and every replica conclude."""
    desk.later((desk.store.challenges()[0].ends_at + GRACE - desk.clock()).total_seconds())
    await desk.conclude()
    return desk


async def _handed_over() -> tuple[Desk, Issued]:
    desk = Desk()
    issued = await desk.ask()
    await desk.hand_over(issued)
    return desk, issued


@pytest.mark.parametrize(
    ("seconds", "fate"), [(1, IN_TIME), (LIFE_S - RESERVE_S, IN_TIME), (LIFE_S - RESERVE_S + 0.001, LATE)]
)
async def test_a_right_entry_proves_whether_enough_of_the_life_was_left(seconds: float, fate: CodeFate) -> None:
    desk, issued = await _handed_over()

    assert isinstance(await desk.later(seconds).type_in(issued.handle, desk.code_of(issued)), Accepted)

    assert fates(await _over(desk)) == [fate]


async def test_a_right_entry_after_the_life_of_the_code_is_late_and_its_successor_has_a_fate_of_its_own() -> None:
    desk, issued = await _handed_over()

    assert isinstance(await desk.later(LIFE_S + 1).type_in(issued.handle, desk.code_of(issued)), Expired)
    assert fates(desk) == [LATE]
    await desk.hand_over(issued, 2)
    assert isinstance(await desk.type_in(issued.handle, desk.code_of(issued, 2)), Accepted)

    assert fates(await _over(desk)) == [LATE, IN_TIME]


async def test_a_right_entry_before_its_hand_over_is_heard_of_is_in_time() -> None:
    desk = Desk()
    issued = await desk.ask()

    await desk.type_in(issued.handle, desk.code_of(issued))
    await desk.hand_over(issued)

    assert fates(await _over(desk)) == [IN_TIME]


async def test_a_wrong_entry_proves_nothing() -> None:
    desk, issued = await _handed_over()

    await desk.type_in(issued.handle, desk.wrong_code(issued))

    assert fates(desk) == []


async def test_the_second_right_code_of_a_challenge_is_proved_too() -> None:
    desk, issued = await _handed_over()
    await desk.later(PURPOSE.cooldowns[0].total_seconds()).click(issued.handle)
    await desk.hand_over(issued, 2)

    await desk.type_in(issued.handle, desk.code_of(issued, 1))
    assert isinstance(await desk.type_in(issued.handle, desk.code_of(issued, 2)), Used)

    assert fates(await _over(desk)) == [IN_TIME, IN_TIME]


@pytest.mark.parametrize(("seconds", "fate"), [(0, IN_TIME), (2 * LIFE_S, LATE)])
async def test_a_trusted_receipt_proves_it_and_a_later_entry_changes_nothing(seconds: float, fate: CodeFate) -> None:
    desk, issued = await _handed_over()

    await desk.later(seconds).hear(issued, Fate.DELIVERED)
    await desk.type_in(issued.handle, desk.code_of(issued))

    assert fates(desk)[0] is fate
    assert desk.stored(issued).generations[0].code_fate is fate
    assert fates(await _over(desk)).count(fate) == 1


@pytest.mark.parametrize("fate", [Fate.REFUSED, Fate.DROPPED])
async def test_a_letter_that_ends_without_having_left_is_never_at_once(fate: Fate) -> None:
    desk = Desk()
    issued = await desk.ask()

    await desk.later(D_S + 1).hear(issued, fate)

    assert fates(desk) == [NEVER]
    assert fates(await _over(desk)) == [NEVER]


async def test_a_bounce_is_never() -> None:
    desk, issued = await _handed_over()

    await desk.hear(issued, Fate.BOUNCED)

    assert fates(desk) == [NEVER]


async def test_a_letter_of_which_a_body_may_have_left_is_not_given_up_before_the_end() -> None:
    desk = Desk()
    issued = await desk.ask()
    await desk.later(D_S + 1).hear(issued, Fate.DROPPED, exposed=True)
    assert fates(desk) == []
    other = await desk.ask("key-2", subject="citizen-8")
    await desk.hear(other, Fate.REFUSED, exposed=True)

    await desk.type_in(other.handle, desk.code_of(other))
    desk.later(2 * END_S)
    await desk.conclude()

    assert fates(desk) == [IN_TIME, NEVER]


async def test_a_code_that_nobody_ever_heard_of_is_never_so_a_dead_mailer_counts() -> None:
    desk = Desk()
    await desk.ask()

    assert fates(await _over(desk)) == [NEVER]


async def test_a_code_that_was_handed_over_and_never_typed_is_counted_apart() -> None:
    desk, _ = await _handed_over()

    assert fates(await _over(desk)) == [UNPROVED]


@pytest.mark.parametrize("how", ["verified", "cancelled", "spent"])
@pytest.mark.parametrize("exposed", [False, True])
async def test_a_letter_that_was_withdrawn_is_no_failure(how: str, exposed: bool) -> None:  # noqa: FBT001 - a case
    desk, issued = await _handed_over()
    await desk.later(PURPOSE.cooldowns[0].total_seconds()).click(issued.handle)
    if how == "verified":
        await desk.type_in(issued.handle, desk.code_of(issued))
    elif how == "cancelled":
        await desk.cancel("portal", issued.handle)
    else:
        _spend(desk, issued)

    await desk.later(1).hear(issued, Fate.DROPPED, 2, exposed=exposed)

    assert desk.stored(issued).generations[1].code_fate is (None if exposed else UNPROVED)
    await _over(desk)
    assert desk.stored(issued).generations[1].code_fate is UNPROVED


def _spend(desk: Desk, issued: Issued) -> None:
    """Let a challenge be out of attempts, as more handles than one can make it."""
    spent = replace(desk.stored(issued), attempts=PURPOSE.attempts)
    shard = desk.store.shard_of(spent.id)
    assert shard is not None
    desk.store._keep(shard, spent.id, spent)  # noqa: SLF001 - a state that takes three callers to reach


async def test_a_letter_dropped_for_its_deadline_fails_although_the_citizen_gave_up_waiting() -> None:
    desk = Desk()
    issued = await desk.ask()
    await desk.later(D_S - 1).cancel("portal", issued.handle)

    await desk.later(2).hear(issued, Fate.DROPPED)

    assert fates(desk) == [NEVER]


async def test_nothing_is_concluded_before_the_end_and_a_grace() -> None:
    desk, _ = await _handed_over()

    assert await desk.later(END_S + GRACE_S - 0.001).conclude() == 0
    assert fates(desk) == []
    assert await desk.later(0.001).conclude() == 1
    assert fates(desk) == [UNPROVED]
    assert await desk.later(GRACE_S).conclude() == 0


async def test_two_replicas_that_conclude_at_once_count_each_code_once() -> None:
    desk = Desk()
    for number in range(5):
        await desk.ask(f"key-{number}", subject=f"citizen-{number}")
    other = Desk(store=desk.store)
    desk.later(END_S + GRACE_S)

    await asyncio.gather(desk.conclude(), other.conclude())

    assert fates(desk) == [NEVER] * 5


async def test_an_entry_and_an_event_at_once_are_counted_once_by_who_committed() -> None:
    desk, issued = await _handed_over()
    other = Desk(store=desk.store, mint=desk.mint)

    await asyncio.gather(
        desk.type_in(issued.handle, desk.code_of(issued)),
        other.hear(issued, Fate.DELIVERED),
        other.type_in(issued.handle, desk.code_of(issued)),
    )

    assert fates(await _over(desk)) == [IN_TIME]


@pytest.mark.parametrize("when", [Breaks.BEFORE, Breaks.AFTER])
async def test_a_conclusion_that_is_cut_off_counts_at_most_once(when: Breaks) -> None:
    desk, issued = await _handed_over()
    desk.store.breaks_next("commit", when)
    desk.later(END_S + GRACE_S)

    with pytest.raises(StoreUnavailable):
        await desk.conclude()
    assert await desk.conclude() == 1

    assert desk.stored(issued).newest.code_fate is UNPROVED
    assert fates(desk) == ([UNPROVED] if when is Breaks.BEFORE else [])


async def test_a_challenge_whose_record_or_purpose_is_gone_is_forgotten() -> None:
    desk, _ = await _handed_over()
    without = Desk(store=desk.store, policy=Policy({}))

    assert await without.later(END_S + GRACE_S).conclude() == 1
    assert await desk.conclude() == 0
    assert fates(desk) == []


async def test_a_round_takes_a_batch_at_most() -> None:
    desk = Desk()
    for number in range(BATCH + 2):
        await desk.ask(f"key-{number}", subject=f"citizen-{number}")

    assert await desk.later(END_S + GRACE_S).conclude() == BATCH
    assert await desk.conclude() == 2
    assert Counter(fates(desk)) == {NEVER: BATCH + 2}


async def test_no_version_tells_callers_that_a_code_of_a_safe_purpose_was_judged() -> None:
    desk = Desk(policy=Policy({PURPOSE.name: replace(PURPOSE, enumeration_safe=True)}))
    real, decoy = await desk.ask(), await desk.ask("key-2", subject="citizen-8", decoy=True)
    for issued in (real, decoy):
        await desk.hand_over(issued)
    await desk.later(5).hear(real, Fate.DELIVERED)

    desk.later(END_S + GRACE_S)
    await desk.conclude()

    seen = [await desk.get("portal", issued.handle) for issued in (real, decoy)]
    assert seen[0] is not None
    assert seen[1] is not None
    assert seen[0].version == seen[1].version
    assert fates(desk) == [IN_TIME, UNPROVED]


async def test_no_version_tells_callers_that_a_letter_which_never_left_was_judged() -> None:
    desk = Desk(policy=Policy({PURPOSE.name: replace(PURPOSE, enumeration_safe=True)}))
    issued = await desk.ask()
    before = await desk.later(END_S + GRACE_S).get("portal", issued.handle)

    await desk.conclude()

    assert fates(desk) == [NEVER]
    assert await desk.get("portal", issued.handle) == before


@pytest.mark.parametrize(("seconds", "is_prompt"), [(PROMPT_S, True), (PROMPT_S + 0.001, False)])
async def test_a_hand_over_is_told_once_by_whether_it_was_prompt(seconds: float, is_prompt: bool) -> None:  # noqa: FBT001 - a case
    desk = Desk()
    issued = await desk.ask()

    await desk.later(seconds).hand_over(issued)
    await desk.later(30).hand_over(issued)  # another copy of the letter
    await desk.hear(issued, Fate.DELIVERED)

    assert [each for each in desk.store.milestones if isinstance(each, HandOver)] == [HandOver(is_prompt)]


async def test_a_letter_is_prompt_by_its_own_making_not_by_its_challenges() -> None:
    desk, issued = await _handed_over()
    await desk.later(PURPOSE.cooldowns[0].total_seconds()).click(issued.handle)

    await desk.later(1).hand_over(issued, 2)

    assert desk.store.milestones == [HandOver(is_prompt=True)] * 2
    assert PURPOSE.cooldowns[0] > timedelta(seconds=PROMPT_S)
