"""Several wishes of one subject, and handles given back: what is joined, what begins anew, what a repeat finds."""

from __future__ import annotations

from services.otp.rules.challenge import State, with_delivery, without_handle
from services.otp.rules.policy import MAX_HANDLES
from services.otp.rules.request import MOST_HANDLES, GivenBack, Joined, Queued, TooSoon, decide_request
from services.otp.rules.subject import MAX_WISHES
from tests.fakes.otp import PURPOSE
from tests.unit.otp.made_up import D_S, Counter, after, handed_over, wish

COOLDOWN_S = PURPOSE.cooldowns[0].total_seconds()


def _two_wishes() -> Counter:
    """Letter of wish a asked for at noon, of wish b a cooldown later; both wait."""
    counter = Counter()
    counter.ask(same_wish="a")
    assert isinstance(counter.at(COOLDOWN_S).ask(same_wish="b"), Queued)
    return counter


def _give_back(counter: Counter, challenge_id: str, *places: int) -> None:
    for place in places:
        counter.keep(without_handle(counter.challenges[challenge_id], place))


def test_who_wants_something_else_meanwhile_still_joins_the_first_letter_afterwards() -> None:
    counter = _two_wishes()
    subject, other = counter.subject, counter.challenges["c2"]

    decided = counter.at(COOLDOWN_S + 9).ask(same_wish="a")

    assert isinstance(decided, Joined)
    assert decided.challenge.id == "c1"
    assert (counter.subject, counter.challenges["c2"]) == (subject, other)


def test_the_other_wish_is_joined_too_as_often_as_they_change() -> None:
    counter = _two_wishes()

    decided = [counter.at(COOLDOWN_S + second).ask(same_wish=wish) for second, wish in enumerate("abab", 1)]

    assert [(type(each), each.challenge.id) for each in decided if isinstance(each, Joined)] == [
        (Joined, "c1"),
        (Joined, "c2"),
    ] * 2


def test_the_pause_after_the_first_letter_is_its_own_and_its_second_letter_makes_it_the_latest() -> None:
    counter = _two_wishes()
    taken = with_delivery(counter.challenges["c1"], 1, handed_over(COOLDOWN_S + 10), counter.at(COOLDOWN_S + 10).now)
    assert taken is not None
    counter.keep(taken)

    decided = counter.at(2 * COOLDOWN_S + 10).ask(same_wish="a")

    assert isinstance(decided, Queued)
    assert (decided.challenge.id, decided.challenge.newest.number) == ("c1", 2)
    assert decided.subject.latest_id == "c1"
    assert decided.subject.challenge_of("b") == "c2"


def test_a_challenge_of_another_wish_is_not_joined_whoever_names_it() -> None:
    counter = Counter()
    counter.ask(same_wish="a")

    decided = decide_request(wish("key", "c9", "b"), counter.subject, counter.latest, None, counter.now)

    assert isinstance(decided, Queued)
    assert decided.challenge.id == "c9"


def test_only_the_last_four_wishes_are_joined_and_an_older_one_begins_anew() -> None:
    counter = Counter()
    for turn in range(MAX_WISHES + 1):
        assert isinstance(counter.at(turn * COOLDOWN_S).ask(same_wish=f"wish {turn}"), Queued)

    oldest_left = counter.ask(same_wish="wish 1")
    forgotten = counter.at((MAX_WISHES + 1) * COOLDOWN_S).ask(same_wish="wish 0")

    assert isinstance(oldest_left, Joined)
    assert isinstance(forgotten, Queued)
    assert forgotten.challenge.newest.number == 1


def test_a_handle_given_back_makes_room_for_another_page() -> None:
    counter = Counter()
    for _ in range(MAX_HANDLES):
        counter.ask()
    assert isinstance(counter.ask(), TooSoon)

    _give_back(counter, "c1", 2)

    assert isinstance(counter.ask(), Joined)
    assert isinstance(counter.ask(), TooSoon)


def test_a_page_that_opens_and_closes_for_ever_stays_one_record_of_sixteen_handles() -> None:
    counter = Counter()
    counter.ask()
    for place in range(1, MOST_HANDLES):
        assert isinstance(counter.ask(), Joined)
        _give_back(counter, "c1", place)

    assert counter.ask() == TooSoon(PURPOSE.cooldowns[0])
    assert len(counter.latest.handles) == MOST_HANDLES == 16


def test_a_repeat_of_a_handle_given_back_changes_nothing_and_brings_it_back_to_nobody() -> None:
    counter = Counter()
    counter.ask("mine")
    counter.ask("another")
    _give_back(counter, "c1", 0)

    again = counter.at(9).ask("mine")

    assert again == GivenBack()
    assert [handle.cancelled for handle in counter.latest.handles] == [True, False]


def test_a_challenge_given_back_by_everybody_is_not_joined_and_the_cooldown_holds() -> None:
    counter = Counter()
    counter.ask()
    _give_back(counter, "c1", 0)
    assert counter.latest.state(PURPOSE, counter.now) is State.CANCELLED

    assert counter.at(COOLDOWN_S - 1).ask() == TooSoon(after(COOLDOWN_S) - counter.now)
    decided = counter.at(COOLDOWN_S).ask()

    assert isinstance(decided, Queued)
    assert (decided.challenge.id, decided.challenge.newest.wanted_until) == ("c3", after(COOLDOWN_S + D_S))
