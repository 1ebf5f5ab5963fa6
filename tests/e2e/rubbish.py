"""Records that nobody can read: as many as stop a partition, and not one more."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kafka import KafkaProducer

ENOUGH = 200  # of which half pause a partition; what comes behind them is not rubbish
WRITTEN_WITHIN_S = 30.0


def pause_partitions(brokers: str, partitions: Mapping[str, Iterable[int]]) -> None:
    """Write so much rubbish into these partitions, by topic, that their reader leaves them alone."""
    producer = KafkaProducer(bootstrap_servers=[brokers])
    try:
        for topic, numbers in partitions.items():
            for number in numbers:
                for _ in range(ENOUGH):
                    producer.send(topic, value=b"rubbish", partition=number)
        producer.flush(timeout=WRITTEN_WITHIN_S)
    finally:
        producer.close()
