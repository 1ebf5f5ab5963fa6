"""The story of a late mail in two columns: what happened, and what an ordinary issuer makes of the same mails.

The ordinary issuer is the one of the newspapers: the code lives from the click, whoever types it later is told to ask
again, and nobody hears what the relay does. Its mails take as long as ours did.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class Event:
    """Something that was told of a letter."""

    at: datetime
    letter: int
    """Of the challenge; 1 for the first."""
    what: str
    """`handed_over`, `deferred` or `delivered`."""
    next_try_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Story:
    """What happened to one challenge whose first letter was late."""

    asked_at: datetime
    verified_at: datetime
    verified_by: int
    """Which letter's code."""
    life: timedelta
    reissued_at: datetime
    arrived: dict[int, datetime]
    """When each letter was in the mailbox."""
    events: Sequence[Event]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; an empty column says nothing."""

    at: datetime
    ours: str = ""
    theirs: str = ""


def rows_of(story: Story, *, minute: timedelta) -> list[Row]:
    """Return the table, earliest first; `minute` is what a minute of the story takes."""
    rows = [
        Row(story.asked_at, "click: a code is asked for", "click: a code is made, and begins to die"),
        Row(story.reissued_at, "too late to be typed: a fresh code, by itself"),
        *_told(story, minute),
        *_arrived(story),
        Row(story.verified_at, f"typed: VERIFIED with letter {story.verified_by}"),
        *_ordinary(story, minute),
    ]
    return sorted(rows, key=lambda row: row.at)


def ordinary_end(story: Story) -> datetime:
    """Return when the citizen of the ordinary issuer is through: the first mail was late, and they ask once more.

    The second mail of that citizen takes as long as ours of the last letter took.
    """
    last = max(story.arrived)
    handed_over = min(event.at for event in story.events if (event.letter, event.what) == (last, "handed_over"))
    typing = story.verified_at - story.arrived[story.verified_by]
    return story.arrived[1] + (story.arrived[last] - handed_over) + typing


def in_story(at: datetime, story: Story, *, minute: timedelta) -> str:
    """Return an instant as minutes and seconds since the click."""
    seconds = round((at - story.asked_at) / minute * 60)
    return f"{seconds // 60:02}:{seconds % 60:02}"


def _told(story: Story, minute: timedelta) -> Iterator[Row]:
    for event in story.events:
        name = f"letter {event.letter}"
        match event.what:
            case "handed_over":
                theirs = "handed over" if event.letter == 1 else ""
                yield Row(event.at, f"{name} handed over: its code begins to live", theirs)
            case "deferred":
                again = in_story(event.next_try_at, story, minute=minute) if event.next_try_at else ""
                told = f"{name} deferred (450)" + (f", next try from {again} on" if again else "")
                yield Row(event.at, told, "(nobody hears of it)" if event.letter == 1 else "")
            case _:
                yield Row(event.at, f"{name} delivered")


def _arrived(story: Story) -> Iterator[Row]:
    for letter, at in story.arrived.items():
        if at > story.verified_at:
            yield Row(at, f"the mail of letter {letter} comes too; nobody needs it")


def _ordinary(story: Story, minute: timedelta) -> Iterator[Row]:
    dies_at = story.asked_at + story.life
    late = round((story.arrived[1] - dies_at) / minute)
    yield Row(dies_at, "", "the code dies; no mail yet")
    yield Row(story.arrived[1], "", f'the mail, {late} min dead: "expired, ask again"')
    yield Row(ordinary_end(story), "", "the second mail, typed: verified")
