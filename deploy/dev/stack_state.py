"""What `up` leaves behind for `down`, `status` and `logs`: which processes it started, and where they answer.

A process is remembered with its start time, because the kernel gives numbers out again: one that merely has the number
of ours is never touched.
"""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from deploy.dev.orphan_guard import find_start_time
from deploy.dev.problem import LaptopProblem

LOOK_EVERY_S = 0.05


@dataclass(frozen=True, slots=True)
class RememberedProcess:
    """A process of the stack that this process did not start.

    Attributes:
        name: of the process in the table.
        pid: it also leads a process group of that number.
        started: its start time in clock ticks since boot.
        is_service: stopped before the servers.
    """

    name: str
    pid: int
    started: str
    is_service: bool

    def is_alive(self) -> bool:
        """Tell whether this very process still runs."""
        return find_start_time(self.pid) == self.started

    def terminate(self) -> None:
        """Ask it to stop."""
        if self.is_alive():
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    def ended_within(self, deadline: float) -> bool:
        """Wait for its end until a moment of `time.monotonic()`, then kill it; tell whether it ended by itself."""
        while self.is_alive():
            if time.monotonic() > deadline:
                with suppress(ProcessLookupError):
                    os.killpg(self.pid, signal.SIGKILL)
                return False
            time.sleep(LOOK_EVERY_S)
        return True


@dataclass(frozen=True, slots=True)
class StackState:
    """A stack that was started and left running.

    Attributes:
        processes: in the order of their start.
        addresses: `host:port` by name.
    """

    processes: tuple[RememberedProcess, ...]
    addresses: dict[str, str]

    def write(self, file: Path) -> None:
        """Keep it; a reader sees the old or the new file, never half of one."""
        fresh = file.with_name(f"{file.name}.new")
        fresh.write_text(json.dumps(asdict(self), indent=1))
        fresh.replace(file)


def find_state(file: Path) -> StackState | None:
    """Read what `write` kept; None when there is nothing.

    Raises:
        LaptopProblem: the file is not ours or was damaged.
    """
    try:
        content = json.loads(file.read_text())
        processes = tuple(RememberedProcess(**process) for process in content["processes"])
        return StackState(processes, dict(content["addresses"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise LaptopProblem(
            f"{file} cannot be read, so what runs is not known. Look with `ps`, stop it, and delete the file.",
        ) from error
