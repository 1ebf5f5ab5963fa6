"""A kafka-python consumer that only looks: in no group, so it commits nothing and moves nobody's place. Blocks."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from kafka import KafkaConsumer

from services.chassis.kafka_client import open_client

FETCH_WAIT_MS = 100  # how long a broker may wait for records; it is asked only where some are


def open_reader(config: Mapping[str, Any], within: timedelta, **sizes: Any) -> Any:
    """Connect; `sizes` bound, in octets, what one fetch brings. Raises as `open_client` does."""
    return open_client(
        KafkaConsumer,
        within,
        **config,
        **sizes,
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=FETCH_WAIT_MS,
        metrics_enabled=False,
    )
