"""The one folder outside the checkout that we write to, and the turn-taking of processes that fill it.

Everything in it can be made again; delete it at will.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.dev.terminal import Terminal


def cache_folder() -> Path:
    """Return `kip` below the user's cache folder (`XDG_CACHE_HOME`, else `~/.cache`); it may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kip"


@contextmanager
def one_at_a_time(lock: Path, terminal: Terminal, what: str) -> Iterator[None]:
    """Hold a lock file, waiting while another process holds it; the kernel lets go of it when its holder dies.

    Args:
        lock: the file; it and its folder are made.
        terminal: who hears that we wait.
        what: what another process may be doing, for that sentence.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            terminal.line(f"waiting: another process is {what}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
