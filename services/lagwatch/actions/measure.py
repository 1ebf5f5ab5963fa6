"""Measure every watched queue once."""

from __future__ import annotations

from collections.abc import Sequence

from services.chassis.clock import Clock
from services.chassis.lag import Queue, QueueLag, lag_of
from services.lagwatch.ports import Board, QueueReader, QueueReading, Reason, Unavailable


class MeasureQueues:
    """Reads the queues, works out how far each is behind, and shows it.

    Args:
        queues: what is watched.
        reader: reads all of them at once.
        board: shows what came out; a queue about which nothing is known keeps what it shows.
        clock: says when a measurement was made.
    """

    def __init__(self, queues: Sequence[Queue], reader: QueueReader, board: Board, clock: Clock) -> None:
        self._queues = tuple(queues)
        self._reader = reader
        self._board = board
        self._clock = clock

    async def __call__(self) -> frozenset[Reason]:
        """Return why anything could not be measured; empty when everything was."""
        asked_at = self._clock()  # before the reading: a measurement is at least this fresh, never staler than it says
        try:
            readings = await self._reader.read(self._queues)
        except Unavailable as nothing:
            return frozenset({nothing.reason})
        troubles: set[Reason] = set()
        for reading in readings:
            troubles |= {unread.reason for unread in reading.unread}
            if not reading.partitions:
                continue
            lag = QueueLag(
                queue=reading.queue,
                partitions=tuple(lag_of(partition) for partition in reading.partitions),
                unmeasured=_unmeasured(reading),
                members=reading.members,
                measured_at=asked_at,
            )
            self._board.show(lag)
            if any(partition.is_age_unknown for partition in lag.partitions):
                troubles.add(Reason.AGE_UNKNOWN)
        return frozenset(troubles)


def _unmeasured(reading: QueueReading) -> frozenset[int]:
    return frozenset(unread.partition for unread in reading.unread if unread.partition is not None)
