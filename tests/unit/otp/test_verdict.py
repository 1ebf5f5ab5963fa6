"""What a typed code is worth: attempts are counted first, and a right entry gives its own back."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from services.otp.rules.challenge import Challenge, Fresh, Stall
from services.otp.rules.entry import Answer, Attempt, Entry, EntryName
from services.otp.rules.generation import Cause
from services.otp.rules.renewal import FreshFor
from services.otp.rules.subject import Subject
from services.otp.rules.verdict import (
    Accepted,
    Case,
    Counted,
    Expired,
    Judged,
    Locked,
    Unknown,
    Used,
    Verdict,
    Wrong,
    answer_of,
    attempts_left,
    cleaned,
    counted,
    judged,
    uncounted,
    verdict_of,
)
from tests.fakes.otp import PURPOSE
from tests.unit.otp.made_up import MS, SEALED, after, challenge, generation, handle

GOOD_UNTIL = after(6 + 240)
ATTEMPT = Attempt(counted_at=after(9), row_before=None)
NAME = EntryName(b"key", b"typed")
LOCKED = Subject("subject", version=5, failures=12, counted_at=after(0))  # until second 120


def _fresh(_: Challenge, number: int) -> Fresh:
    return Fresh(f"NEW{number:02}", "c9", SEALED)


def _subject(failures: int = 1, counted_at: datetime | None = ATTEMPT.counted_at) -> Subject:
    """One whose last counted entry is the one being judged."""
    return Subject("subject", version=5, failures=failures, counted_at=counted_at)


def _case(known: Challenge, now: datetime, *, subject: Subject | None = None, place: int = 0) -> Case:
    return Case(known, subject or _subject(), place, PURPOSE, now)


def _arrived(*, attempts: int = 0, **fields: object) -> Challenge:
    """A challenge whose letter was taken at second 6, and whose one handle has spent attempts."""
    letter = generation(body_started_at=5, handed_over_at=6)
    return challenge(letter, **{"handles": (replace(handle(), attempts=attempts),), "attempts": attempts, **fields})


def _judge(
    known: Challenge,
    right: Collection[int],
    now: datetime,
    *,
    fresh: FreshFor | None = None,
    name: EntryName | None = None,
    subject: Subject | None = None,
) -> Judged:
    return judged(_case(known, now, subject=subject), ATTEMPT, name, right, fresh)


def _changed(outcome: Judged) -> Challenge:
    assert outcome.challenge is not None
    return outcome.challenge


def _spent(known: Challenge) -> tuple[int, list[int]]:
    return known.attempts, [one.attempts for one in known.handles]


# Counting


def test_an_attempt_is_counted_on_its_handle_the_challenge_and_the_subject() -> None:
    known = challenge(handles=(handle(key="a"), handle(key="b")), version=4)
    subject = Subject("subject", version=2, failures=3, counted_at=after(1))

    spent = counted(_case(known, after(10), subject=subject, place=1), None)

    assert isinstance(spent, Counted)
    assert (spent.challenge.version, spent.challenge.entries) == (5, ())
    assert _spent(spent.challenge) == (1, [0, 1])
    assert spent.subject == Subject("subject", version=3, failures=4, counted_at=after(10))
    assert spent.attempt == Attempt(counted_at=after(10), row_before=after(1))


def test_an_entry_with_a_key_is_written_with_the_attempt_that_it_costs() -> None:
    older = Entry(EntryName(b"old", b"typed"), Attempt(after(5), None), Answer("wrong"))

    spent = counted(_case(challenge(entries=(older,)), after(10)), NAME)

    assert isinstance(spent, Counted)
    assert spent.challenge.entries == (older, Entry(NAME, spent.attempt, answer=None))
    assert spent.challenge.version == 2


@pytest.mark.parametrize(
    ("of_handle", "of_challenge", "left"),
    [(0, 0, 3), (1, 1, 2), (2, 2, 1), (3, 3, 0), (0, 4, 3), (0, 5, 2), (0, 6, 1), (0, 7, 0), (1, 6, 1), (9, 9, 0)],
)
def test_what_is_left_is_the_smaller_of_the_handles_and_the_challenges_budget(
    of_handle: int, of_challenge: int, left: int
) -> None:
    known = challenge(handles=(replace(handle(), attempts=of_handle),), attempts=of_challenge)

    assert attempts_left(known, 0, PURPOSE) == left
    assert isinstance(counted(_case(known, after(10)), None), Locked) == (left == 0)


def test_one_handle_without_attempts_locks_no_other() -> None:
    known = challenge(handles=(replace(handle(), attempts=3), handle(key="b")), attempts=3)

    assert isinstance(counted(_case(known, after(10), place=0), None), Locked)
    assert isinstance(counted(_case(known, after(10), place=1), None), Counted)


def test_without_attempts_the_citizen_is_told_when_another_code_may_be_asked_for() -> None:
    known = _arrived(attempts=3)

    assert counted(_case(known, after(10)), None) == Locked(after(6 + 50))
    assert counted(_case(known, after(56)), None) == Locked(after(56))
    assert counted(_case(known, after(300)), None) == Locked(after(300))


def test_a_locked_subject_counts_nothing_until_the_last_instant_of_the_lock() -> None:
    assert counted(_case(challenge(), after(120) - MS, subject=LOCKED), NAME) == Locked(after(120))
    assert isinstance(counted(_case(challenge(), after(120), subject=LOCKED), NAME), Counted)


def test_the_lock_of_the_subject_is_told_before_that_of_the_handle() -> None:
    assert counted(_case(_arrived(attempts=3), after(60), subject=LOCKED), None) == Locked(after(120))


def test_what_was_counted_can_be_looked_at_as_before() -> None:
    known = challenge(handles=(handle(key="a"), replace(handle(key="b"), attempts=2)), attempts=2, version=4)

    spent = counted(_case(known, after(10), place=1), None)

    assert isinstance(spent, Counted)
    assert uncounted(spent.challenge, 1) == replace(known, version=5)


# Judging


def test_a_wrong_code_costs_its_attempt_and_changes_nothing_more() -> None:
    assert _judge(_arrived(attempts=1), [], after(10)) == Judged(Wrong(attempts_left=2))


def test_the_last_wrong_code_of_a_challenge_changes_it_while_its_letter_waits() -> None:
    waiting = challenge(attempts=PURPOSE.attempts, version=8)

    assert _judge(waiting, [], after(10)) == Judged(Wrong(0), replace(waiting, version=9))
    assert _judge(replace(waiting, attempts=PURPOSE.attempts - 1), [], after(10)).challenge is None
    assert _judge(_arrived(attempts=PURPOSE.attempts), [], after(10)).challenge is None


def test_the_right_code_is_accepted_gives_its_attempt_back_and_forgets_the_row() -> None:
    known = _arrived(attempts=2)

    outcome = _judge(known, [1], after(10), subject=_subject(failures=9))

    assert outcome.verdict == Accepted(after(10))
    assert outcome.subject == Subject("subject", version=6)
    assert (_changed(outcome).verified_at, _changed(outcome).version) == (after(10), known.version + 1)
    assert _spent(_changed(outcome)) == (1, [1])


def test_a_right_code_is_judged_although_a_lock_began_meanwhile() -> None:
    outcome = _judge(_arrived(attempts=3), [1], after(10), subject=_subject(failures=10))

    assert outcome.verdict == Accepted(after(10))


def test_a_right_code_after_the_acceptance_is_used_and_no_guess() -> None:
    known = _arrived(attempts=1, verified_at=after(9))

    outcome = _judge(known, [1], after(10), subject=_subject(failures=4))

    assert outcome.verdict == Used()
    assert (_changed(outcome).verified_at, _spent(_changed(outcome))) == (after(9), (0, [0]))
    assert outcome.subject == Subject("subject", version=6, failures=3)


def test_a_wrong_code_after_the_acceptance_is_wrong() -> None:
    assert _judge(_arrived(attempts=1, verified_at=after(9)), [], after(10)) == Judged(Wrong(attempts_left=2))


def test_a_code_is_accepted_at_its_last_instant_and_expired_after_it() -> None:
    known = _arrived(attempts=1)

    assert _judge(known, [1], GOOD_UNTIL).verdict == Accepted(GOOD_UNTIL)
    assert _judge(known, [1], GOOD_UNTIL + MS).verdict == Expired()


def test_a_right_but_expired_code_is_no_guess_and_stays_expired() -> None:
    outcome = _judge(_arrived(attempts=1), [1], GOOD_UNTIL + MS, subject=_subject(failures=4))

    changed = _changed(outcome)
    assert outcome.verdict == Expired()
    assert (_spent(changed), changed.verified_at) == ((0, [0]), None)
    assert outcome.subject == Subject("subject", version=6, failures=3)
    revived = replace(changed, generations=(replace(changed.newest, delivered_at=after(300)),))
    assert _judge(revived, [1], after(301)).verdict == Expired()


def test_a_right_but_expired_entry_restores_the_lock_that_stood_before_it() -> None:
    before = Subject("subject", version=4, failures=11, counted_at=after(0))
    spent = counted(_case(_arrived(), GOOD_UNTIL + MS, subject=before), None)
    assert isinstance(spent, Counted)
    assert spent.subject.locked_until(after(300)) is not None

    outcome = judged(
        _case(spent.challenge, GOOD_UNTIL + MS, subject=spent.subject), spent.attempt, None, [1], fresh=None
    )

    assert outcome.verdict == Expired()
    assert outcome.subject == replace(before, version=6)


def test_an_expired_code_is_replaced_by_a_letter_that_is_named() -> None:
    known = _arrived(attempts=1, version=7)

    outcome = _judge(known, [1], GOOD_UNTIL + MS, fresh=_fresh)

    changed = _changed(outcome)
    assert outcome.verdict == Expired("NEW02")
    assert (changed.version, changed.newest.cause, changed.newest.made_at) == (8, Cause.REISSUED, GOOD_UNTIL + MS)
    assert [one.told_expired for one in changed.generations] == [True, False]
    assert _spent(changed) == (0, [0])


def test_while_the_replacing_letter_waits_it_is_named_and_no_other_is_made() -> None:
    outcome = _judge(_arrived(attempts=1), [1], GOOD_UNTIL + MS, fresh=_fresh)
    waiting = replace(_changed(outcome), attempts=1)

    again = _judge(waiting, [1], GOOD_UNTIL + timedelta(seconds=60), fresh=_fresh)

    assert again.verdict == Expired("NEW02")
    assert len(_changed(again).generations) == 2


def test_a_spent_budget_stalls_and_names_no_letter() -> None:
    letters = [generation(n, handed_over_at=6, cause=Cause.REISSUED) for n in (1, 2)]

    outcome = _judge(challenge(*letters, attempts=1, version=7), [1], GOOD_UNTIL + MS, fresh=_fresh)

    assert outcome.verdict == Expired()
    assert (_changed(outcome).version, _changed(outcome).stalled) == (8, Stall.BUDGET)


def test_only_the_generation_that_was_typed_is_told_expired() -> None:
    old, new = generation(1, handed_over_at=6), generation(2, handed_over_at=200)

    outcome = _judge(challenge(old, new, attempts=1), [1], GOOD_UNTIL + MS)

    assert outcome.verdict == Expired("REF02")
    assert [one.told_expired for one in _changed(outcome).generations] == [True, False]


def test_of_two_generations_with_the_same_code_the_one_that_lives_is_enough() -> None:
    old, new = generation(1, handed_over_at=6), generation(2, handed_over_at=200)

    assert _judge(challenge(old, new, attempts=1), [1, 2], GOOD_UNTIL + MS).verdict == Accepted(GOOD_UNTIL + MS)


def test_an_older_code_that_still_lives_is_accepted() -> None:
    old, new = generation(1, handed_over_at=6), generation(2)

    assert _judge(challenge(old, new, attempts=1), [1], after(100)).verdict == Accepted(after(100))


def test_the_code_of_a_letter_that_was_dropped_unexposed_is_not_accepted() -> None:
    assert _judge(challenge(generation(dropped_at=30), attempts=1), [1], after(40)).verdict == Expired()


def test_after_the_end_of_its_challenge_a_code_is_expired_and_nothing_is_made() -> None:
    known = challenge(generation(handed_over_at=1900), attempts=1)

    assert _judge(known, [1], known.ends_at, fresh=_fresh).verdict == Accepted(known.ends_at)
    late = _judge(known, [1], known.ends_at + MS, fresh=_fresh)
    assert (late.verdict, len(_changed(late).generations)) == (Expired(), 1)


# What a repeat finds


@pytest.mark.parametrize(
    ("right", "seconds", "fresh", "verdict"),
    [
        ([], 10.0, None, Wrong(2)),
        ([1], 10.0, None, Accepted(after(10))),
        ([1], 250.0, None, Expired()),
        ([1], 250.0, _fresh, Expired("NEW02")),
    ],
    ids=["wrong", "accepted", "expired", "expired and replaced"],
)
def test_the_answer_is_kept_with_the_outcome_in_one_version(
    right: list[int], seconds: float, fresh: FreshFor | None, verdict: Verdict
) -> None:
    pending = Entry(NAME, ATTEMPT)
    known = _arrived(attempts=1, entries=(pending,), version=7)

    outcome = _judge(known, right, after(seconds), name=NAME, fresh=fresh)

    assert outcome.verdict == verdict
    assert _changed(outcome).version == 8
    assert _changed(outcome).entries == (replace(pending, answer=answer_of(verdict)),)


@pytest.mark.parametrize("verdict", [Accepted(after(3)), Wrong(0), Wrong(2), Expired(), Expired("REF02"), Used()])
def test_a_verdict_is_kept_whole(verdict: Verdict) -> None:
    assert verdict_of(answer_of(verdict)) == verdict


def test_what_was_confirmed_is_not_kept_in_clear() -> None:
    assert verdict_of(answer_of(Accepted(after(3), context="Nộp hồ sơ"))) == Accepted(after(3))


@pytest.mark.parametrize("verdict", [Locked(after(3)), Unknown()])
def test_what_was_never_compared_has_no_answer_to_keep(verdict: Verdict) -> None:
    with pytest.raises(AssertionError):
        answer_of(verdict)


# What was meant


@pytest.mark.parametrize(
    "typed",
    [
        "123456",
        "123 456",
        " 1 2 3 4 5 6 ",
        "123-456",
        "12.34.56",
        "123\u2013456",
        "123\u2014456",
        "123\u2212456",
        "123\u00a0456",
        "123\u202f456",
        "123\u2003456",
        "123\u3000456",
        "１２３４５６",
        "１２３－４５６",
        "１２３　４５６",
        "\u200b123456\ufeff",
        "\u200e123456\u200f",
        "123456\r\n",
        "\t123456",
    ],
    ids=ascii,
)
def test_digits_are_understood_however_they_are_parted(typed: str) -> None:
    assert cleaned(typed) == "123456"


@pytest.mark.parametrize("typed", ["12345a", "12345O", "123,456", "123_456", "12345\x00", "١٢٣٤٥٦"], ids=ascii)
def test_what_is_no_digit_stays_and_is_no_code(typed: str) -> None:
    kept = cleaned(typed)

    assert not (kept.isascii() and kept.isdigit())


def test_of_nothing_nothing_is_left() -> None:
    assert cleaned("") == cleaned(" - \u2014 ") == ""
