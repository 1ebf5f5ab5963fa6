"""When the reader keeps its clients, when it throws them away, and what it takes for an absent broker."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import cast

import pytest
from kafka import TopicPartition, errors

from services.chassis.lag import Queue
from services.lagwatch.outbound.kafka_heads import KafkaHeads
from services.lagwatch.outbound.kafka_letters import KafkaRecords, LetterBook
from services.lagwatch.outbound.kafka_offsets import NO_LEADER, Group, KafkaOffsets, Log, Topic
from services.lagwatch.outbound.kafka_queue import Clients, KafkaQueueReader
from services.lagwatch.ports import QueueReading, Reason, Unavailable, Unread

LETTERS = Queue("mailer", "letters")
PLACE = TopicPartition("letters", 0)
CREATED = datetime(2026, 11, 25, 8, 0, tzinfo=UTC)


@dataclass
class Cluster:
    """What scripted clients say; each answer may be an error to be raised."""

    topic: Topic | Reason = field(default_factory=lambda: Topic("first", {0: 1}))
    group: Group | Reason = field(default_factory=lambda: Group({PLACE: 3}, members=1))
    log: Log | Reason = field(default_factory=lambda: Log(0, 5))
    has_head: bool = True
    error: Exception | None = None
    error_after_heads: Exception | None = None
    heads_read: list[int] = field(default_factory=list)
    asked_together: int = 0
    opened: int = 0
    closed: int = 0

    def open(self) -> Clients:
        self.opened += 1
        heads = ScriptedHeads(self)
        return Clients(
            cast("KafkaOffsets", ScriptedOffsets(self)), cast("KafkaHeads", heads), cast("KafkaRecords", heads)
        )


class ScriptedOffsets:
    """Stands in for the admin client."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def topics(self, names: Iterable[str]) -> dict[str, Topic | Reason]:
        if self._cluster.error:
            raise self._cluster.error
        return dict.fromkeys(names, self._cluster.topic)

    def groups(self, names: Iterable[str]) -> dict[str, Group | Reason]:
        return dict.fromkeys(names, self._cluster.group)

    def logs(self, leaders: Mapping[TopicPartition, int]) -> dict[TopicPartition, Log | Reason]:
        return dict.fromkeys(leaders, self._cluster.log)

    def close(self) -> None:
        self._cluster.closed += 1


class ScriptedHeads:
    """Stands in for the consumer."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def created(self, positions: Collection[tuple[TopicPartition, int]]) -> dict[tuple[TopicPartition, int], datetime]:
        self._cluster.heads_read.append(len(positions))
        self._cluster.error = self._cluster.error or self._cluster.error_after_heads
        return dict.fromkeys(positions, CREATED) if self._cluster.has_head else {}

    def logs(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, Log]:
        self._cluster.asked_together += 1
        if not isinstance(self._cluster.log, Log):
            raise errors.KafkaTimeoutError
        return dict.fromkeys(partitions, self._cluster.log)

    def read(self, spans: Mapping[TopicPartition, tuple[int, int]], take: object) -> dict[TopicPartition, int]:
        assert take is not None
        return {place: end for place, (_, end) in spans.items()}

    def close(self) -> None:
        raise errors.KafkaConnectionError  # as clients do that no longer work


async def read(cluster: Cluster, times: int = 1) -> Sequence[QueueReading]:
    reader = KafkaQueueReader(cluster.open, LetterBook(()))
    try:
        for _ in range(times - 1):
            await reader.read([LETTERS])
        return await reader.read([LETTERS])
    finally:
        await reader.close()


async def test_clients_that_work_are_used_again() -> None:
    cluster = Cluster()

    (reading,) = await read(cluster, times=3)

    assert reading.partitions[0].head_at == CREATED
    assert (cluster.opened, cluster.closed) == (1, 1)


async def test_a_partition_that_has_no_leader_is_not_asked_for_together_with_the_others() -> None:
    cluster = Cluster(topic=Topic("first", {0: NO_LEADER}))

    await read(cluster)

    assert cluster.asked_together == 0


async def test_a_head_is_read_once_while_the_group_stands_still_and_again_in_a_topic_made_anew() -> None:
    cluster = Cluster()
    reader = KafkaQueueReader(cluster.open, LetterBook(()))
    for _ in range(3):
        (reading,) = await reader.read([LETTERS])
        assert reading.partitions[0].head_at == CREATED
    assert cluster.heads_read == [1, 0, 0]

    cluster.topic = Topic("second", {0: 1})
    await reader.read([LETTERS])
    cluster.group = Group({PLACE: 4}, members=1)
    await reader.read([LETTERS])
    await reader.close()

    assert cluster.heads_read == [1, 0, 0, 1, 1]


async def test_a_topic_that_does_not_exist_is_no_fault_of_the_clients() -> None:
    cluster = Cluster(topic=Reason.TOPIC_UNKNOWN)

    (reading,) = await read(cluster, times=3)

    assert reading == QueueReading(LETTERS, unread=(Unread(None, Reason.TOPIC_UNKNOWN),))
    assert cluster.opened == 1


@pytest.mark.parametrize(
    ("cluster", "unread"),
    [
        (Cluster(group=Reason.GROUP_UNREADABLE), (Unread(None, Reason.GROUP_UNREADABLE),)),
        (Cluster(log=Reason.PARTITION_UNREADABLE), (Unread(0, Reason.PARTITION_UNREADABLE),)),
        (Cluster(has_head=False), ()),
    ],
    ids=["group", "partition", "head"],
)
async def test_after_any_other_trouble_the_next_reading_starts_with_fresh_clients(
    cluster: Cluster, unread: tuple[Unread, ...]
) -> None:
    (reading,) = await read(cluster, times=3)

    assert reading.unread == unread
    assert (cluster.opened, cluster.closed) == (3, 3)


async def test_a_broker_that_leaves_while_heads_are_read_is_away_and_no_age_is_called_unknown() -> None:
    cluster = Cluster(has_head=False, error_after_heads=errors.NodeNotReadyError())

    with pytest.raises(Unavailable, match=Reason.BROKER_AWAY):
        await read(cluster)


async def test_a_broker_that_leaves_before_the_groups_are_read_is_not_asked_for_more() -> None:
    with pytest.raises(Unavailable, match=Reason.BROKER_AWAY):
        await read(Cluster(group=Reason.BROKER_AWAY))


async def test_an_error_of_the_broker_is_told_by_its_reason() -> None:
    cluster = Cluster(error=errors.ClusterAuthorizationFailedError())

    with pytest.raises(Unavailable, match=Reason.DENIED):
        await read(cluster)

    assert cluster.closed == 1


async def test_a_bug_is_passed_on_and_the_clients_are_thrown_away() -> None:
    cluster = Cluster(error=ZeroDivisionError())

    with pytest.raises(ZeroDivisionError):
        await read(cluster)

    assert cluster.closed == 1
