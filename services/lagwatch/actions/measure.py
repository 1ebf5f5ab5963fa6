"""Measure every watched queue and lane once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from services.chassis.clock import Clock
from services.chassis.lag import PartitionLag, Queue, QueueLag, followed, lag_of
from services.chassis.lane import Flow, LaneLag, flowed
from services.lagwatch.ports import Board, Lane, QueueReader, QueueReading, Reason, Unavailable


@dataclass(frozen=True, slots=True)
class _Known:
    """What the last measurement told of a queue."""

    topic_id: str
    partitions: Mapping[int, PartitionLag]


class MeasureQueues:
    """Reads the queues, works out how far each is behind and how long letters wait in the lanes, and shows it.

    It remembers what earlier measurements told: since when a partition stands still, how fast letters leave.

    Args:
        queues: what is watched.
        lanes: made of some of them.
        reader: reads all of them at once.
        board: shows what came out; a queue or lane about which nothing is known keeps what it shows.
        clock: says when a measurement was made.
    """

    def __init__(
        self, queues: Sequence[Queue], lanes: Sequence[Lane], reader: QueueReader, board: Board, clock: Clock
    ) -> None:
        self._queues = tuple(queues)
        self._lanes = tuple(lanes)
        self._reader = reader
        self._board = board
        self._clock = clock
        self._known: dict[Queue, _Known] = {}
        self._flows = {lane.name: Flow() for lane in lanes}
        self._untold = dict.fromkeys(self._flows, 0)

    async def __call__(self) -> frozenset[Reason]:
        """Return why anything could not be measured, or is amiss; empty when everything is well."""
        asked_at = self._clock()  # before the reading: a measurement is at least this fresh, never staler than it says
        try:
            readings = await self._reader.read(self._queues)
        except Unavailable as nothing:
            return frozenset({nothing.reason})
        read_at = self._clock()
        troubles: set[Reason] = set()
        lags: dict[Queue, QueueLag] = {}
        for reading in readings:
            troubles |= {unread.reason for unread in reading.unread}
            if not reading.partitions:
                continue
            amiss = _amiss(reading)
            lag = lags[reading.queue] = self._followed(reading, asked_at, read_at, is_doubtful=bool(amiss))
            self._board.show(lag)
            troubles |= amiss
            if any(partition.is_age_unknown for partition in lag.partitions):
                troubles.add(Reason.AGE_UNKNOWN)
        handed_over = {reading.queue: reading.handed_over for reading in readings}
        for lane in self._lanes:
            troubles |= self._flow_on(lane, lags, handed_over[lane.deliveries])
        return frozenset(troubles)

    def _followed(self, reading: QueueReading, asked_at: datetime, read_at: datetime, *, is_doubtful: bool) -> QueueLag:
        known = self._known.get(reading.queue)
        before = known.partitions if known is not None and known.topic_id == reading.topic_id else {}
        partitions = {
            part.partition: followed(before.get(part.partition), lag_of(part), read_at) for part in reading.partitions
        }
        unmeasured = frozenset(unread.partition for unread in reading.unread if unread.partition is not None)
        kept = {number: before[number] for number in unmeasured if number in before}
        self._known[reading.queue] = _Known(reading.topic_id, kept | partitions)
        return QueueLag(
            queue=reading.queue,
            partitions=tuple(partitions.values()),
            unmeasured=unmeasured,
            members=reading.members,
            measured_at=asked_at,
            is_doubtful=is_doubtful,
        )

    def _flow_on(self, lane: Lane, lags: Mapping[Queue, QueueLag], handed_over: int | None) -> set[Reason]:
        """Measure a lane if nothing of it is missing; what is told of it otherwise grows old."""
        self._untold[lane.name] += handed_over or 0
        if handed_over is None:
            return {Reason.HAND_OVERS_UNKNOWN} if lane.deliveries in lags else set()  # else it has a reason of its own
        queues = (lane.main, *lane.tiers)
        measured = [lags[queue] for queue in queues if queue in lags and not lags[queue].unmeasured]
        if len(measured) == len(queues):
            main, *tiers = measured
            waiting = tuple(part for tier in tiers for part in tier.partitions)
            lag = LaneLag(main.measured_at, main.partitions, waiting)
            self._flows[lane.name] = flowed(self._flows[lane.name], lag, self._untold[lane.name])
            self._untold[lane.name] = 0
            self._board.show_lane(lane.name, lane.main, self._flows[lane.name])
        return set()


def _amiss(reading: QueueReading) -> set[Reason]:
    """Return what is wrong with a queue although all of it was measured."""
    amiss = set()
    if reading.members == 0 and all(part.committed is None for part in reading.partitions):
        amiss.add(Reason.GROUP_UNKNOWN)
    if any(part.is_out_of_range for part in reading.partitions):
        amiss.add(Reason.OFFSET_OUT_OF_RANGE)
    return amiss
