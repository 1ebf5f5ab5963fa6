"""A typed code under a key: found again for a minute, and lost only when its repeat would cost nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.otp.rules.entry import (
    MOST_ENTRIES,
    REPEATED_WITHIN,
    Answer,
    Attempt,
    Entry,
    EntryName,
    entry_named,
    with_answer,
    with_entry,
)
from tests.unit.otp.made_up import MS, after

MINUTE_S = REPEATED_WITHIN.total_seconds()
COSTLESS = ["used", "expired"]
DEAR = ["accepted", "wrong", None]


def _entry(key: str, *, at: float = 0, word: str | None = None) -> Entry:
    answer = Answer(word) if word else None
    return Entry(EntryName(key.encode(), b"typed"), Attempt(after(at), row_before=None), answer)


def _keys(entries: tuple[Entry, ...]) -> list[str]:
    return [entry.name.key.decode() for entry in entries]


def test_an_entry_is_found_by_its_key_for_a_minute() -> None:
    entries = (_entry("a", at=0), _entry("b", at=1))

    assert MINUTE_S == 60
    assert entry_named(entries, b"b", after(2)) == entries[1]
    assert entry_named(entries, b"a", after(60)) == entries[0]
    assert entry_named(entries, b"a", after(60) + MS) is None
    assert entry_named(entries, b"c", after(2)) is None
    assert entry_named((), b"a", after(2)) is None


def test_a_new_entry_stands_behind_the_young_ones_and_drives_the_old_ones_out() -> None:
    entries = (_entry("old", at=0), _entry("young", at=0.001))

    kept = with_entry(entries, _entry("new", at=60.001), after(60) + MS)

    assert _keys(kept) == ["young", "new"]


def test_an_answer_goes_to_its_entry_and_to_no_other() -> None:
    entries = (_entry("a"), _entry("b"), _entry("c", word="used"))

    answered = with_answer(entries, b"b", Answer("wrong", attempts_left=2))

    assert answered == (entries[0], Entry(entries[1].name, entries[1].attempt, Answer("wrong", 2)), entries[2])


def test_an_answer_to_an_entry_that_is_gone_is_kept_nowhere() -> None:
    entries = (_entry("a"),)

    assert with_answer(entries, b"gone", Answer("used")) == entries


def test_there_is_room_for_as_many_as_may_be_kept() -> None:
    entries: tuple[Entry, ...] = ()
    for number in range(MOST_ENTRIES):
        entries = with_entry(entries, _entry(f"k{number}", word="used"), after(1))

    assert _keys(entries) == [f"k{number}" for number in range(MOST_ENTRIES)]


@pytest.mark.parametrize("word", COSTLESS)
def test_above_the_limit_the_oldest_that_cost_nothing_goes_first(word: str) -> None:
    dear = [_entry(f"dear-{number}", word="wrong") for number in range(MOST_ENTRIES - 2)]
    full = (dear[0], _entry("first", word=word), _entry("second", word=word), *dear[1:])

    kept = with_entry(full, _entry("new"), after(1))

    assert len(kept) == MOST_ENTRIES
    assert set(_keys(full)) - set(_keys(kept)) == {"first"}
    assert _keys(kept)[-1] == "new"


def test_only_among_the_dear_ones_alone_the_oldest_goes() -> None:
    full = tuple(_entry(f"k{number}", word="wrong") for number in range(MOST_ENTRIES))

    kept = with_entry(full, _entry("new"), after(1))

    assert _keys(kept) == [*_keys(full)[1:], "new"]


@given(words=st.lists(st.sampled_from([*COSTLESS, *DEAR]), max_size=60))
def test_wrong_accepted_and_unanswered_ones_stay_while_they_are_young(words: list[str | None]) -> None:
    """As many of them as a challenge can have within a minute: its subject is locked after ten."""
    entries: tuple[Entry, ...] = ()
    dear: list[str] = []
    for number, word in enumerate(words):
        if word in DEAR and len(dear) == MOST_ENTRIES - 2:
            continue
        if word in DEAR:
            dear.append(f"k{number}")
        entries = with_entry(entries, _entry(f"k{number}", at=number, word=word), after(number))

        assert len(entries) <= MOST_ENTRIES
        assert set(dear) <= set(_keys(entries))
