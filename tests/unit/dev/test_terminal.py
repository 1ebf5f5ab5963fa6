"""The launcher's words: lines stay, progress is rewritten on a terminal and unsaid elsewhere."""

from __future__ import annotations

import io

from deploy.dev.terminal import Terminal


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_file_gets_lines_and_no_progress() -> None:
    file = io.StringIO()
    terminal = Terminal(file)

    terminal.progress("1 of 2")
    terminal.line("done")

    assert file.getvalue() == "done\n"


def test_a_screen_sees_progress_replaced_by_the_next_word() -> None:
    screen = Screen()
    terminal = Terminal(screen)

    terminal.progress("1 of 2")
    terminal.progress("2 of 2")
    terminal.line("done")

    assert screen.getvalue() == "\r\x1b[K1 of 2\r\x1b[K2 of 2\r\x1b[Kdone\n"


def test_a_silent_terminal_says_nothing() -> None:
    Terminal(None).line("into the void")
