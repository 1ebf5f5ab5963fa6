"""Finds what a test left running: every process whose command line or environment names its folder."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def processes_of(folder: Path) -> dict[int, str]:
    """Return the command lines, by number, of live processes that a folder's name appears in."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile, or belongs to somebody else
            command = (process / "cmdline").read_bytes()
            if str(folder).encode() in command + (process / "environ").read_bytes():
                found[int(process.name)] = command.replace(b"\0", b" ").decode(errors="replace")
    return found
