"""What stands in a tier: the record as it came, and when it is due."""

from __future__ import annotations

from datetime import timedelta

import pytest
from prometheus_client import CollectorRegistry

from services.chassis.kafka_producer import BrokerAway, Producer, RecordPosition
from services.mailer.metrics import MailerMetrics
from services.mailer.outbound.kafka_retries import KafkaRetries, tier_topic
from services.mailer.ports import Carried, TryAgain
from services.mailer.rules.letter import Lane
from services.mailer.rules.schedule import Retry, Tier
from tests.fakes.clock import NOON

TIER = Tier(Lane.OTP, timedelta(seconds=3))
CARRIED = Carried("otp.code-requested.v1", 3, 7, b"key", b"value", {"ce_id": b"x", "expirytime": b"y"})
RETRY = Retry(TIER, 2, NOON)


class WritingProducer(Producer):
    """Keeps what it is given instead of sending it."""

    def __init__(self, error: Exception | None = None) -> None:
        self.written: list[tuple[str, bytes, bytes, list[tuple[str, bytes]]]] = []
        self._error = error

    async def write(
        self, topic: str, key: bytes, value: bytes, headers: list[tuple[str, bytes]], *, within: timedelta
    ) -> RecordPosition:
        assert within > timedelta(0)
        if self._error is not None:
            raise self._error
        self.written.append((topic, key, value, headers))
        return RecordPosition(0, 0)


async def put(carried: Carried, retry: Retry) -> tuple[str, bytes, bytes, dict[str, bytes]]:
    producer = WritingProducer()
    await KafkaRetries(producer, [TIER], MailerMetrics(CollectorRegistry())).put(carried, retry)
    ((topic, key, value, headers),) = producer.written
    assert len(dict(headers)) == len(headers), "each header once"
    return topic, key, value, dict(headers)


async def test_a_record_goes_on_as_it_came_and_says_when_it_is_due_and_where_it_stood() -> None:
    topic, key, value, headers = await put(CARRIED, RETRY)

    assert (topic, key, value) == ("mail.retry.otp.3s.v1", b"key", b"value")
    assert headers == {
        **CARRIED.headers,
        "not-before": b"2026-11-25T12:00:00.000000Z",
        "retry-attempt": b"2",
        "retry-topic": b"otp.code-requested.v1",
        "retry-partition": b"3",
        "retry-offset": b"7",
    }


async def test_from_tier_to_tier_a_record_keeps_where_it_first_stood() -> None:
    _, _, _, first = await put(CARRIED, RETRY)
    topic, key, value, second = await put(
        Carried("mail.retry.otp.3s.v1", 0, 99, b"key", b"value", first),
        Retry(Tier(Lane.OTP, timedelta(seconds=10)), 3, NOON + timedelta(seconds=10)),
    )

    assert (topic, key, value) == ("mail.retry.otp.10s.v1", b"key", b"value")
    assert second == first | {"not-before": b"2026-11-25T12:00:10.000000Z", "retry-attempt": b"3"}


async def test_a_broker_that_is_away_is_a_reason_to_try_again_and_counts_nothing() -> None:
    registry = CollectorRegistry()
    retries = KafkaRetries(WritingProducer(BrokerAway("x")), [TIER], MailerMetrics(registry))

    with pytest.raises(TryAgain, match="broker"):
        await retries.put(CARRIED, RETRY)

    assert registry.get_sample_value("mailer_retries_total", {"lane": "otp", "tier": "3s"}) == 0


async def test_letters_are_counted_by_tier() -> None:
    registry = CollectorRegistry()
    retries = KafkaRetries(WritingProducer(), [TIER], MailerMetrics(registry))

    await retries.put(CARRIED, RETRY)

    assert registry.get_sample_value("mailer_retries_total", {"lane": "otp", "tier": "3s"}) == 1


def test_each_tier_of_each_lane_has_a_topic_of_its_own() -> None:
    tiers = [Tier(lane, timedelta(seconds=seconds)) for lane in Lane for seconds in (1, 60)]

    assert len({tier_topic(tier) for tier in tiers}) == 4
