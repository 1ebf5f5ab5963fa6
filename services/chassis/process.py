"""How a process lives: it starts its parts in order, serves until SIGTERM or a part fails, and closes them in reverse.

Exit codes: 0 after SIGTERM or SIGINT, 1 when a part failed, 2 for bad settings. A second signal ends the process at
once: somebody means it.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog

EXIT_FAILED = 1
EXIT_HURRIED = 130
YOUNG_OBJECTS = 10_000
"""How many more objects than at the last look make the collector look again. Its own 700 is what a few calls in hand
hold: it looked every six calls. Garbage in circles waits for longer now, in a megabyte or two."""
CANCELLED_WITHIN_S = 0.5  # before a task that goes on is cancelled once more


def run(serve: Callable[[Stopping], Coroutine[None, None, None]]) -> None:
    """Run `serve(stopping)` to its end and exit the interpreter with the process's exit code.

    Args:
        serve: opens everything, waits until `stopping` is set, closes everything. It returns when all is closed.
    """
    asyncio.run(_to_the_end(serve))


async def _to_the_end(serve: Callable[[Stopping], Coroutine[None, None, None]]) -> None:
    """Serve, then exit inside the loop: `asyncio.run` would first wait, without end, for tasks that refuse to end.

    Faust's do when its start was cut off, and threads of client libraries wait for servers that are gone. What must be
    durable is durable by now, and a process that lingers holds up its own replacement.
    """
    log = structlog.get_logger()
    try:
        await _with_signals(serve)
    except Exception:
        log.exception("process_failed")
        code = EXIT_FAILED
    else:
        log.info("process_stopped")
        code = 0
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class Stopping(asyncio.Event):
    """Set when the process is asked to stop; knows whether it has come up, because only then there is work to drain."""

    def __init__(self) -> None:
        """Start as not yet serving."""
        super().__init__()
        self.serving = False


async def _with_signals(serve: Callable[[Stopping], Coroutine[None, None, None]]) -> None:
    stopping = Stopping()
    log = structlog.get_logger()
    work = asyncio.current_task()

    def asked(number: signal.Signals) -> None:
        if stopping.is_set():
            log.warning("process_hurried", signal=number.name)
            os._exit(EXIT_HURRIED)
        log.info("process_stopping", signal=number.name)
        stopping.set()
        if not stopping.serving and work is not None:
            work.cancel()  # it still waits for a dependency: nothing is in hand

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked, number)
    try:
        await serve(stopping)
    except asyncio.CancelledError:
        if not stopping.is_set():
            raise


async def _ended(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks until they have ended: a library may swallow a cancellation, as `asyncio.wait_for` does in 3.11."""
    while still := [task for task in tasks if not task.done()]:
        for task in still:
            task.cancel()
        await asyncio.wait(still, timeout=CANCELLED_WITHIN_S)
    await asyncio.gather(*tasks, return_exceptions=True)


def _spare_the_collector() -> None:
    """Let the garbage collector leave alone what was loaded to serve: it lives as long as the process.

    130 000 objects in otp; to look through them takes tens of milliseconds, in which nobody is answered.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])


async def until_stopped(stopping: Stopping, *parts: Awaitable[object]) -> None:
    """Wait for `stopping`, or for the first of the parts to end, which it never should.

    Coroutines among the parts live as long as this call; tasks belong to whoever made them and are left running.

    Raises:
        RuntimeError: a part ended without being asked to.
        the part's own error, when it failed.
    """
    stopping.serving = True
    _spare_the_collector()
    tasks = [asyncio.ensure_future(part) for part in parts]
    own = [task for task, part in zip(tasks, parts, strict=True) if task is not part]
    stop = asyncio.create_task(stopping.wait())
    try:
        done, _ = await asyncio.wait([stop, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in done - {stop}:
            task.result()
            raise RuntimeError(f"a part ended by itself: {task!r}")
    finally:
        await _ended(stop, *own)
