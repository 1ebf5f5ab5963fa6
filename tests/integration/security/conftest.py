from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.create_topics import create_topics
from deploy.kafka_acls import apply_rights
from tests.servers.secured_kafka import ADMIN, STRANGER, SecuredKafka, settings_of

USERS = ("otp", "mailer", "dossier", "lagwatch", "topics")


@pytest.fixture(scope="session")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    """A broker with its authorizer on, our topics and our rights, made by our programs as they are made elsewhere."""
    folder: Path = tmp_path_factory.mktemp("kafka-secured")
    broker = SecuredKafka(folder, (*USERS, STRANGER))
    broker.start()
    try:
        broker.make_users()
        apply_rights(settings_of(broker, ADMIN))
        create_topics(settings_of(broker, "topics"))
        yield broker
    finally:
        broker.stop()
