from __future__ import annotations

from dataclasses import replace

from services.dossier.rules.procedure import STATE_NAMES, Procedure, State, problems
from tests.fakes.dossier import BOOK


def _with_moves(**moves: list[str]) -> Procedure:
    graph = {State[start.upper()]: {State[to.upper()]: True for to in targets} for start, targets in moves.items()}
    return replace(BOOK, moves=graph)


def test_every_state_has_a_name_in_both_languages() -> None:
    assert set(STATE_NAMES) == set(State)
    assert all(name.vi and name.en for name in STATE_NAMES.values())


def test_allowed_moves_are_told_by_rising_code() -> None:
    assert BOOK.allowed_from(State.IN_PROGRESS) == (State.PAPERS_NEEDED, State.DONE)


def test_an_end_allows_no_move() -> None:
    assert BOOK.allowed_from(State.DONE) == ()


def test_a_move_says_whether_it_mails() -> None:
    assert BOOK.mails(State.REGISTERED, State.ACCEPTED)
    assert not BOOK.mails(State.ACCEPTED, State.IN_PROGRESS)


def test_a_sound_procedure_has_no_problems() -> None:
    assert problems(BOOK) == []


def test_a_state_that_nothing_leads_to_is_a_problem() -> None:
    procedure = _with_moves(registered=["done"], papers_needed=["done"])

    assert problems(procedure) == ["no way leads from registered to papers_needed"]


def test_a_circle_without_a_way_out_is_a_problem() -> None:
    procedure = _with_moves(registered=["done", "in_progress"], in_progress=["stopped"], stopped=["in_progress"])

    assert problems(procedure) == [
        "no way leads from in_progress to an end",
        "no way leads from stopped to an end",
    ]


def test_a_circle_with_a_way_out_is_none() -> None:
    procedure = _with_moves(
        registered=["in_progress"], in_progress=["papers_needed", "done"], papers_needed=["in_progress"]
    )

    assert problems(procedure) == []


def test_a_move_to_the_same_state_is_a_problem() -> None:
    assert problems(_with_moves(registered=["done", "accepted"], accepted=["accepted", "done"])) == [
        "accepted leads to itself"
    ]


def test_a_way_back_to_the_start_is_a_problem() -> None:
    procedure = _with_moves(registered=["accepted", "done"], accepted=["registered"])

    assert problems(procedure) == ["a move leads back to registered, where a dossier only starts"]


def test_all_problems_are_told_at_once() -> None:
    procedure = _with_moves(registered=["registered"], stopped=["done"])

    assert len(problems(procedure)) == 4
