"""A typed code under an idempotency key: for a minute, its repeat is the same answer and costs nothing."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from services.otp.actions.issue import Issued
from services.otp.ports import IdempotencyKeyReused, KeysUnknown, StoreUnavailable
from services.otp.rules.entry import MOST_ENTRIES
from services.otp.rules.generation import Fate
from services.otp.rules.verdict import Accepted, Expired, Locked, Unknown, Used, Verdict, Wrong
from tests.fakes.otp import PURPOSE, Breaks, ring
from tests.unit.otp.desk import REQUEST, Desk

LIFE_S = PURPOSE.life.total_seconds()
KEY = "entry-1"


async def _arrived() -> tuple[Desk, Issued]:
    """A code in a mailbox."""
    desk = Desk()
    issued = await desk.ask()
    await desk.hand_over(issued)
    return desk, issued


def _attempts(desk: Desk, issued: Issued) -> int:
    return desk.stored(issued).attempts


async def _answered(what: str) -> tuple[Desk, Issued, str, Verdict]:
    """A code that was typed under `KEY`, and what was answered."""
    desk, issued = await _arrived()
    code = desk.wrong_code(issued) if what == "wrong" else desk.code_of(issued)
    if what == "used":
        await desk.type_in(issued.handle, code)
    if what.startswith("expired"):
        desk.mint.is_locked = what == "expired, and no letter"
        desk.later(LIFE_S + 1)
    verdict = await desk.type_in(issued.handle, code, key=KEY)
    assert type(verdict).__name__.lower() == what.split(",", maxsplit=1)[0]
    return desk, issued, code, verdict


EVERY_VERDICT = pytest.mark.parametrize("what", ["accepted", "wrong", "expired", "expired, and no letter", "used"])


@EVERY_VERDICT
async def test_a_repeat_is_answered_the_same_for_a_minute_by_any_replica_and_changes_nothing(what: str) -> None:
    desk, issued, code, verdict = await _answered(what)
    before = desk.stored(issued)
    other = Desk(store=desk.store, mint=desk.mint)

    repeats = [await other.later(20).type_in(issued.handle, code, key=KEY) for _ in range(3)]

    assert repeats == [verdict] * 3
    assert desk.stored(issued) == before


@EVERY_VERDICT
async def test_after_a_minute_the_same_key_is_a_new_entry(what: str) -> None:
    desk, issued, code, _ = await _answered(what)
    before = desk.stored(issued)

    verdict = await desk.later(60.001).type_in(issued.handle, code, key=KEY)

    assert desk.stored(issued).version > before.version
    if what in {"accepted", "used"}:
        assert verdict == Used()
    elif what == "wrong":
        assert (verdict, _attempts(desk, issued)) == (Wrong(1), 2)
    else:
        assert (isinstance(verdict, Expired), _attempts(desk, issued)) == (True, 0)


@EVERY_VERDICT
async def test_another_code_under_the_same_key_is_refused_and_not_counted(what: str) -> None:
    desk, issued, _, _ = await _answered(what)
    before = desk.stored(issued)

    with pytest.raises(IdempotencyKeyReused):
        await desk.later(60).type_in(issued.handle, desk.wrong_code(issued, 500_000), key=KEY)

    assert desk.stored(issued) == before
    assert isinstance(await desk.later(0.001).type_in(issued.handle, desk.wrong_code(issued, 500_000), key=KEY), Wrong)


async def test_the_same_code_written_otherwise_is_a_repeat() -> None:
    desk, issued, code, verdict = await _answered("accepted")

    assert await desk.type_in(issued.handle, f" {code[:3]}-{code[3:]}\n", key=KEY) == verdict


async def test_what_was_confirmed_is_told_again_as_long_as_it_can_be_read() -> None:
    desk, issued, code, verdict = await _answered("accepted")
    desk.mint.is_locked = True

    without = await desk.type_in(issued.handle, code, key=KEY)

    assert verdict == Accepted(desk.clock(), context=REQUEST.context)
    assert without == Accepted(desk.clock(), context="")


async def test_an_answer_stays_what_it_was_whatever_happens_after_it() -> None:
    desk, issued, code, verdict = await _answered("wrong")
    await desk.type_in(issued.handle, desk.wrong_code(issued, 7), key="entry-2")
    assert isinstance(await desk.type_in(issued.handle, desk.code_of(issued), key="entry-3"), Accepted)

    assert await desk.type_in(issued.handle, code, key=KEY) == verdict == Wrong(2)


async def test_an_answer_names_the_letter_that_it_named_although_a_later_one_replaced_it() -> None:
    desk, issued, code, verdict = await _answered("expired")
    await desk.later(10).hear(issued, Fate.DROPPED, 2)
    named, newest = (letter.reference for letter in desk.stored(issued).generations[1:])

    assert await desk.type_in(issued.handle, code, key=KEY) == verdict == Expired(named)
    assert await desk.type_in(issued.handle, code, key="entry-2") == Expired(newest)


async def test_the_keys_of_one_handle_say_nothing_about_another() -> None:
    desk = Desk()
    first, second = await desk.ask("key-1"), await desk.ask("key-2")

    one = await desk.type_in(first.handle, desk.wrong_code(first), key=KEY)
    other = await desk.type_in(second.handle, desk.wrong_code(first, 7), key=KEY)

    assert (one, other) == (Wrong(2), Wrong(2))
    assert [handle.attempts for handle in desk.stored(first).handles] == [1, 1]


async def test_without_a_key_no_repeat_is_known() -> None:
    desk, issued = await _arrived()

    verdicts = [await desk.type_in(issued.handle, desk.wrong_code(issued), key="") for _ in range(2)]

    assert verdicts == [Wrong(2), Wrong(1)]
    assert desk.stored(issued).entries == ()


async def test_a_lock_is_no_answer_that_is_kept() -> None:
    desk, issued = await _arrived()
    for guess in range(3):
        await desk.type_in(issued.handle, desk.wrong_code(issued, guess))
    locked = await desk.type_in(issued.handle, desk.code_of(issued), key=KEY)

    later = await desk.later(1).type_in(issued.handle, desk.wrong_code(issued), key=KEY)

    assert locked == later == Locked(desk.clock() + PURPOSE.cooldowns[0] - timedelta(seconds=1))
    assert desk.stored(issued).entries == ()


async def test_after_the_handle_was_given_back_a_repeat_is_unknown() -> None:
    desk, issued, code, _ = await _answered("accepted")
    await desk.cancel("portal", issued.handle)

    assert await desk.type_in(issued.handle, code, key=KEY) == Unknown()


async def test_neither_the_key_nor_the_code_can_be_read_from_the_record() -> None:
    desk, issued, code, _ = await _answered("wrong")

    (entry,) = desk.stored(issued).entries

    assert (len(entry.name.key), len(entry.name.typed)) == (16, 16)
    for secret in (KEY, code, issued.handle.partition(".")[2]):
        assert secret not in repr(desk.stored(issued))
        assert secret.encode() not in entry.name.key + entry.name.typed


async def test_wrong_and_accepted_answers_outlive_a_flood_of_entries_that_cost_nothing() -> None:
    desk, issued, wrong, _ = await _answered("wrong")
    code = desk.code_of(issued)
    accepted = await desk.type_in(issued.handle, code, key="entry-2")
    for number in range(3 * MOST_ENTRIES):
        assert await desk.type_in(issued.handle, code, key=f"flood-{number}") == Used()

    assert len(desk.stored(issued).entries) == MOST_ENTRIES
    assert await desk.type_in(issued.handle, code, key="entry-2") == accepted
    assert await desk.type_in(issued.handle, wrong, key=KEY) == Wrong(2)


# Who judged it died


@pytest.mark.parametrize("what", ["right", "wrong"])
async def test_after_a_death_between_count_and_outcome_the_repeat_goes_on_and_costs_no_more(what: str) -> None:
    desk, issued = await _arrived()
    code = desk.code_of(issued) if what == "right" else desk.wrong_code(issued)
    desk.store.breaks_next("commit", Breaks.AFTER)
    with pytest.raises(StoreUnavailable):
        await desk.type_in(issued.handle, code, key=KEY)
    assert _attempts(desk, issued) == 1

    repeats = [await desk.later(30).type_in(issued.handle, code, key=KEY) for _ in range(2)]

    judged_at = desk.clock() - timedelta(seconds=30)
    expected = Accepted(judged_at, context=REQUEST.context) if what == "right" else Wrong(2)
    assert repeats == [expected] * 2
    assert _attempts(desk, issued) == (0 if what == "right" else 1)


async def test_a_death_costs_the_row_of_the_subject_one_failure_which_a_right_repeat_takes_back() -> None:
    desk, issued = await _arrived()
    shard, subject_key = desk.store.shard_of(issued.challenge.id), desk.stored(issued).subject_key
    assert shard is not None
    desk.store.breaks_next("commit", Breaks.AFTER)
    with pytest.raises(StoreUnavailable):
        await desk.type_in(issued.handle, desk.code_of(issued), key=KEY)
    between = (await desk.store.load(shard, subject_key=subject_key)).subject

    await desk.type_in(issued.handle, desk.code_of(issued), key=KEY)

    then = (await desk.store.load(shard, subject_key=subject_key)).subject
    assert between is not None
    assert then is not None
    assert (between.failures, then.failures) == (1, 0)


async def test_when_nothing_was_counted_the_repeat_is_the_first_entry() -> None:
    desk, issued = await _arrived()
    desk.store.breaks_next("commit", Breaks.BEFORE)
    with pytest.raises(StoreUnavailable):
        await desk.type_in(issued.handle, desk.wrong_code(issued), key=KEY)
    assert _attempts(desk, issued) == 0

    assert await desk.type_in(issued.handle, desk.wrong_code(issued), key=KEY) == Wrong(2)


@pytest.mark.parametrize("when", list(Breaks))
async def test_an_acceptance_whose_answer_was_lost_is_accepted_again(when: Breaks) -> None:
    desk, issued = await _arrived()
    desk.store.breaks_next("commit", None)
    desk.store.breaks_next("commit", when)
    with pytest.raises(StoreUnavailable):
        await desk.type_in(issued.handle, desk.code_of(issued), key=KEY)
    assert (desk.stored(issued).verified_at is None) == (when is Breaks.BEFORE)

    assert await desk.type_in(issued.handle, desk.code_of(issued), key=KEY) == Accepted(desk.clock(), REQUEST.context)
    assert _attempts(desk, issued) == 0


async def test_what_died_more_than_a_minute_ago_is_not_gone_on_with() -> None:
    desk, issued = await _arrived()
    desk.store.breaks_next("commit", Breaks.AFTER)
    with pytest.raises(StoreUnavailable):
        await desk.type_in(issued.handle, desk.wrong_code(issued), key=KEY)

    assert await desk.later(60.001).type_in(issued.handle, desk.wrong_code(issued), key=KEY) == Wrong(1)
    assert _attempts(desk, issued) == 2


async def test_an_entry_that_was_counted_as_the_last_one_is_judged_although_nothing_is_left() -> None:
    desk, issued = await _arrived()
    for guess in range(2):
        await desk.type_in(issued.handle, desk.wrong_code(issued, guess))
    desk.store.breaks_next("commit", Breaks.AFTER)
    with pytest.raises(StoreUnavailable):
        await desk.type_in(issued.handle, desk.code_of(issued), key=KEY)
    assert isinstance(await desk.type_in(issued.handle, desk.code_of(issued), key="entry-2"), Locked)

    assert isinstance(await desk.type_in(issued.handle, desk.code_of(issued), key=KEY), Accepted)


async def test_a_replica_without_the_code_key_leaves_an_unjudged_entry_alone_and_tells_an_answer() -> None:
    desk, issued = await _arrived()
    behind = Desk(store=desk.store, mint=desk.mint, code_keys=ring("c0", 9))
    desk.store.breaks_next("commit", Breaks.AFTER)
    with pytest.raises(StoreUnavailable):
        await desk.type_in(issued.handle, desk.code_of(issued), key=KEY)

    with pytest.raises(KeysUnknown):
        await behind.type_in(issued.handle, desk.code_of(issued), key=KEY)

    verdict = await desk.type_in(issued.handle, desk.code_of(issued), key=KEY)
    assert isinstance(verdict, Accepted)
    assert await behind.type_in(issued.handle, desk.code_of(issued), key=KEY) == verdict


@pytest.mark.parametrize("is_right", [True, False])
@pytest.mark.parametrize("behind", range(6))
async def test_a_repeat_on_another_replica_meanwhile_has_the_same_outcome(behind: int, is_right: bool) -> None:  # noqa: FBT001
    first, issued = await _arrived()
    second = Desk(store=first.store, mint=first.mint)
    code = first.code_of(issued) if is_right else first.wrong_code(issued)

    async def repeat() -> Verdict:
        for _ in range(behind):  # calls of the store
            await asyncio.sleep(0)
        return await second.type_in(issued.handle, code, key=KEY)

    answers = await asyncio.gather(first.type_in(issued.handle, code, key=KEY), repeat())

    assert answers[0] == answers[1]
    assert isinstance(answers[0], Accepted if is_right else Wrong)
    assert _attempts(first, issued) == (0 if is_right else 1)
