"""The demo of the late mail: its two columns say what was seen, and no more than that of the ordinary issuer."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from deploy.dev.demo_late_story import Event, Story, in_story, ordinary_end, rows_of
from tests.fakes.clock import NOON

MINUTE = timedelta(seconds=3)
STORY = Story(
    asked_at=NOON,
    verified_at=NOON + 6.6 * MINUTE,
    verified_by=2,
    life=5 * MINUTE,
    reissued_at=NOON + 6.2 * MINUTE,
    arrived={1: NOON + 11 * MINUTE, 2: NOON + 6.5 * MINUTE},
    events=[
        Event(NOON + 0.1 * MINUTE, 1, "handed_over"),
        Event(NOON + 0.2 * MINUTE, 1, "deferred", NOON + 5.2 * MINUTE),
        Event(NOON + 6.2 * MINUTE, 1, "deferred"),
        Event(NOON + 6.3 * MINUTE, 2, "handed_over"),
        Event(NOON + 6.5 * MINUTE, 2, "delivered"),
    ],
)


def test_the_story_is_told_in_order_in_minutes_since_the_click() -> None:
    rows = rows_of(STORY, minute=MINUTE)

    told = [(in_story(row.at, STORY, minute=MINUTE), row.ours) for row in rows if row.ours]
    assert told == [
        ("00:00", "click: a code is asked for"),
        ("00:06", "letter 1 handed over: its code begins to live"),
        ("00:12", "letter 1 deferred (450), next try from 05:12 on"),
        ("06:12", "too late to be typed: a fresh code, by itself"),
        ("06:12", "letter 1 deferred (450)"),
        ("06:18", "letter 2 handed over: its code begins to live"),
        ("06:30", "letter 2 delivered"),
        ("06:36", "typed: VERIFIED with letter 2"),
        ("11:00", "the mail of letter 1 comes too; nobody needs it"),
    ]


def test_beside_it_stands_what_the_same_mails_are_to_an_issuer_whose_codes_live_from_the_click() -> None:
    theirs = [(in_story(row.at, STORY, minute=MINUTE), row.theirs) for row in rows_of(STORY, minute=MINUTE)]

    assert [told for told in theirs if told[1] and not told[1].startswith("(")] == [
        ("00:00", "click: a code is made, and begins to die"),
        ("00:06", "handed over"),
        ("05:00", "the code dies; no mail yet"),
        ("11:00", 'the mail, 6 min dead: "expired, ask again"'),
        ("11:18", "the second mail, typed: verified"),
    ]


def test_their_second_mail_is_as_fast_as_ours_was() -> None:
    slower = replace(STORY, arrived=STORY.arrived | {2: STORY.arrived[2] + MINUTE}, verified_at=NOON + 7.6 * MINUTE)

    assert ordinary_end(slower) - ordinary_end(STORY) == MINUTE


@pytest.mark.parametrize(("seconds", "shown"), [(0, "00:00"), (1.5, "00:30"), (30, "10:00"), (303, "101:00")])
def test_a_minute_of_the_story_is_as_long_as_it_is_told(seconds: float, shown: str) -> None:
    assert in_story(NOON + timedelta(seconds=seconds), STORY, minute=MINUTE) == shown
