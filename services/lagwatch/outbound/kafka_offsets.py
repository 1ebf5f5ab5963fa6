"""Asks the brokers, with kafka-python's admin client, where groups and logs stand. Blocks; reads no record."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from kafka import TopicPartition
from kafka.admin import KafkaAdminClient, OffsetSpec
from kafka.errors import for_code

from services.chassis.kafka_client import open_client
from services.lagwatch.outbound.kafka_failures import asked_together, reason_of
from services.lagwatch.ports import Reason

NO_LEADER = -1
NO_COMMIT = -1


@dataclass(frozen=True, slots=True)
class Topic:
    """What a broker said about a topic."""

    id: str
    """Another one for a topic that was made anew."""
    leaders: Mapping[int, int]
    """Of each partition; `NO_LEADER` for none."""


@dataclass(frozen=True, slots=True)
class Group:
    """What the coordinator of a group said."""

    committed: Mapping[TopicPartition, int]
    """Partitions that were never committed are absent."""
    members: int | None


@dataclass(frozen=True, slots=True)
class Log:
    """Where the log of a partition stands."""

    beginning: int
    """Offset of the first record it holds."""
    end: int
    """Offset that the next record will get."""


class KafkaOffsets:
    """One admin client, used again for every poll.

    Args:
        admin: a kafka-python admin client, or what behaves like one.
        within: bounds the search for a partition's leader while leaders change.
    """

    def __init__(self, admin: Any, within: timedelta) -> None:
        self._admin = admin
        self._patience_ms = int(within.total_seconds() * 1000)

    @classmethod
    def opened(cls, config: Mapping[str, Any], within: timedelta) -> KafkaOffsets:
        """Connect. Raises as `open_client` does."""
        return cls(open_client(KafkaAdminClient, within, **config), within)

    def topics(self, names: Iterable[str]) -> dict[str, Topic | Reason]:
        """Return the leaders of each topic, or why it has no partitions.

        Raises:
            kafka.errors.KafkaError, OSError: no broker answers.
        """
        return {topic["name"]: _topic(topic) for topic in self._admin.describe_topics(sorted(names))}

    def groups(self, names: Iterable[str]) -> dict[str, Group | Reason]:
        """Return where each group stands; a group that does not exist has committed nothing and has no members."""
        return asked_together(self._groups, sorted(names), Reason.GROUP_UNREADABLE)

    def logs(self, leaders: Mapping[TopicPartition, int]) -> dict[TopicPartition, Log | Reason]:
        """Return where the log of each partition begins and ends; the end is read last."""
        beginnings = self._listed(leaders, OffsetSpec.EARLIEST)
        begun = {partition: leader for partition, leader in leaders.items() if isinstance(beginnings[partition], int)}
        return {
            partition: _log(beginnings[partition], end)
            for partition, end in (beginnings | self._listed(begun, OffsetSpec.LATEST)).items()
        }

    def close(self) -> None:
        """Let go of the brokers."""
        self._admin.close()

    def _groups(self, names: Sequence[str]) -> dict[str, Group]:
        offsets = self._admin.list_group_offsets(list(names))
        described = self._admin.describe_groups(list(names))
        return {
            name: Group(
                {part: told.offset for part, told in offsets.get(name, {}).items() if told.offset != NO_COMMIT},
                _members(described.get(name)),
            )
            for name in names
        }

    def _listed(self, leaders: Mapping[TopicPartition, int], spec: OffsetSpec) -> dict[TopicPartition, int | Reason]:
        """Ask leader by leader: one that is away costs only its own partitions."""
        led: dict[int, list[TopicPartition]] = defaultdict(list)
        for partition, leader in leaders.items():
            led[leader].append(partition)

        def ask(partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
            told = self._admin.list_partition_offsets(dict.fromkeys(partitions, spec), timeout_ms=self._patience_ms)
            return {partition: answer.offset for partition, answer in told.items()}

        found: dict[TopicPartition, int | Reason] = {}
        for leader, partitions in led.items():
            if leader == NO_LEADER:
                found |= dict.fromkeys(partitions, Reason.PARTITION_UNREADABLE)
            else:
                found |= asked_together(ask, partitions, Reason.PARTITION_UNREADABLE)
        return found


def _topic(told: Mapping[str, Any]) -> Topic | Reason:
    if told["error_code"]:
        return reason_of(for_code(told["error_code"])(), Reason.PARTITION_UNREADABLE)
    leaders = {partition["partition_index"]: partition["leader_id"] for partition in told["partitions"]}
    return Topic(str(told["topic_id"]), leaders)


def _log(beginning: int | Reason, end: int | Reason) -> Log | Reason:
    if isinstance(beginning, Reason):
        return beginning
    return end if isinstance(end, Reason) else Log(beginning, end)


def _members(described: Mapping[str, Any] | None) -> int | None:
    if described is None or (described["error"] and described["group_state"] != "Dead"):  # Dead: there is no such group
        return None
    return len(described["members"])
