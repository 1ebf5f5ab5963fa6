"""The only way a test waits: for a condition, with a deadline."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

PAUSE_S = 0.02  # between two looks: short against any deadline, long enough to leave the processor to others


async def eventually(look: Callable[[], T | Awaitable[T]], *, within_s: float = 5, what: str = "") -> T:
    """Look until the answer is truthy and return it.

    Raises:
        AssertionError: not within `within_s` seconds; names `what` was awaited and the last answer.
    """
    deadline = time.monotonic() + within_s
    while True:
        answer = look()
        seen: T = await answer if inspect.isawaitable(answer) else answer
        if seen:
            return seen
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s} s: {what or look}; last seen: {seen!r}")
        await asyncio.sleep(PAUSE_S)


def wait_until(look: Callable[[], T], *, within_s: float = 5, what: str = "") -> T:
    """Look until the answer is truthy and return it, without an event loop.

    Raises:
        AssertionError: not within `within_s` seconds; names `what` was awaited and the last answer.
    """
    deadline = time.monotonic() + within_s
    while not (seen := look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s} s: {what or look}; last seen: {seen!r}")
        time.sleep(PAUSE_S)
    return seen
