"""The lock of a subject: it grows with the row of wrong codes over every challenge, and what ends it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from services.chassis.keyring import Key, Keyring, pseudonym
from services.otp.actions.unlock import Unlocked
from services.otp.ports import COMMIT_TRIES, StoreUnavailable
from services.otp.rules.policy import SUBJECT_ROW
from services.otp.rules.subject import ROW_KEPT, subject_parts
from services.otp.rules.verdict import Accepted, Expired, Locked
from tests.fakes.clock import NOON
from tests.fakes.otp import PURPOSE, Breaks
from tests.unit.otp.desk import REQUEST, Desk
from tests.unit.otp.guesser import Guesser
from tests.unit.otp.overtaken import Overtaken

LIFE_S = PURPOSE.life.total_seconds()
LOCK_S = 30


async def _locked() -> Guesser:
    """A subject that was locked just now, and a page with a good code and attempts left."""
    guesser = Guesser(Desk())
    await guesser.fails(SUBJECT_ROW - 1)
    await guesser.asks()
    await guesser.fails()
    return guesser


async def _unlock(desk: Desk) -> Unlocked:
    return await desk.unlock(PURPOSE.name, REQUEST.subject, desk.clock())


# Locks


async def test_ten_wrong_codes_in_a_row_over_several_challenges_lock_the_subject_for_30_seconds() -> None:
    guesser = await _locked()
    desk, locked_at = guesser.desk, guesser.desk.clock()

    at_once = await guesser.types_right()
    desk.later(LOCK_S - 0.001)
    at_its_end = await guesser.types_right()
    desk.later(0.001)
    after_it = await guesser.types_right()

    assert len({known.id for known in desk.store.challenges()}) > 1
    assert at_once == at_its_end == Locked(locked_at + timedelta(seconds=LOCK_S))
    assert isinstance(after_it, Accepted)


async def test_nine_wrong_codes_lock_nobody() -> None:
    guesser = Guesser(Desk())
    await guesser.fails(SUBJECT_ROW - 1)
    await guesser.asks()

    assert isinstance(await guesser.types_right(), Accepted)


async def test_each_wrong_code_more_doubles_the_lock_up_to_an_hour_and_the_hundredth_makes_it_a_day() -> None:
    guesser = Guesser(Desk())
    await guesser.fails(SUBJECT_ROW - 1)

    locks: list[float] = []
    for _ in range(SUBJECT_ROW, 102):
        await guesser.fails()
        verdict = await guesser.types_right()
        assert isinstance(verdict, Locked)
        locks.append((verdict.retry_at - guesser.desk.clock()).total_seconds())

    assert locks[:9] == [30, 60, 120, 240, 480, 960, 1920, 3600, 3600]
    assert set(locks[7:90]) == {3600}
    assert locks[90:] == [86400, 86400]
    assert (await guesser.record()).failures == 101


async def test_a_locked_entry_is_not_counted_and_lengthens_nothing() -> None:
    guesser = await _locked()
    before = await guesser.record()

    verdicts = [await guesser.types_right() for _ in range(20)]

    assert len(set(verdicts)) == 1
    assert await guesser.record() == before


async def test_a_lock_holds_for_every_challenge_and_handle_of_the_subject_and_for_nobody_else() -> None:
    guesser = Guesser(Desk())
    desk = guesser.desk
    await guesser.fails(SUBJECT_ROW - 1)
    await guesser.asks()
    desk.later(PURPOSE.cooldowns[-1].total_seconds())
    others = [await desk.ask(f"other-{n}", context="another file") for n in range(2)]
    neighbour = await desk.ask("key-8", subject="citizen-8")

    await guesser.fails()

    locked = Locked(desk.clock() + timedelta(seconds=LOCK_S))
    assert await guesser.types_right() == locked
    assert [await desk.type_in(other.handle, "000000") for other in others] == [locked] * 2
    assert isinstance(await desk.type_in(neighbour.handle, desk.code_of(neighbour)), Accepted)


async def test_a_success_forgets_the_row() -> None:
    guesser = Guesser(Desk())
    await guesser.fails(SUBJECT_ROW - 1)
    await guesser.asks()
    assert isinstance(await guesser.types_right(), Accepted)

    await guesser.fails(SUBJECT_ROW - 1)

    assert (await guesser.record()).failures == SUBJECT_ROW - 1
    await guesser.asks()
    assert isinstance(await guesser.types_right(), Accepted)


async def test_a_right_but_expired_entry_is_taken_out_of_the_row_and_begins_no_lock() -> None:
    guesser = Guesser(Desk())
    await guesser.fails(SUBJECT_ROW - 1)
    page = await guesser.asks()
    await guesser.fails()
    expired = guesser.desk.code_of(page, guesser.desk.stored(page).newest.number)
    guesser.desk.later(LIFE_S + 1)
    before = await guesser.record()

    verdicts = [await guesser.desk.type_in(page.handle, expired) for _ in range(20)]

    after_it = await guesser.record()
    assert {type(verdict) for verdict in verdicts} == {Expired}
    assert (after_it.failures, after_it.counted_at) == (SUBJECT_ROW, before.counted_at)
    assert isinstance(await guesser.types_right(), Accepted)  # with the code of the letter that replaces it


async def test_new_challenges_and_letters_leave_the_row_as_it_is() -> None:
    guesser = Guesser(Desk())
    await guesser.fails(SUBJECT_ROW - 1)
    row = (await guesser.record()).failures, (await guesser.record()).counted_at

    page = await guesser.asks()
    guesser.desk.later(PURPOSE.cooldowns[-1].total_seconds())
    await guesser.desk.click(page.handle)

    after_it = await guesser.record()
    assert (after_it.failures, after_it.counted_at) == row
    await guesser.fails()
    assert isinstance(await guesser.types_right(), Locked)


async def test_a_row_is_forgotten_after_30_days_without_a_guess() -> None:
    guesser = Guesser(Desk())
    await guesser.fails(SUBJECT_ROW - 1)
    guesser.desk.clock.pass_by(ROW_KEPT)

    await guesser.asks()
    await guesser.fails()

    assert (await guesser.record()).failures == 1


# Unlocking


async def test_unlocking_ends_the_lock_and_forgets_the_row() -> None:
    guesser = await _locked()

    unlocked = await _unlock(guesser.desk)

    assert unlocked.was_locked
    assert (await guesser.record()).failures == 0
    assert isinstance(await guesser.types_right(), Accepted)


async def test_after_unlocking_the_row_starts_anew() -> None:
    guesser = await _locked()
    await _unlock(guesser.desk)

    await guesser.fails(SUBJECT_ROW - 1)

    await guesser.asks()
    assert isinstance(await guesser.types_right(), Accepted)


async def test_unlocking_gives_no_attempt_of_a_handle_back() -> None:
    guesser = await _locked()
    guesser.desk.later(LOCK_S)
    await guesser.fails()
    guesser.desk.later(2 * LOCK_S)
    await guesser.fails()
    before = guesser.desk.store.challenges()

    await _unlock(guesser.desk)

    assert guesser.desk.store.challenges() == before
    assert isinstance(await guesser.types_right(), Locked)


async def test_unlocking_again_or_nobody_says_so_and_changes_nothing() -> None:
    guesser = await _locked()
    stranger = await guesser.desk.unlock(PURPOSE.name, "nobody", guesser.desk.clock())
    await _unlock(guesser.desk)
    before = await guesser.record()

    again = await _unlock(guesser.desk)

    assert (stranger.was_locked, again.was_locked) == (False, False)
    assert await guesser.record() == before


async def test_a_row_without_a_lock_is_forgotten_too() -> None:
    guesser = Guesser(Desk())
    await guesser.fails(SUBJECT_ROW - 1)

    unlocked = await _unlock(guesser.desk)

    assert not unlocked.was_locked
    assert (await guesser.record()).failures == 0


async def test_a_lock_that_ended_by_itself_was_no_lock() -> None:
    guesser = await _locked()
    guesser.desk.later(LOCK_S)

    assert not (await _unlock(guesser.desk)).was_locked


async def test_another_purpose_of_the_same_subject_stays_locked() -> None:
    guesser = await _locked()

    other = await guesser.desk.unlock("approval", REQUEST.subject, guesser.desk.clock())

    assert not other.was_locked
    assert isinstance(await guesser.types_right(), Locked)


async def test_the_audit_gets_a_name_that_tells_nobody_who_it_was() -> None:
    guesser = await _locked()

    unlocked = await _unlock(guesser.desk)

    assert unlocked.subject_key == (await guesser.record()).key
    assert REQUEST.subject not in repr(unlocked)


async def test_a_subject_named_under_an_older_index_key_is_unlocked_and_audited_under_the_newest() -> None:
    guesser = await _locked()
    old, new = Key("i1", bytes([3]) * 32, NOON - timedelta(days=1)), Key("i2", bytes([4]) * 32, NOON)
    rolled = Desk(store=guesser.desk.store, mint=guesser.desk.mint, index_keys=Keyring([old, new]))

    unlocked = await _unlock(rolled)

    newest = pseudonym(new, *subject_parts(PURPOSE.name, REQUEST.subject))
    assert unlocked == Unlocked(was_locked=True, subject_key=newest)
    assert isinstance(await guesser.types_right(), Accepted)


@pytest.mark.parametrize("when", list(Breaks))
async def test_an_unlocking_whose_answer_was_lost_is_repeated(when: Breaks) -> None:
    guesser = await _locked()
    guesser.desk.store.breaks_next("commit", when)

    with pytest.raises(StoreUnavailable):
        await _unlock(guesser.desk)

    assert (await _unlock(guesser.desk)).was_locked == (when is Breaks.BEFORE)
    assert isinstance(await guesser.types_right(), Accepted)


@pytest.mark.parametrize(("lost_races", "succeeds"), [(COMMIT_TRIES - 1, True), (COMMIT_TRIES, False)])
async def test_who_loses_every_race_is_told_to_come_back(lost_races: int, *, succeeds: bool) -> None:
    store = Overtaken()
    guesser = Guesser(Desk(store=store))
    await guesser.fails(SUBJECT_ROW)
    store.lost = lost_races

    if succeeds:
        assert (await _unlock(guesser.desk)).was_locked
    else:
        with pytest.raises(StoreUnavailable):
            await _unlock(guesser.desk)
