from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from deploy.create_topics import TOPICS, create_topics, laptop, tier
from deploy.dev.kafka_broker import KafkaBroker
from tests.integration.inbox.running_inbox import RunningInbox, start_inbox
from tests.integration.mailer.smtp_wire import SmtpWire, smtp_wire

SHORT_TIERS = (tier("otp", "2s"), tier("notice", "1s"), tier("notice", "12s"))  # for mailers with settings of a test


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    """A broker that the tests of a module may stop, kill and start again."""
    broker = KafkaBroker(tmp_path_factory.mktemp("kafka"))
    broker.start()
    try:
        create_topics(laptop(broker.address), topics=(*TOPICS, *SHORT_TIERS))
        yield broker
    finally:
        broker.stop()


@pytest.fixture(scope="package")
def shared_inbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningInbox]:
    running = start_inbox(tmp_path_factory.mktemp("inbox"))
    yield running
    assert running.stop() == 0


@pytest.fixture
def inbox(shared_inbox: RunningInbox) -> RunningInbox:
    """The suite's relay, empty and well-behaved."""
    shared_inbox.client.set_behaviour()
    shared_inbox.client.clear()
    return shared_inbox


@pytest.fixture
async def smtp(inbox: RunningInbox) -> AsyncIterator[SmtpWire]:
    async with smtp_wire(inbox) as wire:
        yield wire
