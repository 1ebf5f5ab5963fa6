"""Delivery events come twice, late, in any order, from clocks that are wrong; what is known does not depend on it."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.otp.rules.challenge import with_delivery
from services.otp.rules.generation import Delivery, Fate, Generation
from tests.fakes.clock import NOON
from tests.unit.otp.made_up import after, challenge, generation, handed_over

RECEIVED_S = 600
LATEST = ("handed_over_at", "deferred_at", "next_try_at")
EARLIEST = (
    *("body_started_at", "delivered_at", "said_delivered_at", "bounced_at", "said_bounced_at", "refused_at"),
    "dropped_at",
)


def deliveries(latest_s: int = 3600) -> st.SearchStrategy[Delivery]:
    """Events of any fate, at times that another host thought right."""
    instants = st.integers(-3600, latest_s).map(after)
    return st.builds(
        Delivery,
        fate=st.sampled_from(Fate),
        at=instants,
        body_started_at=st.none() | instants,
        exposed=st.booleans(),
        next_try_at=st.none() | instants,
        is_hearsay=st.booleans(),
    )


def _merged(events: list[Delivery], received_at: datetime) -> Generation:
    known = generation()
    for event in events:
        known = known.merged(event, received_at)
    return known


def twice_and_shuffled(events: list[Delivery]) -> st.SearchStrategy[tuple[list[Delivery], list[Delivery]]]:
    return st.tuples(st.just(events), st.permutations(events * 2))


@given(st.lists(deliveries(), max_size=5).flatmap(twice_and_shuffled))
def test_order_and_repeats_change_nothing(heard: tuple[list[Delivery], list[Delivery]]) -> None:
    once, shuffled = heard

    assert _merged(shuffled, after(RECEIVED_S)) == _merged(once, after(RECEIVED_S))


@given(st.lists(deliveries(latest_s=RECEIVED_S), max_size=5).flatmap(twice_and_shuffled))
def test_where_clocks_are_right_the_time_of_receipt_changes_nothing(
    heard: tuple[list[Delivery], list[Delivery]],
) -> None:
    once, shuffled = heard
    known = generation()
    for place, event in enumerate(shuffled):
        known = known.merged(event, after(RECEIVED_S + 7 * place))

    assert known == _merged(once, after(RECEIVED_S))


@given(st.lists(deliveries(), max_size=6), deliveries())
def test_what_is_known_only_grows(events: list[Delivery], one_more: Delivery) -> None:
    before = _merged(events, after(RECEIVED_S))

    now = before.merged(one_more, after(RECEIVED_S))

    for name in LATEST:
        assert (getattr(now, name) or NOON) >= (getattr(before, name) or NOON)
    for name in EARLIEST:
        assert getattr(before, name) is None or getattr(now, name) <= getattr(before, name)
    assert now.exposed >= before.exposed


@given(deliveries())
def test_foreign_clocks_are_clamped_between_the_making_and_the_receipt(event: Delivery) -> None:
    known = generation().merged(event, after(RECEIVED_S))

    told = {*LATEST, *EARLIEST} - {"next_try_at"}  # which lies ahead
    seen = [getattr(known, name) for name in told if getattr(known, name)]
    assert all(NOON <= at <= after(RECEIVED_S) for at in seen)
    assert bool(seen) == (event.fate is not Fate.QUEUED)


def test_of_two_copies_the_first_body_and_the_last_250_count() -> None:
    known = _merged([handed_over(300, 290), handed_over(6, 5)], after(RECEIVED_S))

    assert (known.body_started_at, known.handed_over_at) == (after(5), after(300))


def test_a_hand_over_that_does_not_say_when_its_body_began_began_when_it_ended() -> None:
    known = generation().merged(Delivery(Fate.HANDED_OVER, after(6)), after(RECEIVED_S))

    assert known.body_started_at == after(6)


FATES = {
    Fate.QUEUED: [],
    Fate.DEFERRED: [Fate.DEFERRED],
    Fate.DROPPED: [Fate.DEFERRED, Fate.DROPPED],
    Fate.REFUSED: [Fate.DROPPED, Fate.REFUSED],
    Fate.HANDED_OVER: [Fate.DEFERRED, Fate.DROPPED, Fate.REFUSED, Fate.HANDED_OVER],
    Fate.BOUNCED: [Fate.HANDED_OVER, Fate.BOUNCED],
    Fate.DELIVERED: [Fate.HANDED_OVER, Fate.BOUNCED, Fate.DELIVERED],
}


@pytest.mark.parametrize(("expected", "heard"), FATES.items(), ids=str)
def test_the_fate_is_the_strongest_word_that_was_heard(expected: Fate, heard: list[Fate]) -> None:
    events = [Delivery(fate, after(10 + place)) for place, fate in enumerate(heard)]

    assert _merged(events, after(RECEIVED_S)).fate is expected
    assert _merged(events[::-1], after(RECEIVED_S)).fate is expected


def test_a_relay_that_defers_after_the_hand_over_is_deferred_until_it_delivers() -> None:
    deferred = _merged([handed_over(6), Delivery(Fate.DEFERRED, after(9))], after(RECEIVED_S))

    assert deferred.fate is Fate.DEFERRED
    assert deferred.merged(Delivery(Fate.DELIVERED, after(40)), after(RECEIVED_S)).fate is Fate.DELIVERED


def test_an_event_changes_its_generation_alone_and_the_version_by_one() -> None:
    before = challenge(generation(1), generation(2), version=7)

    now = with_delivery(before, 2, handed_over(6, 5), after(8))

    assert now is not None
    expected = generation(2, body_started_at=5, handed_over_at=6)
    assert now == replace(before, version=8, generations=(generation(1), expected))


@pytest.mark.parametrize(
    ("number", "event"),
    [(1, handed_over(6, 5)), (1, Delivery(Fate.QUEUED, after(6))), (3, handed_over(6, 5)), (0, handed_over(6, 5))],
    ids=["a repeat", "says nothing", "a generation of the future", "no generation"],
)
def test_an_event_that_says_nothing_new_changes_nothing(number: int, event: Delivery) -> None:
    known = challenge(generation(1, body_started_at=5, handed_over_at=6), generation(2))

    assert with_delivery(known, number, event, after(8)) is None


def test_a_repeat_from_a_clock_that_is_ahead_moves_the_hand_over_no_further_than_it_says() -> None:
    ahead = handed_over(30, 5)
    first = generation().merged(ahead, after(6))

    again = first.merged(ahead, after(6) + timedelta(minutes=9))

    assert (first.handed_over_at, again.handed_over_at) == (after(6), after(30))
