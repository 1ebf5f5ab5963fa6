"""Waiting for a dependency that is not there yet: exponential backoff with full jitter, an end, and one log line a try.

Services may start in any order, so whatever they open at the start is opened patiently. The wait has an end: a process
that cannot work says so and exits, and its supervisor decides. Jitter keeps a fleet that lost the same server from
returning in step (Brooker, "Exponential Backoff And Jitter").
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar

import structlog
import tenacity

T = TypeVar("T")

FIRST_PAUSE = timedelta(milliseconds=100)
LONGEST_PAUSE = timedelta(seconds=5)  # a server that returns is found again within this


async def patiently(
    operation: Callable[[], Awaitable[T]],
    *,
    what: str,
    on: tuple[type[BaseException], ...],
    within: timedelta | None = timedelta(minutes=10),
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> T:
    """Return what `operation` returns, trying again after each error of type `on`.

    Args:
        operation: safe to repeat.
        what: names the dependency in the log, such as `Redis (OTP_REDIS_URL)`.
        on: errors that mean "not there yet"; any other one passes at once.
        within: when to give up. `None` = never, for work that must not be dropped and that somebody can cancel.
        sleep: waits that many seconds; may return early.

    Raises:
        the last error, when `within` has passed.
    """
    log = structlog.get_logger()

    def say(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        cause = (error.__cause__ if error else None) or error
        log.warning(
            "not_there_yet", what=what, tries=state.attempt_number, error=type(cause).__name__, why=str(cause)[:200]
        )

    retrying = tenacity.AsyncRetrying(
        sleep=sleep,
        wait=tenacity.wait_random_exponential(
            multiplier=FIRST_PAUSE.total_seconds(), max=LONGEST_PAUSE.total_seconds()
        ),
        stop=tenacity.stop_after_delay(within) if within is not None else tenacity.stop_never,
        retry=tenacity.retry_if_exception_type(on),
        before_sleep=say,
        reraise=True,
    )

    async def once() -> T:  # tenacity awaits coroutine functions only; a lambda that returns a coroutine is none
        return await operation()

    return await retrying(once)
