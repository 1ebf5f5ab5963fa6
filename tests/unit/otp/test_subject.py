"""What is remembered of a subject: its wishes, its row of wrong codes, and the lock that follows from the row."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.otp.rules.policy import LOCK_LONGEST, ROW_LIMIT, SUBJECT_ROW
from services.otp.rules.subject import MAX_WISHES, ROW_KEPT, Subject, lock_after, subject_parts
from tests.unit.otp.made_up import MS, after, challenge


def _subject(failures: int = 0, counted_at: datetime | None = None) -> Subject:
    return Subject("subject", version=3, failures=failures, counted_at=counted_at)


@pytest.mark.parametrize(
    ("failures", "seconds"),
    [
        (0, 0),
        (1, 0),
        (9, 0),
        (10, 30),
        (11, 60),
        (12, 120),
        (13, 240),
        (14, 480),
        (15, 960),
        (16, 1920),
        (17, 3600),
        (18, 3600),
        (99, 3600),
        (100, 86400),
        (101, 86400),
        (10**9, 86400),
    ],
)
def test_a_lock_doubles_from_the_tenth_failure_up_to_an_hour_and_is_a_day_from_the_hundredth(
    failures: int, seconds: int
) -> None:
    assert lock_after(failures) == timedelta(seconds=seconds)


def test_a_lock_never_shrinks_while_the_row_grows() -> None:
    locks = [lock_after(failures) for failures in range(200)]

    assert locks == sorted(locks)
    assert {lock for lock in locks if timedelta(hours=1) < lock} == {timedelta(hours=24)}
    assert locks.index(LOCK_LONGEST) > SUBJECT_ROW
    assert locks.index(timedelta(hours=24)) == ROW_LIMIT


@pytest.mark.parametrize(("failures", "ends_s"), [(10, 30), (12, 120), (40, 3600), (100, 86400)])
def test_a_lock_ends_at_its_instant(failures: int, ends_s: float) -> None:
    subject = _subject(failures, after(0))

    assert subject.locked_until(after(ends_s) - MS) == after(ends_s)
    assert subject.locked_until(after(ends_s)) is None


def test_a_short_row_locks_nobody() -> None:
    assert _subject(9, after(0)).locked_until(after(0)) is None
    assert _subject().locked_until(after(0)) is None


def test_each_failure_lengthens_the_row_and_moves_its_lock() -> None:
    subject = _subject(9, after(0))

    tenth = subject.with_failure(after(5))
    eleventh = tenth.with_failure(after(40))

    assert (tenth.version, tenth.failures) == (4, 10)
    assert tenth.locked_until(after(6)) == after(35)
    assert (eleventh.version, eleventh.failures) == (5, 11)
    assert eleventh.locked_until(after(41)) == after(100)


def test_an_entry_that_is_no_failure_is_taken_out_with_the_lock_it_began() -> None:
    before = _subject(10, after(0))  # locked until second 30
    counted = before.with_failure(after(31))
    assert counted.locked_until(after(32)) == after(91)

    restored = counted.without_failure(after(31), before.counted_at)

    assert restored == replace(before, version=5)
    assert restored.locked_until(after(29)) == after(30)
    assert restored.locked_until(after(32)) is None


def test_the_first_entry_of_a_row_leaves_no_trace_when_it_is_taken_out() -> None:
    before = _subject()

    restored = before.with_failure(after(1)).without_failure(after(1), None)

    assert restored == replace(before, version=5)


def test_an_entry_that_is_taken_out_leaves_the_lock_of_those_counted_meanwhile() -> None:
    before = _subject(9, after(0))
    meanwhile = before.with_failure(after(1)).with_failure(after(2))

    restored = meanwhile.without_failure(after(1), before.counted_at)

    assert (restored.failures, restored.counted_at) == (10, after(2))
    assert restored.locked_until(after(3)) == after(32)


def test_a_row_that_was_forgiven_meanwhile_does_not_go_below_nothing() -> None:
    forgiven = _subject(4, after(0)).with_failure(after(1)).forgiven()

    restored = forgiven.without_failure(after(1), after(0))

    assert (restored.failures, restored.counted_at) == (0, None)


@given(right=st.lists(st.booleans(), max_size=30))
def test_of_entries_one_after_the_other_exactly_the_wrong_ones_are_in_the_row(right: list[bool]) -> None:
    subject = _subject()
    for second, is_right in enumerate(right):
        before = subject.counted_at
        subject = subject.with_failure(after(second))
        if is_right:
            subject = subject.without_failure(after(second), before)

    wrong = [second for second, is_right in enumerate(right) if not is_right]
    assert subject.failures == len(wrong)
    assert subject.counted_at == (after(wrong[-1]) if wrong else None)


def test_a_success_forgets_the_row_and_keeps_the_wishes() -> None:
    subject = _subject(57, after(0)).with_challenge(challenge())

    forgiven = subject.forgiven()

    assert forgiven == replace(subject, version=5, failures=0, counted_at=None)
    assert forgiven.locked_until(after(1)) is None


def test_a_new_challenge_changes_nothing_about_the_row() -> None:
    subject = _subject(12, after(0))

    asked = subject.with_challenge(challenge(id="c1"))

    assert (asked.version, asked.failures, asked.counted_at) == (4, 12, after(0))
    assert asked.locked_until(after(1)) == subject.locked_until(after(1)) == after(120)


def test_the_newest_challenge_of_each_wish_is_found_and_the_newest_of_all() -> None:
    subject = (
        _subject()
        .with_challenge(challenge(id="c1", same_wish="a"))
        .with_challenge(challenge(id="c2", same_wish="b"))
        .with_challenge(challenge(id="c3", same_wish="a"))
        .with_challenge(challenge(id="c2", same_wish="b"))
    )

    assert [wished.challenge_id for wished in subject.wishes] == ["c1", "c3", "c2"]
    assert subject.challenge_of("a") == "c3"
    assert subject.challenge_of("b") == subject.latest_id == "c2"
    assert subject.challenge_of("c") is None
    assert _subject().latest_id is None


def test_above_the_most_wishes_the_oldest_is_forgotten() -> None:
    subject = _subject()
    for number in range(MAX_WISHES + 2):
        subject = subject.with_challenge(challenge(id=f"c{number}", same_wish=f"wish-{number}"))

    assert [wished.challenge_id for wished in subject.wishes] == ["c2", "c3", "c4", "c5"]


def test_it_is_kept_as_long_as_its_longest_wish_is() -> None:
    long, short = challenge(id="c1", ends_at=after(9000)), challenge(id="c2", ends_at=after(5000))

    assert _subject().with_challenge(long).with_challenge(short).kept_until == long.kept_until


def test_a_row_is_kept_for_30_days_after_its_last_failure() -> None:
    asked = _subject().with_challenge(challenge())

    failed = asked.with_failure(after(7))

    assert failed.kept_until == after(7) + ROW_KEPT == after(7 + 30 * 86400)
    assert failed.forgiven().kept_until == asked.kept_until


def test_a_record_that_remembers_nothing_is_not_kept() -> None:
    lost = _subject().with_failure(after(7))

    assert lost.kept_until == after(7) + ROW_KEPT
    assert lost.forgiven().kept_until < after(0)
    assert lost.without_failure(after(7), None).kept_until < after(0)


def test_purpose_and_subject_name_a_record_together() -> None:
    assert len({subject_parts("login", "a"), subject_parts("login", "b"), subject_parts("approval", "a")}) == 3
