"""Waiting until nothing is on its way any more, so that what comes late is counted where it belongs.

A letter that was published while Redis was away is still in the outbox, and is published once more seconds later; the
mailer, whose ledger was away too, sends the same bytes again.
"""

from __future__ import annotations

import time
from typing import Any

import redis

from tests.conditions import wait_until
from tests.e2e.metrics_page import page_of, total
from tests.e2e.stacks import Running

QUIET_WITHIN_S = 90.0


def wait_until_quiet(running: Running) -> None:
    """Wait until nothing waits to be published, and then until nobody has a record to handle."""
    wait_until_published(running)
    now = time.time()
    wait_until(lambda: _nothing_waits_since(running, now), within_s=QUIET_WITHIN_S, what="queues that are empty")


def wait_until_published(running: Running) -> None:
    """Wait until the outboxes of otp are empty."""
    client: Any = redis.Redis.from_url(f"redis://{running.stack.address('redis')}/0")
    try:
        outboxes = list(client.scan_iter(match="otp:*:outbox"))
        wait_until(
            lambda: not any(client.xlen(outbox) for outbox in outboxes), within_s=QUIET_WITHIN_S, what="empty outboxes"
        )
    finally:
        client.close()


def _nothing_waits_since(running: Running, moment: float) -> bool:
    page = page_of(running.stack.address("lagwatch.http"))
    is_fresh = total(page, "lagwatch_last_success_timestamp_seconds") > moment
    return is_fresh and total(page, "lagwatch_group_lag_messages") == 0
