"""What one user of a secured broker is let do: each thing tried for real, with one client of a kind for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import (
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    KafkaAdminClient,
    NewTopic,
    ResourcePatternFilter,
    ResourceType,
)
from kafka.admin import ACLResourcePatternType as Pattern
from kafka.errors import AuthorizationError, KafkaError, NoError
from kafka.structs import OffsetAndMetadata

from deploy.create_topics import TOPICS, Topic
from services.chassis.kafka_client import client_config, open_client
from services.chassis.settings import KafkaSettings

WITHIN = timedelta(seconds=20)
ANSWER_S = WITHIN.total_seconds()
EVERY_ACL = ACLFilter(
    None, None, ACLOperation.ANY, ACLPermissionType.ANY, ResourcePatternFilter(ResourceType.ANY, None, Pattern.ANY)
)
QUEUES = tuple(topic for topic in TOPICS if topic.group)


@dataclass
class Attempts:
    """What came of each, by (kind, name, operation): `done`, or the name of the error."""

    came_to: dict[tuple[str, str, str], str] = field(default_factory=dict)

    def note(self, kind: str, name: str, operation: str, attempt: Callable[[], object]) -> None:
        """Try one thing; an error that is no error of Kafka's is a fault of the test."""
        try:
            attempt()
        except KafkaError as error:
            self.came_to[kind, name, operation] = type(error).__name__
        else:
            self.came_to[kind, name, operation] = "done"


def tried(settings: KafkaSettings) -> Attempts:
    """Try to read and to write each topic, to look at each group and to commit in it, and what is for nobody."""
    attempts = Attempts()
    with opened(KafkaProducer, settings, enable_idempotence=False, max_block_ms=20_000) as producer:
        for topic in TOPICS:
            attempts.note("topic", topic.name, "WRITE", partial(wrote, producer, topic.name))
    with (
        opened(KafkaAdminClient, settings) as admin,
        opened(KafkaConsumer, settings, group_id=None, auto_offset_reset="earliest") as consumer,
    ):
        for topic in TOPICS:
            attempts.note("topic", topic.name, "READ", partial(_read, admin, consumer, topic.name))
        for topic in QUEUES:
            attempts.note("group", str(topic.group), "DESCRIBE", partial(admin.list_group_offsets, [topic.group]))
            attempts.note("group", str(topic.group), "READ", partial(_commit, admin, topic))
        attempts.note("group", "of-nobody", "DESCRIBE", partial(admin.list_group_offsets, ["of-nobody"]))
        attempts.note("cluster", "rights", "DESCRIBE", partial(admin.describe_acls, EVERY_ACL))
        attempts.note("topic", TOPICS[0].name, "DELETE", partial(admin.delete_topics, [TOPICS[0].name]))
        attempts.note("topic", "of-nobody", "CREATE", partial(admin.create_topics, [NewTopic("of-nobody", 1, 1)]))
    return attempts


@contextmanager
def opened(kind: Callable[..., Any], settings: KafkaSettings, **more: Any) -> Iterator[Any]:
    """Yield a client that came as the settings say."""
    client = open_client(kind, WITHIN, **client_config(settings), **more)
    try:
        yield client
    finally:
        client.close()


def wrote(producer: Any, topic: str) -> int:
    """Write a record to the topic's first partition, wait for its acknowledgement and return its offset."""
    return int(producer.send(topic, key=b"of the test", value=b"\xff", partition=0).get(ANSWER_S).offset)


def _read(admin: Any, consumer: Any, topic: str) -> None:
    """Fetch the first record; who may not even see a topic would wait for its leader without end."""
    (told,) = admin.describe_topics([topic])
    if told["error_code"]:
        raise AuthorizationError(told["error_code"])
    place = TopicPartition(topic, 0)
    consumer.assign([place])
    consumer.seek(place, 0)
    records = consumer.poll(timeout_ms=ANSWER_S * 1000)
    assert records[place][0].value == b"\xff", records


def _commit(admin: Any, topic: Topic) -> None:
    place = TopicPartition(topic.name, 0)
    answers = admin.alter_group_offsets(topic.group, {place: OffsetAndMetadata(0, "", leader_epoch=-1)})
    if answers[place] is not NoError:
        raise answers[place]
