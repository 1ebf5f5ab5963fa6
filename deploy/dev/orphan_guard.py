"""Ends a server when the process that started it dies without stopping it, even by kill -9.

A guard is a shell of a few hundred kilobytes that waits on a pipe held only by the starter. A line in the pipe
releases it. The end of the pipe without a line means that the starter is gone: then the guard kills the server's
process group, unless the server's number has gone to another process meanwhile (its start time, field 22 of
proc_pid_stat(5), differs).
"""

from __future__ import annotations

import subprocess
from pathlib import Path

WATCH = 'read -r _ && exit; read -r stat < "/proc/$1/stat" && case "$stat" in *" $2 "*) kill -s KILL -- "-$1" ;; esac'


def find_start_time(pid: int) -> str | None:
    """Return when a live process started, in clock ticks since boot; None when it is gone or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *fields = stat.rpartition(") ")[2].split()  # the name before it may hold anything
    return None if state == "Z" else fields[18]


class OrphanGuard:
    """Watches over one process group, led by `pid`, from now until it is released."""

    def __init__(self, pid: int) -> None:
        started = find_start_time(pid) or "gone"
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", WATCH, "kip-orphan-guard", str(pid), started],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C at the terminal must not end the guard before its starter
        )

    def release(self) -> None:
        """Let the guarded process live on, or rest; may be called twice."""
        if self._shell.returncode is None:
            self._shell.communicate(b"released\n")
