"""What is made of a cluster's answers when parts of it are broken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from kafka import TopicPartition, errors
from kafka.structs import OffsetAndMetadata, OffsetAndTimestamp

from services.lagwatch.outbound.kafka_offsets import NO_LEADER, Group, KafkaOffsets, Log, Topic
from services.lagwatch.ports import Reason

FIRST, SECOND, THIRD = (TopicPartition("letters", number) for number in range(3))


class ScriptedAdmin:
    """Stands in for kafka-python's admin client, which raises on the first bad part of an answer."""

    def __init__(self, bad: Mapping[object, Exception] | None = None) -> None:
        self._bad = dict(bad or {})
        self.questions = 0

    def describe_topics(self, names: Sequence[str]) -> list[dict[str, Any]]:
        good = {"error_code": 0, "topic_id": "first", "partitions": [{"partition_index": 0, "leader_id": 1}]}
        return [{"name": name} | ({"error_code": 3, "partitions": []} if name == "gone" else good) for name in names]

    def list_group_offsets(self, groups: Sequence[str]) -> dict[str, dict[TopicPartition, OffsetAndMetadata]]:
        self._raise_for(groups)
        told = {FIRST: OffsetAndMetadata(7, "", -1), SECOND: OffsetAndMetadata(-1, "", -1)}
        return dict.fromkeys(groups, told)

    def describe_groups(self, groups: Sequence[str]) -> dict[str, dict[str, Any]]:
        states: dict[str, dict[str, Any]] = {
            "busy": {"error": None, "group_state": "Stable", "members": ["a", "b"]},
            "nobody": {"error": "[Error 69] GroupIdNotFoundError", "group_state": "Dead", "members": []},
            "secret": {"error": "[Error 30] GroupAuthorizationFailedError", "group_state": "", "members": []},
        }
        return {group: states[group] for group in groups}

    def list_partition_offsets(
        self, specs: Mapping[TopicPartition, object], timeout_ms: int
    ) -> dict[TopicPartition, OffsetAndTimestamp]:
        assert timeout_ms > 0
        self._raise_for(list(specs))
        return {place: OffsetAndTimestamp(10 * place.partition, -1, None) for place in specs}

    def _raise_for(self, keys: Sequence[object]) -> None:
        self.questions += 1
        for key in keys:
            if key in self._bad:
                raise self._bad[key]


def asking(admin: ScriptedAdmin) -> KafkaOffsets:
    return KafkaOffsets(admin, timedelta(seconds=1))


def test_a_topic_that_does_not_exist_has_a_reason_instead_of_partitions() -> None:
    assert asking(ScriptedAdmin()).topics(["letters", "gone"]) == {
        "letters": Topic("first", {0: 1}),
        "gone": Reason.TOPIC_UNKNOWN,
    }


def test_a_partition_without_a_commit_is_left_out() -> None:
    groups = asking(ScriptedAdmin()).groups(["busy", "nobody"])

    assert groups == {"busy": Group({FIRST: 7}, 2), "nobody": Group({FIRST: 7}, 0)}


def test_members_that_may_not_be_counted_are_unknown_not_absent() -> None:
    assert asking(ScriptedAdmin()).groups(["secret"]) == {"secret": Group({FIRST: 7}, None)}


def test_a_group_whose_coordinator_is_moving_hides_no_other() -> None:
    groups = asking(ScriptedAdmin({"nobody": errors.NotCoordinatorError()})).groups(["busy", "nobody"])

    assert groups == {"busy": Group({FIRST: 7}, 2), "nobody": Reason.GROUP_UNREADABLE}


def test_a_partition_that_cannot_be_read_hides_no_other() -> None:
    admin = ScriptedAdmin({SECOND: errors.KafkaStorageError()})

    logs = asking(admin).logs({FIRST: 1, SECOND: 1, THIRD: 1})

    assert logs == {FIRST: Log(0, 0), SECOND: Reason.PARTITION_UNREADABLE, THIRD: Log(20, 20)}


def test_a_partition_without_a_leader_is_not_asked_for() -> None:
    admin = ScriptedAdmin()

    assert asking(admin).logs({FIRST: NO_LEADER}) == {FIRST: Reason.PARTITION_UNREADABLE}
    assert admin.questions == 0


def test_a_leader_that_is_away_costs_only_its_own_partitions_and_one_wait() -> None:
    admin = ScriptedAdmin({FIRST: errors.KafkaConnectionError()})

    logs = asking(admin).logs({FIRST: 1, SECOND: 1, THIRD: 2})

    assert logs == {FIRST: Reason.BROKER_AWAY, SECOND: Reason.BROKER_AWAY, THIRD: Log(20, 20)}
    assert admin.questions == 3  # both leaders for the beginning, the one that answers for the end
