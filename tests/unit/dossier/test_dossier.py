from __future__ import annotations

import re
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.dossier.rules.dossier import (
    ALPHABET,
    BUCKETS,
    Dossier,
    DossierId,
    Order,
    bucket_of,
    has_done,
    move_of,
    moved,
    number_of,
    opening_of,
)
from services.dossier.rules.notice import Fate
from services.dossier.rules.procedure import Procedure, State
from tests.fakes.dossier import BOOK, NOON, QUIET, Dice, filing

ID = DossierId("6f6e1f4e-4c3b-4b8e-9d0a-0c4b5f0f7d11")
TRACE = {"traceparent": "00-1-2-01"}


def _opened(procedure: Procedure = BOOK) -> Dossier:
    return opening_of(
        filing(procedure.code), procedure, dossier_id=ID, number="K01-261125-7F3K2M", by="portal", now=NOON, trace=TRACE
    ).dossier


def _order(to: State, *, seen: int = 1, remark: str = "", by: str = "portal") -> Order:
    return Order(ID, seen, to, remark, by, TRACE)


@given(st.lists(st.integers(min_value=0, max_value=31), min_size=6, max_size=6))
def test_a_number_is_agency_date_and_six_of_base32(drawn: list[int]) -> None:
    number = number_of("K01", NOON, Dice(*drawn))

    assert re.fullmatch(f"K01-261125-[{ALPHABET}]{{6}}", number)


def test_a_number_draws_each_character_from_the_whole_alphabet() -> None:
    dice = Dice(0, 31, 18, 19, 20, 27)

    number = number_of("K01", NOON, dice)

    assert number.endswith("-0ZJKMV")
    assert dict(dice.faces) == {32: 6}


def test_the_alphabet_has_nothing_to_misread() -> None:
    assert len(set(ALPHABET)) == 32
    assert not set("ILOU") & set(ALPHABET)


def test_the_date_in_a_number_is_the_offices_own() -> None:
    late_evening_in_utc = datetime(2026, 11, 25, 17, 0, tzinfo=UTC)

    assert number_of("K01", late_evening_in_utc, Dice()).startswith("K01-261126-")


def test_a_bucket_is_the_same_in_years() -> None:
    assert bucket_of(ID) == 8


def test_dossiers_spread_over_all_buckets() -> None:
    buckets = {bucket_of(DossierId(str(uuid.uuid5(uuid.NAMESPACE_OID, str(n))))) for n in range(2_000)}

    assert buckets == set(range(BUCKETS))


def test_a_new_dossier_is_registered_at_version_one_and_its_notice_is_queued() -> None:
    dossier = _opened()

    assert (dossier.version, dossier.state, dossier.opened_at) == (1, State.REGISTERED, NOON)
    (step,) = dossier.steps
    assert step.notice is not None
    assert (step.notice.fate, step.notice.at) == (Fate.QUEUED, NOON)


def test_opening_wishes_for_the_first_letter() -> None:
    opening = opening_of(filing(), BOOK, dossier_id=ID, number="N", by="portal", now=NOON, trace=TRACE)

    assert opening.wish is not None
    assert opening.dossier.steps[0].notice is not None
    assert (opening.wish.notice_id, opening.wish.letter, opening.wish.trace) == (
        opening.dossier.steps[0].notice.id,
        "dossier-opened",
        TRACE,
    )


def test_a_procedure_may_open_in_silence() -> None:
    opening = opening_of(filing("quiet"), QUIET, dossier_id=ID, number="N", by="portal", now=NOON, trace=TRACE)

    assert opening.wish is None
    assert opening.dossier.steps[0].notice is None


def test_a_move_makes_the_next_version_and_wishes_for_a_letter() -> None:
    dossier = _opened()

    move = move_of(dossier, _order(State.ACCEPTED, remark="Hẹn 3/12"), BOOK, NOON + timedelta(hours=1))

    assert moved(dossier, move).version == 2
    assert moved(dossier, move).state is State.ACCEPTED
    assert move.wish is not None
    assert (move.wish.letter, move.wish.parameters["remark"]) == ("dossier-advanced", "Hẹn 3/12")
    assert move.wish.parameters["state_vi"] == "Được tiếp nhận"


def test_a_silent_move_wishes_for_nothing() -> None:
    accepted = moved(_opened(), move_of(_opened(), _order(State.ACCEPTED), BOOK, NOON))

    move = move_of(accepted, _order(State.IN_PROGRESS, seen=2), BOOK, NOON)

    assert move.wish is None
    assert move.step.notice is None


def test_the_very_same_order_is_known_again() -> None:
    order = _order(State.ACCEPTED, remark="Hẹn 3/12")
    dossier = moved(_opened(), move_of(_opened(), order, BOOK, NOON))

    assert has_done(dossier, order)


@pytest.mark.parametrize(
    "other",
    [
        _order(State.REJECTED, remark="Hẹn 3/12"),
        _order(State.ACCEPTED, remark="Hẹn 4/12"),
        _order(State.ACCEPTED, remark="Hẹn 3/12", by="counter"),
        _order(State.ACCEPTED, remark="Hẹn 3/12", seen=2),
    ],
)
def test_an_order_that_differs_in_anything_is_another_one(other: Order) -> None:
    dossier = moved(_opened(), move_of(_opened(), _order(State.ACCEPTED, remark="Hẹn 3/12"), BOOK, NOON))

    assert not has_done(dossier, other)


def test_opening_is_no_move_that_could_be_repeated() -> None:
    assert not has_done(_opened(), _order(State.REGISTERED, seen=0))


def test_printing_a_filing_or_a_step_shows_nothing_personal() -> None:
    move = move_of(_opened(), _order(State.ACCEPTED, remark="Lan"), BOOK, NOON)

    assert "lan" not in f"{filing()!r} {move!r} {_order(State.ACCEPTED, remark='Lan')!r}".lower()
    assert "citizen-7" not in repr(filing())
