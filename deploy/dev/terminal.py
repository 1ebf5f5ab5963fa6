"""How the launcher speaks to a person: lines that stay, and one line that is rewritten while something takes long."""

from __future__ import annotations

import threading
from typing import TextIO

CLEAR_LINE = "\r\x1b[K"


class Terminal:
    """Writes to a stream from any thread; rewrites a line only on a real terminal.

    Args:
        stream: where to; None to say nothing.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._can_rewrite = stream is not None and stream.isatty()
        self._turn = threading.Lock()

    def line(self, text: str) -> None:
        """Say one line that stays."""
        with self._turn:
            self._write(f"{CLEAR_LINE if self._can_rewrite else ''}{text}\n")

    def progress(self, text: str) -> None:
        """Say how far something is; the next word of any kind replaces it. Nothing is said to a file or a pipe."""
        with self._turn:
            if self._can_rewrite:
                self._write(f"{CLEAR_LINE}{text}")

    def _write(self, text: str) -> None:
        if self._stream is not None:
            self._stream.write(text)
            self._stream.flush()
