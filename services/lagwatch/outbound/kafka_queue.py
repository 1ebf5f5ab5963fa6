"""Implements `QueueReader` on kafka-python: two blocking clients and one thread that owns them.

The clients are opened when they are first needed, used again for every reading, and thrown away after any trouble that
is theirs: what they remember (coordinators, leaders, connections) may be what is wrong. One thread means that a reading
can overlap neither another one nor the closing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from kafka import TopicPartition

from services.chassis.lag import PartitionReading, Queue
from services.lagwatch.outbound.kafka_failures import KAFKA_ERRORS, reason_of
from services.lagwatch.outbound.kafka_heads import KafkaHeads
from services.lagwatch.outbound.kafka_offsets import Group, KafkaOffsets, Log
from services.lagwatch.ports import QueueReading, Reason, Unavailable, Unread

ANSWER_WITHIN = timedelta(seconds=3)  # a calm broker takes milliseconds, one that changes leaders a second or two
CLOSE_WITHIN = timedelta(seconds=2)


@dataclass(frozen=True, slots=True)
class Clients:
    """The two clients of one reader."""

    offsets: KafkaOffsets
    heads: KafkaHeads

    @classmethod
    def opened(cls, config: Mapping[str, Any], within: timedelta) -> Clients:
        """Connect both. Raises as `open_client` does."""
        offsets = KafkaOffsets.opened(config, within)
        try:
            return cls(offsets, KafkaHeads.opened(config, within))
        except BaseException:
            offsets.close()
            raise

    def close(self) -> None:
        """Let go of the brokers, whatever state the clients are in."""
        for client in (self.offsets, self.heads):
            with contextlib.suppress(*KAFKA_ERRORS, RuntimeError):  # it is thrown away because it does not work
                client.close()


class KafkaQueueReader:
    """Reads queues from the brokers.

    Args:
        open_clients: called in the reader's thread, at the first reading and after trouble.
    """

    def __init__(self, open_clients: Callable[[], Clients]) -> None:
        self._open_clients = open_clients
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kafka-queue")
        self._clients: Clients | None = None

    async def read(self, queues: Sequence[Queue]) -> Sequence[QueueReading]:
        """Implements `QueueReader`."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._read, tuple(queues))

    async def close(self) -> None:
        """Let go of the brokers; a reading that is under way is waited for, but not for long."""
        closing = asyncio.get_running_loop().run_in_executor(self._thread, self._drop)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_WITHIN.total_seconds()):
                await closing
        self._thread.shutdown(wait=False)

    def _read(self, queues: tuple[Queue, ...]) -> list[QueueReading]:
        try:
            if self._clients is None:
                self._clients = self._open_clients()
            readings = _readings(self._clients, queues)
        except KAFKA_ERRORS as error:
            self._drop()
            raise Unavailable(reason_of(error, Reason.BROKER_AWAY)) from error
        except BaseException:
            self._drop()
            raise
        if any(_is_the_clients(reading) for reading in readings):
            self._drop()
        return readings

    def _drop(self) -> None:
        clients, self._clients = self._clients, None
        if clients is not None:
            clients.close()


@asynccontextmanager
async def reading_queues(
    config: Mapping[str, Any], *, answer_within: timedelta = ANSWER_WITHIN
) -> AsyncIterator[KafkaQueueReader]:
    """Yield a reader, which connects at its first reading, and close it at the end.

    Args:
        config: how the brokers are reached, as kafka-python's clients want it.
        answer_within: bounds the opening of each client and each question to a broker.
    """
    reader = KafkaQueueReader(lambda: Clients.opened(config, answer_within))
    try:
        yield reader
    finally:
        await reader.close()


def _is_the_clients(reading: QueueReading) -> bool:
    """Return whether the trouble may lie in what a client remembers; that a topic does not exist does not."""
    if any(unread.reason is not Reason.TOPIC_UNKNOWN for unread in reading.unread):
        return True
    return any(part.is_waiting and part.head_at is None for part in reading.partitions)


def _readings(clients: Clients, queues: Sequence[Queue]) -> list[QueueReading]:
    """Read commits first, ends last: see `services.chassis.lag`."""
    topics = clients.offsets.leaders({queue.topic for queue in queues})
    leaders = {
        TopicPartition(topic, number): leader
        for topic, told in topics.items()
        if not isinstance(told, Reason)
        for number, leader in told.items()
    }
    groups = clients.offsets.groups({queue.group for queue in queues})
    if all(told is Reason.BROKER_AWAY for told in groups.values()):
        raise Unavailable(Reason.BROKER_AWAY)  # it left since it told the topics; do not wait for it again and again
    logs = clients.offsets.logs(leaders)
    return _with_heads(clients, [_reading(queue, topics[queue.topic], groups[queue.group], logs) for queue in queues])


def _reading(
    queue: Queue,
    topic: Mapping[int, int] | Reason,
    group: Group | Reason,
    logs: Mapping[TopicPartition, Log | Reason],
) -> QueueReading:
    if isinstance(topic, Reason):
        return QueueReading(queue, unread=(Unread(None, topic),))
    if isinstance(group, Reason):
        return QueueReading(queue, unread=(Unread(None, group),))
    partitions: list[PartitionReading] = []
    unread: list[Unread] = []
    for number in sorted(topic):
        place = TopicPartition(queue.topic, number)
        log = logs[place]
        if isinstance(log, Reason):
            unread.append(Unread(number, log))
        else:
            partitions.append(PartitionReading(number, group.committed.get(place), log.beginning, log.end))
    return QueueReading(queue, tuple(partitions), tuple(unread), group.members)


def _with_heads(clients: Clients, readings: Sequence[QueueReading]) -> list[QueueReading]:
    wanted = {
        (TopicPartition(reading.queue.topic, part.partition), part.position)
        for reading in readings
        for part in reading.partitions
        if part.is_waiting
    }
    created = clients.heads.created(wanted)
    if len(created) < len(wanted):  # nobody to ask is not the same as no answer: then everything is as it was before
        clients.offsets.leaders({reading.queue.topic for reading in readings})

    def with_head(topic: str, part: PartitionReading) -> PartitionReading:
        return replace(part, head_at=created.get((TopicPartition(topic, part.partition), part.position)))

    return [
        replace(reading, partitions=tuple(with_head(reading.queue.topic, part) for part in reading.partitions))
        for reading in readings
    ]
