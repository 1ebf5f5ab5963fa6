"""Stacks of real servers and one tiny service, for tests of the launcher; also a launcher of its own to be interrupted.

python -m tests.integration.dev.tiny_stack stack DIRECTORY     starts a stack, says "up", waits for the end
python -m tests.integration.dev.tiny_stack up DIRECTORY        as `make up`
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from deploy.dev.laptop import Laptop
from deploy.dev.ports import FreePort, is_free
from deploy.dev.process_table import OFFSETS, ProcessSpec
from deploy.dev.stack import Stack
from deploy.dev.terminal import Terminal

TINY = ProcessSpec(
    "tiny",
    "tests.integration.dev.tiny_service",
    ports=("http",),
    environment={"TINY_HTTP_ADDRESS": "{tiny.http}", "TINY_KAFKA": "{kafka}", "TINY_PLACE": "{directory}"},
)


def tiny_stack(directory: Path, terminal: Terminal | None = None, **settings: str) -> Stack:
    """Return a stack on free ports whose tiny service gets more environment."""
    return Stack(directory, processes=(TINY,), topics=(), settings={"tiny": settings}, terminal=terminal)


def tiny_laptop(directory: Path, terminal: Terminal) -> Laptop:
    """Return the commands for the same stack on fixed ports; the tiny service's is free."""
    return Laptop(directory, terminal, processes=(TINY,), topics=(), is_watched=False)


def free_base() -> FreePort:
    """Return where fixed ports may begin; nobody else gets it while this is kept."""
    room = max(OFFSETS.values()) + 1
    while True:
        base = FreePort(range(10_000, 20_000, room))
        if all(is_free(base.number + offset) for offset in OFFSETS.values()):
            return base


def main() -> None:
    """Run one of the launchers above."""
    command, directory = sys.argv[1], Path(sys.argv[2])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    terminal = Terminal(sys.stdout)
    if command == "up":
        sys.exit(tiny_laptop(directory, terminal).up())
    with tiny_stack(directory, terminal):
        terminal.line("up")
        signal.pause()


if __name__ == "__main__":
    main()
