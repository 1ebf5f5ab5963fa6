"""Implements `QueueReader` on kafka-python: three blocking clients and one thread that owns them.

The clients are opened when they are first needed, used again for every reading, and thrown away after any trouble that
is theirs: what they remember (coordinators, leaders, connections) may be what is wrong. One thread means that a reading
can overlap neither another one nor the closing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from kafka import TopicPartition

from services.chassis.lag import PartitionReading, Queue
from services.lagwatch.outbound.kafka_failures import KAFKA_ERRORS, reason_of
from services.lagwatch.outbound.kafka_heads import KafkaHeads
from services.lagwatch.outbound.kafka_letters import KafkaRecords, LetterBook
from services.lagwatch.outbound.kafka_offsets import NO_LEADER, Group, KafkaOffsets, Log, Topic
from services.lagwatch.ports import Lane, QueueReading, Reason, Unavailable, Unread

ANSWER_WITHIN = timedelta(seconds=3)  # a calm broker takes milliseconds, one that changes leaders a second or two
CLOSE_WITHIN = timedelta(seconds=2)


@dataclass(frozen=True, slots=True)
class Clients:
    """The clients of one reader."""

    offsets: KafkaOffsets
    heads: KafkaHeads
    records: KafkaRecords

    @classmethod
    def opened(cls, config: Mapping[str, Any], within: timedelta) -> Clients:
        """Connect all. Raises as `open_client` does."""
        with contextlib.ExitStack() as opened:
            offsets = KafkaOffsets.opened(config, within)
            opened.callback(offsets.close)
            heads = KafkaHeads.opened(config, within)
            opened.callback(heads.close)
            clients = cls(offsets, heads, KafkaRecords.opened(config, within))
            opened.pop_all()
        return clients

    def close(self) -> None:
        """Let go of the brokers, whatever state the clients are in."""
        for client in (self.offsets, self.heads, self.records):
            with contextlib.suppress(*KAFKA_ERRORS, RuntimeError):  # it is thrown away because it does not work
                client.close()


class KafkaQueueReader:
    """Reads queues from the brokers.

    Args:
        open_clients: called in the reader's thread, at the first reading and after trouble.
        book: what is known of letters, which outlives the clients.
    """

    def __init__(self, open_clients: Callable[[], Clients], book: LetterBook) -> None:
        self._open_clients = open_clients
        self._book = book
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
            readings = _readings(self._clients, self._book, queues)
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
    config: Mapping[str, Any], lanes: Iterable[Lane] = (), *, answer_within: timedelta = ANSWER_WITHIN
) -> AsyncIterator[KafkaQueueReader]:
    """Yield a reader, which connects at its first reading, and close it at the end.

    Args:
        config: how the brokers are reached, as kafka-python's clients want it.
        lanes: whose tiers and deliveries are looked into.
        answer_within: bounds the opening of each client and each question to a broker.
    """
    reader = KafkaQueueReader(lambda: Clients.opened(config, answer_within), LetterBook(lanes))
    try:
        yield reader
    finally:
        await reader.close()


def _is_the_clients(reading: QueueReading) -> bool:
    """Return whether the trouble may lie in what a client remembers; that a topic does not exist does not."""
    if any(unread.reason is not Reason.TOPIC_UNKNOWN for unread in reading.unread):
        return True
    return any(part.is_waiting and part.head_at is None for part in reading.partitions)


def _readings(clients: Clients, book: LetterBook, queues: Sequence[Queue]) -> list[QueueReading]:
    """Read commits first, ends last: see `services.chassis.lag`."""
    topics = clients.offsets.topics({queue.topic for queue in queues})
    leaders = {
        TopicPartition(topic, number): leader
        for topic, told in topics.items()
        if not isinstance(told, Reason)
        for number, leader in told.leaders.items()
    }
    groups = clients.offsets.groups({queue.group for queue in queues})
    if all(told is Reason.BROKER_AWAY for told in groups.values()):
        raise Unavailable(Reason.BROKER_AWAY)  # it left since it told the topics; do not wait for it again and again
    logs = _logs(clients, leaders)
    readings = [_reading(queue, topics[queue.topic], groups[queue.group], logs) for queue in queues]
    return book.with_letters(clients.records, _with_heads(clients, book, readings))


def _logs(clients: Clients, leaders: Mapping[TopicPartition, int]) -> Mapping[TopicPartition, Log | Reason]:
    """Ask for all at once, and only if that is refused for each: then what is broken hides nothing else."""
    if NO_LEADER not in leaders.values():
        with contextlib.suppress(*KAFKA_ERRORS):
            return clients.heads.logs(leaders)
    return clients.offsets.logs(leaders)


def _reading(
    queue: Queue, topic: Topic | Reason, group: Group | Reason, logs: Mapping[TopicPartition, Log | Reason]
) -> QueueReading:
    if isinstance(topic, Reason):
        return QueueReading(queue, unread=(Unread(None, topic),))
    if isinstance(group, Reason):
        return QueueReading(queue, unread=(Unread(None, group),))
    partitions: list[PartitionReading] = []
    unread: list[Unread] = []
    for number in sorted(topic.leaders):
        place = TopicPartition(queue.topic, number)
        log = logs[place]
        if isinstance(log, Reason):
            unread.append(Unread(number, log))
        else:
            partitions.append(PartitionReading(number, group.committed.get(place), log.beginning, log.end))
    return QueueReading(queue, tuple(partitions), tuple(unread), group.members, topic_id=topic.id)


def _with_heads(clients: Clients, book: LetterBook, readings: Sequence[QueueReading]) -> list[QueueReading]:
    """Read the heads that are not known: a group that stands still has the head that it had."""
    places = {
        (reading.topic_id, TopicPartition(reading.queue.topic, part.partition), part.position)
        for reading in readings
        for part in reading.partitions
        if part.is_waiting and not book.is_tier(reading.queue)
    }
    known = {place: book.heads[place] for place in places & book.heads.keys()}
    wanted = {(place, position) for _, place, position in places - known.keys()}
    created = clients.heads.created(wanted)
    if len(created) < len(wanted):  # nobody to ask is not the same as no answer: then everything is as it was before
        clients.offsets.topics({reading.queue.topic for reading in readings})
    read = {head: created[head[1:]] for head in places - known.keys() if head[1:] in created}
    book.heads = known | read

    def with_head(reading: QueueReading, part: PartitionReading) -> PartitionReading:
        place = TopicPartition(reading.queue.topic, part.partition)
        return replace(part, head_at=book.heads.get((reading.topic_id, place, part.position)))

    return [
        replace(reading, partitions=tuple(with_head(reading, part) for part in reading.partitions))
        for reading in readings
    ]
