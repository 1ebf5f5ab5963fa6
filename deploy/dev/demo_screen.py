"""How the demo looks: numbered steps, a letter in a box, a line of time. Colours only on a real terminal.

`NO_COLOR` is honoured (no-color.org). Widths count what a terminal shows: an accent that stands on the letter before it
takes no column, a wide character takes two.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from enum import StrEnum
from typing import TextIO

from deploy.dev.terminal import Terminal

INSIDE = 72  # columns of a box between its borders: with them and the margin, a terminal of 80
MARGIN = "   "


class Ink(StrEnum):
    """What a text means, as a terminal's colour."""

    PLAIN = ""
    STRONG = "1"
    FAINT = "2"
    GOOD = "1;32"
    WARN = "1;33"
    LETTER = "36"


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happened."""

    at: datetime
    what: str
    where: str


class Screen:
    """Shows the demo.

    Args:
        stream: where to.
    """

    def __init__(self, stream: TextIO) -> None:
        self._terminal = Terminal(stream)
        self._in_colour = stream.isatty() and not os.environ.get("NO_COLOR")
        self._steps = 0
        self.for_the_stack: Terminal = _Aside(stream, self)
        """Where the launcher may speak: under the present step, in a low voice."""

    def paint(self, text: str, ink: Ink) -> str:
        """Return the text in its colour, or as it is."""
        return f"\x1b[{ink}m{text}\x1b[0m" if self._in_colour and ink else text

    def title(self, text: str) -> None:
        """Say what this is."""
        self._terminal.line(self.paint(text, Ink.STRONG))

    def step(self, text: str) -> None:
        """Begin the next step of the story."""
        self._steps += 1
        self._terminal.line(f"\n{self.paint(f'{self._steps}  {text}', Ink.STRONG)}")

    def say(self, text: str, ink: Ink = Ink.PLAIN) -> None:
        """Say a line of the present step."""
        self._terminal.line(f"{MARGIN}{self.paint(text, ink)}")

    def last_line(self, text: str) -> None:
        """Say how it ended, at the margin, where people and scripts look."""
        self._terminal.line(f"\n{text}")

    def box(self, head: Sequence[str], body: str) -> None:
        """Show a letter: lines of its head, and its words, folded where they are too long."""
        edge = "─" * (INSIDE + 2)
        self.say(f"╭{edge}╮", Ink.LETTER)
        for line in head:
            self._rows(line, Ink.FAINT)
        self.say(f"├{edge}┤", Ink.LETTER)
        for line in body.splitlines():
            self._rows(line, Ink.PLAIN)
        self.say(f"╰{edge}╯", Ink.LETTER)

    def timeline(self, moments: Sequence[Moment], zone: tzinfo) -> None:
        """Show what happened, earliest first: when, how long after the moment before, what, and where."""
        before: datetime | None = None
        widest = max(columns(moment.what) for moment in moments)
        for moment in sorted(moments, key=lambda moment: moment.at):
            clock = f"{moment.at.astimezone(zone):%H:%M:%S.%f}"[:-3]  # milliseconds
            since = "" if before is None else f"+{(moment.at - before).total_seconds() * 1000:.0f} ms"
            self.say(
                f"{self.paint(clock, Ink.STRONG)} {since:>9}  {padded(moment.what, widest)}"
                f"  {self.paint(moment.where, Ink.FAINT)}"
            )
            before = moment.at

    def _rows(self, text: str, ink: Ink) -> None:
        border = self.paint("│", Ink.LETTER)
        for row in folded(text):
            self._terminal.line(f"{MARGIN}{border} {self.paint(padded(row, INSIDE), ink)} {border}")


class _Aside(Terminal):
    def __init__(self, stream: TextIO, screen: Screen) -> None:
        super().__init__(stream)
        self._screen = screen

    def line(self, text: str) -> None:
        super().line(f"{MARGIN}{self._screen.paint(text, Ink.FAINT)}")

    def progress(self, text: str) -> None:
        super().progress(f"{MARGIN}{self._screen.paint(text, Ink.FAINT)}")


def columns(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    return sum(
        0 if unicodedata.combining(character) else 1 + (unicodedata.east_asian_width(character) in "WF")
        for character in text
    )


def padded(text: str, width: int) -> str:
    """Fill a text up with spaces to a number of columns."""
    return text + " " * max(0, width - columns(text))


def folded(text: str) -> Iterator[str]:
    """Break a line between words, each part as wide as a box at most; a longer word stands out rather than be cut."""
    line = ""
    for word in text.split(" "):
        longer = f"{line} {word}" if line else word
        if line and columns(longer) > INSIDE:
            yield line
            longer = word
        line = longer
    yield line
