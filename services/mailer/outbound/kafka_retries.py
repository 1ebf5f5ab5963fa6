"""The tiers of a lane: a topic per delay, where a record waits that carries a letter which could not leave.

The record goes on as it came, value and headers. Headers are added: from when on it is due, the how-manieth try that
is, and where its order first stood, so that people find it in its lane.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from services.chassis.events import instant_text
from services.chassis.kafka_producer import BrokerAway, Producer
from services.mailer.metrics import MailerMetrics
from services.mailer.ports import Carried, TryAgain
from services.mailer.rules.schedule import Retry, Tier

NOT_BEFORE, ATTEMPT = "not-before", "retry-attempt"
FIRST_TOPIC, FIRST_PARTITION, FIRST_OFFSET = "retry-topic", "retry-partition", "retry-offset"
WRITE_WITHIN = timedelta(seconds=10)


def tier_topic(tier: Tier) -> str:
    """Return the topic of a tier."""
    return f"mail.retry.{tier.lane}.{tier.name}.v1"


class KafkaRetries:
    """Implements `Retries`."""

    def __init__(self, producer: Producer, tiers: Iterable[Tier], metrics: MailerMetrics) -> None:
        """Write through the lane's producer; count from 0 for each tier."""
        self._producer = producer
        self._metrics = metrics
        for tier in tiers:
            metrics.retries.labels(tier.lane, tier.name)

    async def put(self, carried: Carried, retry: Retry) -> None:
        """Implements `Retries`."""
        stood = {FIRST_TOPIC: carried.topic, FIRST_PARTITION: carried.partition, FIRST_OFFSET: carried.offset}
        headers = {
            **{name: str(value).encode() for name, value in stood.items()},  # of the first record: it brings its own
            **carried.headers,
            NOT_BEFORE: instant_text(retry.not_before),
            ATTEMPT: str(retry.attempt).encode(),
        }
        topic = tier_topic(retry.tier)
        try:
            await self._producer.write(topic, carried.key, carried.value, [*headers.items()], within=WRITE_WITHIN)
        except BrokerAway as error:
            raise TryAgain("the broker does not take the letter into its tier") from error
        self._metrics.retries.labels(retry.tier.lane, retry.tier.name).inc()
