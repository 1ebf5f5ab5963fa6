from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka.admin import KafkaAdminClient
from kafka.errors import CoordinatorLoadInProgressError, CoordinatorNotAvailableError, NotCoordinatorError

from deploy.create_topics import create_topics
from deploy.kafka_acls import apply_rights
from tests.conditions import wait_until
from tests.integration.chassis.conftest import rubbish_collected
from tests.integration.security.attempts import QUEUES, opened
from tests.servers.secured_kafka import ADMIN, STRANGER, SecuredKafka, settings_of

__all__ = ["rubbish_collected"]

USERS = ("otp", "mailer", "dossier", "lagwatch", "topics", "operator")


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    """A broker with its authorizer on, our topics and our rights, made by our programs as they are made elsewhere.

    Each module has its own: records and members of groups that one leaves behind would be found by the next.
    """
    folder: Path = tmp_path_factory.mktemp("kafka-secured")
    broker = SecuredKafka(folder, (*USERS, STRANGER))
    broker.start()
    try:
        broker.make_users()
        apply_rights(settings_of(broker, ADMIN))
        create_topics(settings_of(broker, "topics"))
        with opened(KafkaAdminClient, settings_of(broker, ADMIN)) as admin:
            wait_until(lambda: _keeps_groups(admin), within_s=60, what="the broker keeps every group")
        yield broker
    finally:
        broker.stop()


def _keeps_groups(admin: KafkaAdminClient) -> bool:
    """Ask for each group: a young broker makes the topic of groups when it is first asked, and refuses meanwhile."""
    try:
        admin.list_group_offsets([topic.group for topic in QUEUES])
    except (CoordinatorNotAvailableError, CoordinatorLoadInProgressError, NotCoordinatorError):
        return False
    return True
