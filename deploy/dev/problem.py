"""What can go wrong on a laptop that its owner can put right.

Each problem is told in plain words and says what to do next; the commands print it and exit with 1, without a
traceback.
"""

from __future__ import annotations

import errno
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

FULL_BELOW_MB = 5


class LaptopProblem(Exception):
    """Something the owner of this machine can put right; the text is a sentence for them and says how."""


def told_in_words(command: Callable[[], int]) -> int:
    """Run a command for a person and return its exit code: 1 after a problem, 130 when it was broken off.

    Being terminated or losing the terminal counts as Ctrl-C, so that whatever was started is stopped on the way out.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        return command()
    except LaptopProblem as problem:
        sys.stdout.flush()
        print(f"\n{problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        sys.stdout.flush()
        print("\nBroken off.", file=sys.stderr)
        return 130


@contextmanager
def disk_full_told(folder: Path) -> Iterator[None]:
    """Turn "no space left" into a sentence that names the disk of `folder`.

    Raises:
        LaptopProblem: the disk is full, or the user's share of it is.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        raise LaptopProblem(no_space(error.filename or folder)) from error


def no_space(where: object) -> str:
    """Say that the disk of a file or folder is full."""
    return f"No space is left on the disk of {where}. Free some (the whole stack needs about 1 GB) and run it again."


def is_full(folder: Path) -> bool:
    """Tell whether a disk is so full that its writers fail; then their logs may be empty."""
    return _free_mb(folder) < FULL_BELOW_MB


def refuse_small_disk(folder: Path, need_mb: int, what: str) -> None:
    """Refuse to begin what cannot end: look at the free space before any work.

    Raises:
        LaptopProblem: less than `need_mb` megabytes are free where `folder` is or would be made.
    """
    free_mb = _free_mb(folder)
    if free_mb < need_mb:
        raise LaptopProblem(
            f"{what} needs {need_mb} MB in {folder}, and only {free_mb} MB are free there. Free some and run it again.",
        )


def _free_mb(folder: Path) -> int:
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    return shutil.disk_usage(existing).free // 1_000_000
