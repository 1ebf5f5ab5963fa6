"""A process that does one thing of `services/chassis/process.py`, told by its one argument.

| mode | what it does |
| --- | --- |
| `serve` | comes up and serves |
| `wait` | waits for a dependency that never comes |
| `drain` | serves, and needs 1 s to close |
| `hang` | serves, and needs a minute to close |
| `part-fails` | comes up, then one of its parts fails |
| `part-ends` | comes up, then one of its parts ends without being asked to |
| `start-fails` | fails before it is up |
| `close-fails` | serves, and fails to close |
| `deaf-part` | serves, with a part that hears only the second cancellation |
| `collected` | serves, and says `spared` when the collector has less to look through than it was spared |
| `lingering-thread` | serves, with a thread that never ends |

It says `up` once signals are handled and it is where the mode wants it, and `closed` when everything is closed.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from services.chassis.process import Stopping, run, until_stopped
from services.chassis.retry import patiently
from services.chassis.telemetry import configure_telemetry

CLOSING_S = {"drain": 1, "hang": 60}


def say(word: str) -> None:
    """Write a line for the test."""
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


async def dependency() -> None:
    """Be away."""
    raise ConnectionError("nobody there")


@asynccontextmanager
async def opened(mode: str) -> AsyncIterator[None]:
    """Stand for everything that a service opens and closes."""
    try:
        yield
    finally:
        await asyncio.sleep(CLOSING_S.get(mode, 0))
        if mode == "close-fails":
            raise ConnectionResetError("cannot close")
        say("closed")


async def part(mode: str) -> None:
    """Stand for a part that lives as long as the process."""
    if mode == "part-fails":
        raise ZeroDivisionError("a bug of a part")
    if mode == "deaf-part":
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
    if mode == "collected":
        say("spared" if gc.get_freeze_count() > len(gc.get_objects()) else "not spared")
    if mode != "part-ends":
        await asyncio.Event().wait()


async def serve(stopping: Stopping) -> None:
    """Do what the mode says."""
    mode = sys.argv[1]
    async with opened(mode):
        if mode == "start-fails":
            raise OSError("cannot listen on 127.0.0.1:1: is the port in use?")
        if mode == "wait":
            say("up")
            await patiently(dependency, what="nobody", on=(ConnectionError,))
        if mode == "lingering-thread":
            threading.Thread(target=threading.Event().wait).start()
        say("up")
        await until_stopped(stopping, part(mode))


if __name__ == "__main__":
    configure_telemetry("tiny")
    run(serve)
