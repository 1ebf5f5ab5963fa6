from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import AsyncIterator, Iterator
from typing import Protocol

import pytest

from deploy.dev.kafka_broker import KafkaBroker
from tests.e2e.portal import Portal
from tests.integration.otp.mail_lane import MailLane, mail_lane
from tests.integration.otp.otp_process import OtpProcess, RedisOfOtp


class Broker(Protocol):
    """The suite's broker."""

    @property
    def address(self) -> str:
        """HOST:PORT."""


@pytest.fixture
def rubbish_collected() -> Iterator[None]:
    """Collect what the Kafka clients leave unclosed before it is blamed on another test."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        for _ in range(3):  # what one round frees, another may close
            gc.collect()


@pytest.fixture
async def lane(kafka: Broker) -> AsyncIterator[MailLane]:
    """A lane on the suite's broker that nobody else uses."""
    async with mail_lane(kafka.address) as made:
        yield made


@pytest.fixture(scope="module")
def stopped_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    broker = KafkaBroker(tmp_path_factory.mktemp("otp-kafka"))
    yield broker
    broker.kill()


@pytest.fixture
async def private(stopped_broker: KafkaBroker) -> KafkaBroker:
    """A broker that runs, and that a test may stop."""
    if not stopped_broker.is_running:
        await asyncio.to_thread(stopped_broker.start)
    return stopped_broker


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisOfOtp]:
    """A Redis that the tests of a module may kill, and whose files they may spoil."""
    server = RedisOfOtp(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def portal(otp: OtpProcess) -> Iterator[Portal]:
    """A caller of the otp of the module."""
    with otp.portal() as caller:
        yield caller
