"""Shows what all processes write, as they write it, each line with its writer's name before it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TextIO

LOOK_EVERY_S = 0.2
FIRST_LINES = 5  # of each log, so that one sees where things stand
COLOURS = (36, 33, 32, 35, 34, 31, 96, 93)  # of ANSI terminals, dealt out in the order of the logs' names


class LogFollower:
    """Follows every log of a folder, also those that appear later.

    Args:
        folder: where the logs are.
        out: where lines go.
        in_colour: whether names are coloured.
    """

    def __init__(self, folder: Path, out: TextIO, *, in_colour: bool) -> None:
        self._folder = folder
        self._out = out
        self._in_colour = in_colour
        self._positions: dict[Path, int] = {}
        self._colours: dict[Path, int] = {}

    def follow(self, ended: threading.Event) -> None:
        """Show lines until `ended` is set.

        Raises:
            BrokenPipeError: the reader of `out` went away.
        """
        while True:
            for log in sorted(self._folder.glob("*.log")):
                self._show_news(log)
            self._out.flush()
            if ended.wait(LOOK_EVERY_S):
                return

    def _show_news(self, log: Path) -> None:
        if log not in self._positions:
            self._positions[log] = _start_of_last_lines(log)
            self._colours[log] = COLOURS[len(self._colours) % len(COLOURS)]
        if log.stat().st_size < self._positions[log]:  # the stack was started anew
            self._positions[log] = 0
        with log.open("rb") as file:
            file.seek(self._positions[log])
            news = file.read()
        whole = news[: news.rfind(b"\n") + 1]  # half a line waits for its other half
        self._positions[log] += len(whole)
        for line in whole.decode(errors="replace").splitlines():
            self._out.write(f"{self._prefix(log)} {line}\n")

    def _prefix(self, log: Path) -> str:
        name = f"{log.stem:9}|"
        return f"\x1b[{self._colours[log]}m{name}\x1b[0m" if self._in_colour else name


def _start_of_last_lines(log: Path) -> int:
    content = log.read_bytes()
    lines = content.splitlines(keepends=True)
    return len(content) - sum(map(len, lines[-FIRST_LINES:]))
