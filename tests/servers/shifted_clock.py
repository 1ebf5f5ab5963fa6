"""A clock of a process that can be set while it runs: Debian's libfaketime, preloaded, with the shift in a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

HOW_TO_GET = "apt-get install --no-install-recommends libfaketime"


def find_library() -> Path | None:
    """Return the library, wherever this system keeps it; None: not installed."""
    return next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)


def why_missing() -> str | None:
    """Say how to get it; None when it is there."""
    return None if find_library() else f"libfaketime is not installed; get it: {HOW_TO_GET}"


class ShiftedClock:
    """The wall clock of whatever runs with `environment`; durations are measured as ever.

    Args:
        file: holds the shift; the processes look at it every second.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.shift(0)

    def shift(self, seconds: float) -> None:
        """Set it that far ahead of the true time."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{seconds:+g}\n")
        fresh.replace(self._file)

    def environment(self) -> Mapping[str, str]:
        """Return what a process needs in its environment to have this clock."""
        return {
            "LD_PRELOAD": str(find_library()),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
