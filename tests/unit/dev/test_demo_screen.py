"""What a person sees of the demo: boxes that stay in line, and times that add up."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import pytest

from deploy.dev.demo_screen import INSIDE, Ink, Moment, Screen, columns, folded, padded

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "width"),
    [("Mã", 2), ("Ma\u0303", 2), ("", 0), ("漢字", 4), ("→ ✓", 3)],
    ids=["composed", "combining", "empty", "wide", "signs"],
)
def test_a_text_takes_as_many_columns_as_a_terminal_gives_it(text: str, width: int) -> None:
    assert columns(text) == width
    assert columns(padded(text, 10)) == 10


def test_a_long_line_is_folded_between_words_and_loses_none() -> None:
    line = "Không đưa mã này cho bất kỳ ai; cán bộ không bao giờ hỏi mã. " * 3

    rows = list(folded(line.strip()))

    assert " ".join(rows) == line.strip()
    assert all(columns(row) <= INSIDE for row in rows)


def test_a_word_longer_than_a_box_is_not_cut() -> None:
    assert list(folded("a " + "b" * 100)) == ["a", "b" * 100]


def test_all_rows_of_a_box_are_equally_wide() -> None:
    out = io.StringIO()

    Screen(out).box(["From:    Cổng dịch vụ công"], "Chào bạn,\n\nMa\u0303 xác nhận: 1\n" + "dài " * 40)

    assert len({columns(row) for row in out.getvalue().splitlines()}) == 1


def test_the_timeline_is_in_order_and_tells_the_time_between() -> None:
    out = io.StringIO()
    moments = [Moment(NOON + timedelta(milliseconds=12), "second", "b"), Moment(NOON, "first", "a")]

    Screen(out).timeline(moments, UTC)

    assert [row.split() for row in out.getvalue().splitlines()] == [
        ["12:00:00.000", "first", "a"],
        ["12:00:00.012", "+12", "ms", "second", "b"],
    ]


def test_there_are_no_colours_where_nobody_looks() -> None:
    out = io.StringIO()

    Screen(out).say("fine", Ink.GOOD)

    assert out.getvalue() == "   fine\n"
