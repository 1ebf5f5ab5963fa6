"""CPU time of running processes, read from /proc (proc_pid_stat(5)), and which cores they may use."""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

TICK_S = 1 / os.sysconf("SC_CLK_TCK")  # 10 ms on Linux: 0.3 % of a phase of four seconds


@dataclass(frozen=True, slots=True)
class _Process:
    pid: int
    parent: int
    own_s: float
    """User and system time of all its threads, also of those that have ended."""
    ended_children_s: float


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process and all its descendants have used so far, also those that have ended."""
    return sum(process.own_s + process.ended_children_s for process in _tree(pid))


def own_cores(*, service: bool) -> list[int]:
    """Return the cores of the service (one), or of everything else; on a machine of one core, the same one for both."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) == 1:
        return cores
    return cores[-1:] if service else cores[:-1]


def pin(pid: int, cores: Collection[int]) -> None:
    """Let a process, its descendants and all their threads run on these cores only; what they start inherits it."""
    for process in _tree(pid):
        for thread in Path(f"/proc/{process.pid}/task").glob("*"):
            with suppress(ProcessLookupError):  # it ended meanwhile
                os.sched_setaffinity(int(thread.name), cores)


def _tree(root: int) -> list[_Process]:
    processes = [found for folder in Path("/proc").glob("[0-9]*") if (found := _find(int(folder.name)))]
    tree = [process for process in processes if process.pid == root]
    for process in tree:  # grows while it is walked
        tree += [child for child in processes if child.parent == process.pid]
    return tree


def _find(pid: int) -> _Process | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:  # it ended meanwhile
        return None
    fields = stat.rpartition(")")[2].split()  # the name before it may hold spaces; the first field is now number 3
    user, system, children_user, children_system = (int(ticks) * TICK_S for ticks in fields[11:15])
    return _Process(pid, int(fields[1]), user + system, children_user + children_system)
