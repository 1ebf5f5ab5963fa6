"""The server streams that are open now: how many a caller may hold, how long they last, and that they end in time.

A stream costs memory and a watch on the store for as long as it is open, so each caller has a number of places. None
lasts longer than `STREAM_LIFE`: then it ends normally and its client resumes, maybe on a younger replica. At shutdown
every open stream is told to end at once. That end is `UNAVAILABLE` with `RetryInfo`, not a normal one: a normal end
may mean that nothing more will come, while `UNAVAILABLE` is what any client resumes from, and the jitter of
`RetryInfo` keeps the clients of a replica from arriving at the next one together.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from datetime import timedelta

from services.chassis.errors import Kind, ServiceError, Words

STREAM_LIFE = timedelta(hours=1)  # how long a new replica may wait for its share of the streams
STREAMS_PER_CALLER = 200
SHORTEST_RETURN_S, LONGEST_RETURN_S = 1.0, 5.0


class TooManyStreams(ServiceError):
    """The caller holds as many streams as one may."""

    kind = Kind.EXHAUSTED
    reason = "TOO_MANY_STREAMS"


class TooManyCalls(ServiceError):
    """The caller has as many calls in hand as one may."""

    kind = Kind.EXHAUSTED
    reason = "TOO_MANY_CALLS"


class GoingAway(ServiceError):
    """This replica shuts down; another one has the rest of the stream."""

    kind = Kind.UNAVAILABLE
    reason = "GOING_AWAY"


class OpenStreams:
    """The streams of one server. Not thread-safe: it belongs to one event loop.

    Args:
        per_caller: how many streams one caller may hold.
        life: how long a stream may last.
        draw: a random number between two bounds.
    """

    def __init__(
        self,
        per_caller: int = STREAMS_PER_CALLER,
        life: timedelta = STREAM_LIFE,
        draw: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._per_caller = per_caller
        self._life = life
        self._draw = draw
        self._held: Counter[str] = Counter()
        self._ends: dict[asyncio.Timeout, str] = {}
        self._going_away = False

    @asynccontextmanager
    async def place(self, caller: str, left_s: float | None) -> AsyncIterator[asyncio.Timeout]:
        """Hold one of the caller's places; it is free again as soon as the context is left, however it is left.

        Args:
            caller: whose place.
            left_s: how long the caller still waits; `None` for ever.

        Yields:
            What ends the stream: after its life, when the caller's time is up, or at `end_all`.

        Raises:
            TooManyStreams: all places of the caller are taken.
            GoingAway: the server shuts down, or did so in the meantime.
            TimeoutError: the stream was ended by what is yielded.
        """
        self._admit(caller)
        self._held[caller] += 1
        life_s = self._life.total_seconds()
        end = asyncio.timeout(life_s if left_s is None else min(life_s, left_s))
        try:
            async with end:
                self._ends[end] = caller
                yield end
        finally:
            self._ends.pop(end, None)
            self._held[caller] -= 1

    def end_all(self) -> None:
        """Tell every open stream to end now, and let no new one in."""
        self._going_away = True
        for end in self._ends:
            _end_now(end)

    def end_others(self, callers: Collection[str]) -> None:
        """Tell the streams of everybody else to end now: they were callers, and are no longer."""
        for end, caller in self._ends.items():
            if caller not in callers:
                _end_now(end)

    def refuse_if_going_away(self) -> None:
        """Tell the client of an ended stream to go on elsewhere, if that is why it ended.

        Raises:
            GoingAway: the server shuts down.
        """
        if self._going_away:
            raise GoingAway(
                Words(
                    vi="Máy chủ này sắp dừng: hãy kết nối lại và theo dõi tiếp từ phiên bản cuối đã nhận.",
                    en="This server is about to stop: connect again and resume with the last version you saw.",
                ),
                retry_after=self._return(),
            )

    def _admit(self, caller: str) -> None:
        self.refuse_if_going_away()
        if self._held[caller] >= self._per_caller:
            raise TooManyStreams(
                Words(
                    vi=f"Đang mở {self._per_caller} luồng, tối đa cho một hệ thống gọi: hãy đóng bớt rồi thử lại.",
                    en=f"You hold {self._per_caller} streams, as many as a caller may: close some, then try again.",
                ),
                retry_after=self._return(),
                metadata={"limit": str(self._per_caller)},
            )

    def _return(self) -> timedelta:
        return timedelta(seconds=self._draw(SHORTEST_RETURN_S, LONGEST_RETURN_S))


def too_many_calls(limit: int) -> TooManyCalls:
    """Return the refusal of one more unary call."""
    return TooManyCalls(
        Words(
            vi=f"Đang chờ {limit} lời gọi, tối đa cho một hệ thống gọi: hãy đợi trả lời rồi gọi tiếp.",
            en=f"You wait for {limit} calls, as many as a caller may: wait for answers before you call again.",
        ),
        retry_after=timedelta(seconds=random.uniform(SHORTEST_RETURN_S, LONGEST_RETURN_S)),  # noqa: S311 - a jitter
        metadata={"limit": str(limit)},
    )


def _end_now(end: asyncio.Timeout) -> None:
    if not end.expired():  # one that ends by itself at this moment cannot be told again
        end.reschedule(asyncio.get_running_loop().time())
