"""Stories of asking for a code: what the counter answers, and that asking again never makes it worse."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from services.otp.rules.challenge import with_delivery
from services.otp.rules.generation import Delivery, Fate
from services.otp.rules.policy import MAX_HANDLES, WANTED_STEP
from services.otp.rules.request import Joined, Queued, Repeated, TooSoon
from tests.fakes.clock import NOON
from tests.fakes.otp import PURPOSE
from tests.unit.otp.made_up import D_S, GIVEN_UP_S, MS, Counter, after, handed_over

COOLDOWN_S = PURPOSE.cooldowns[0].total_seconds()
LIFE_S = PURPOSE.life.total_seconds()
STEP_S = WANTED_STEP.total_seconds()
END_S = PURPOSE.challenge_life.total_seconds()


def _hear(counter: Counter, event: Delivery, number: int = 1) -> None:
    changed = with_delivery(counter.latest, number, event, counter.now)
    assert changed is not None
    counter.keep(changed)


def _handed_over(h: float = 6) -> Counter:
    """A first letter, asked for at noon, taken by the relay at second `h`."""
    counter = Counter()
    counter.ask()
    _hear(counter.at(h), handed_over(h))
    return counter


def _two_live() -> Counter:
    """Two letters in mailboxes, taken at seconds 6 and 70."""
    counter = _handed_over(6)
    counter.at(60).ask()
    _hear(counter.at(70), handed_over(70), number=2)
    return counter


def test_a_first_wish_opens_a_challenge_with_everything_the_policy_promises() -> None:
    counter = Counter()

    decided = counter.ask("key")

    assert isinstance(decided, Queued)
    made = decided.challenge
    assert (made.id, made.version, made.purpose, made.code_length) == ("c1", 1, PURPOSE.name, PURPOSE.digits)
    assert (made.made_at, made.ends_at) == (NOON, after(END_S))
    assert (made.newest.number, made.newest.made_at, made.newest.wanted_until) == (1, NOON, after(D_S))
    assert (made.newest.life, made.newest.max_life) == (PURPOSE.life, PURPOSE.max_life)
    assert (decided.subject.latest_id, decided.subject.version) == ("c1", 1)
    assert len(made.handles) == 1


def test_the_same_wish_joins_the_letter_that_waits_and_queues_nothing() -> None:
    counter = Counter()
    counter.ask("first")

    decided = counter.at(700).ask("second")

    assert isinstance(decided, Joined)
    assert [g.number for g in decided.challenge.generations] == [1]
    assert [handle.joined for handle in decided.challenge.handles] == [False, True]
    assert decided.challenge.newest.made_at == NOON


@pytest.mark.parametrize(
    ("asked_s", "wanted_s"), [(STEP_S - 0.001, D_S), (STEP_S, D_S + STEP_S), (700, D_S + 700)], ids=str
)
def test_who_joins_keeps_the_letter_wanted_as_long_as_if_it_were_asked_for_now_in_steps_of_30_seconds(
    asked_s: float, wanted_s: float
) -> None:
    counter = Counter()
    counter.ask()

    decided = counter.at(asked_s).ask()

    assert isinstance(decided, Joined)
    assert decided.extended == (wanted_s > D_S)
    assert decided.challenge.newest.wanted_until == after(wanted_s)
    assert decided.challenge.newest.watch_extended is False


def test_a_join_never_keeps_a_letter_wanted_until_its_code_would_be_cut_short() -> None:
    counter = Counter()
    for second in range(0, int(END_S), 600):
        counter.at(second).ask()

    assert counter.latest.newest.wanted_until == after(END_S - LIFE_S)


def test_a_second_letter_is_extended_from_its_own_wish_and_the_first_stays_as_it_was() -> None:
    counter = _handed_over(h=6)
    counter.at(100).ask()

    decided = counter.at(400).ask()

    assert isinstance(decided, Joined)
    assert [g.wanted_until for g in decided.challenge.generations] == [after(D_S), after(400 + D_S)]


@pytest.mark.parametrize("joined", [False, True])
def test_a_repeat_is_answered_as_the_first_time_and_changes_nothing(joined: bool) -> None:  # noqa: FBT001 - a case
    counter = Counter()
    if joined:
        counter.ask("other")
    first = counter.ask("key")
    assert isinstance(first, Joined if joined else Queued)

    again = counter.at(300).ask("key")

    assert again == Repeated(first.challenge)
    assert first.challenge.handles[-1].joined is joined


def test_a_repeat_long_after_the_letter_left_is_still_the_same_answer() -> None:
    counter = Counter()
    counter.ask("key")
    _hear(counter.at(6), handed_over(6))

    assert counter.at(END_S + 60).ask("key") == Repeated(counter.latest)


def test_the_waiting_letter_is_joined_up_to_the_moment_it_is_presumed_dropped() -> None:
    in_time, too_late = Counter(), Counter()
    in_time.ask()
    too_late.ask()

    assert isinstance(in_time.at(GIVEN_UP_S).ask(), Joined)
    assert too_late.at(GIVEN_UP_S + 0.001).ask() == TooSoon(PURPOSE.cooldowns[0] - MS)


def test_no_more_than_four_pages_join_one_letter() -> None:
    counter = Counter()
    for _ in range(MAX_HANDLES):
        counter.ask()

    fifth = counter.at(1).ask()

    assert fifth == TooSoon(PURPOSE.cooldowns[0])
    assert len(counter.latest.handles) == MAX_HANDLES


def test_a_fifth_page_after_the_cooldown_gets_a_challenge_of_its_own_and_the_others_keep_theirs() -> None:
    counter = Counter()
    for _ in range(MAX_HANDLES):
        counter.ask()
    _hear(counter.at(6), handed_over(6))

    decided = counter.at(6 + COOLDOWN_S).ask()

    assert isinstance(decided, Queued)
    assert decided.challenge.id == "c5"
    assert counter.challenges["c1"].newest.is_good(counter.challenges["c1"].ends_at, counter.now)


def test_however_often_somebody_asks_while_the_letter_waits_it_is_one_letter() -> None:
    counter = Counter()

    for second in range(int(D_S)):
        counter.at(second).ask()

    assert [len(kept.generations) for kept in counter.challenges.values()] == [1]


def test_after_the_hand_over_the_cooldown_counts_from_there() -> None:
    counter = _handed_over(h=300)

    assert counter.at(310).ask() == TooSoon(timedelta(seconds=300 + COOLDOWN_S - 310))
    assert counter.at(300 + COOLDOWN_S - 0.001).ask() == TooSoon(MS)


def test_after_the_cooldown_the_challenge_gets_a_new_code_and_the_old_one_lives_on() -> None:
    counter = _handed_over(h=6)

    decided = counter.at(6 + COOLDOWN_S).ask("second")

    assert isinstance(decided, Queued)
    made = decided.challenge
    assert made.id == "c1"
    assert [g.number for g in made.generations] == [1, 2]
    assert made.newest.made_at == counter.now
    assert made.newest.wanted_until == counter.now + PURPOSE.deadline
    assert made.sealed.ciphertext == b"c1/2/second"
    assert made.generations[0].is_good(made.ends_at, counter.now)
    assert [handle.joined for handle in made.handles] == [False, False]


def test_a_letter_presumed_dropped_gets_a_successor_after_the_cooldown() -> None:
    counter = Counter()
    counter.ask()

    decided = counter.at(GIVEN_UP_S + COOLDOWN_S).ask()

    assert isinstance(decided, Queued)
    assert [g.number for g in decided.challenge.generations] == [1, 2]


@pytest.mark.parametrize("fate", [Fate.REFUSED, Fate.DROPPED, Fate.BOUNCED])
def test_after_a_letter_failed_the_cooldown_counts_from_its_failure(fate: Fate) -> None:
    counter = Counter()
    counter.ask()
    _hear(counter.at(20), Delivery(fate, after(20)))

    assert counter.at(20 + COOLDOWN_S - 0.001).ask() == TooSoon(MS)
    assert isinstance(counter.at(20 + COOLDOWN_S).ask(), Queued)


def test_a_citizen_whose_mistyped_address_was_refused_corrects_it_after_the_cooldown() -> None:
    counter = Counter()
    counter.ask(same_wish="lam@example.vn")
    _hear(counter.at(2), Delivery(Fate.REFUSED, after(2)))

    assert counter.at(10).ask(same_wish="lan@example.vn") == TooSoon(timedelta(seconds=2 + COOLDOWN_S - 10))
    decided = counter.at(2 + COOLDOWN_S).ask(same_wish="lan@example.vn")

    assert isinstance(decided, Queued)
    assert decided.challenge.id != "c1"


def test_another_wish_waits_for_the_cooldown_and_not_for_the_letter() -> None:
    counter = Counter()
    counter.ask(same_wish="mistyped")

    assert counter.at(COOLDOWN_S - 0.001).ask(same_wish="corrected") == TooSoon(MS)
    decided = counter.at(COOLDOWN_S).ask(same_wish="corrected")

    assert isinstance(decided, Queued)
    assert decided.subject.latest_id == decided.challenge.id == counter.latest.id != "c1"
    assert counter.challenges["c1"].generations[0].waits(counter.now)


def test_while_two_codes_live_no_third_is_made_and_the_answer_says_when() -> None:
    counter = _two_live()

    decided = counter.at(130).ask()

    assert decided == TooSoon(after(6 + LIFE_S) - counter.now + timedelta.resolution)
    assert [len(kept.generations) for kept in counter.challenges.values()] == [2]
    assert isinstance(counter.at(6 + LIFE_S).ask(), TooSoon)
    third = counter.at(6 + LIFE_S + 0.001).ask()
    assert isinstance(third, Queued)
    assert [g.number for g in third.challenge.generations] == [1, 2, 3]


def test_when_the_end_is_too_near_for_one_more_code_a_new_challenge_begins() -> None:
    counter = _handed_over(h=6)

    decided = counter.at(END_S - LIFE_S).ask()

    assert isinstance(decided, Queued)
    assert decided.challenge.id == "c2"


def test_a_code_that_can_live_its_whole_life_is_still_made() -> None:
    counter = _handed_over(h=6)

    decided = counter.at(END_S - LIFE_S - 0.001).ask()

    assert isinstance(decided, Queued)
    assert decided.challenge.id == "c1"


def test_a_letter_is_not_wanted_so_late_that_the_end_would_cut_its_code_short() -> None:
    counter = _handed_over(h=6)

    decided = counter.at(END_S - LIFE_S - 100).ask()

    assert isinstance(decided, Queued)
    assert decided.challenge.newest.wanted_until == after(END_S - LIFE_S)


@pytest.mark.parametrize(
    "fields",
    [{"verified_at": after(30)}, {"attempts": PURPOSE.attempts}],
    ids=["verified", "out of attempts"],
)
def test_a_challenge_that_is_over_is_not_joined_and_the_cooldown_holds(fields: dict[str, object]) -> None:
    counter = _handed_over(h=6)
    counter.keep(replace(counter.latest, version=counter.latest.version + 1, **fields))  # type: ignore[arg-type] # fields of the table

    assert counter.at(40).ask() == TooSoon(timedelta(seconds=6 + COOLDOWN_S - 40))
    decided = counter.at(6 + COOLDOWN_S).ask()

    assert isinstance(decided, Queued)
    assert decided.challenge.id != "c1"


def test_a_challenge_past_its_end_is_not_joined() -> None:
    counter = _handed_over(h=6)

    decided = counter.at(END_S + 0.001).ask()

    assert isinstance(decided, Queued)
    assert decided.challenge.id == "c2"


def test_a_challenge_that_the_store_has_forgotten_is_replaced() -> None:
    counter = Counter()
    counter.ask()
    counter.challenges.clear()

    decided = counter.ask()

    assert isinstance(decided, Queued)
    assert decided.subject.version == 2
