"""lagwatch while Kafka is away, silent or not there yet: it answers, shows nothing false, and finds back by itself.

The broker is one of our own, because these tests kill it.
"""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from deploy.dev.kafka_broker import KafkaBroker
from services.chassis.lane import FRESH
from tests.conditions import wait_until
from tests.integration.lagwatch.lagwatch_process import LagwatchProcess, lagwatch_running
from tests.integration.lagwatch.real_queues import UNCLOSED, real_queues

pytestmark = UNCLOSED

WITHIN_S = 40  # a broker that was killed is let in again after 3 s, and two processors are shared with other tests


@pytest.fixture(scope="module")
def killed_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    broker = KafkaBroker(tmp_path_factory.mktemp("lagwatch-kafka"))
    yield broker
    broker.kill()


@pytest.fixture
def broker(killed_broker: KafkaBroker) -> KafkaBroker:
    if not killed_broker.is_running:
        killed_broker.start()
    return killed_broker


@pytest.fixture
def queue(broker: KafkaBroker) -> tuple[str, str]:
    """A group and a topic with three records, of which the group has done one."""
    group, topic = (f"{word}-{uuid.uuid4().hex[:12]}" for word in ("mailer", "letters"))
    with real_queues(broker.address) as hands:
        hands.create(topic)
        hands.append(topic, 0, *[datetime.now(UTC)] * 3)
        hands.commit(group, topic, 0, 1)
    return group, topic


@contextmanager
def watching(broker: KafkaBroker, queue: tuple[str, str], folder: Path) -> Iterator[LagwatchProcess]:
    with lagwatch_running(broker.address, "=".join(queue), folder / "lagwatch.log") as lagwatch:
        wait_until(lagwatch.is_up, within_s=WITHIN_S, what="the page answers")
        yield lagwatch


def lag(lagwatch: LagwatchProcess, queue: tuple[str, str]) -> float | None:
    return lagwatch.value("lagwatch_group_lag_messages", group=queue[0], topic=queue[1], partition="0")


def age_s(lagwatch: LagwatchProcess, queue: tuple[str, str]) -> float:
    seconds = lagwatch.value("lagwatch_group_lag_seconds", group=queue[0], topic=queue[1])
    assert seconds is not None
    return seconds


def last_success(lagwatch: LagwatchProcess) -> float | None:
    return lagwatch.value("lagwatch_last_success_timestamp_seconds")


def wait_for_failures(lagwatch: LagwatchProcess, count: int) -> None:
    """Wait for further measurements that fail because the broker is away."""
    before = lagwatch.failures("broker_away")
    wait_until(lambda: lagwatch.failures("broker_away") >= before + count, within_s=WITHIN_S)


def test_without_kafka_it_starts_shows_no_lag_and_is_ready_when_kafka_comes(
    broker: KafkaBroker, queue: tuple[str, str], tmp_path: Path
) -> None:
    broker.kill()

    with watching(broker, queue, tmp_path) as lagwatch:
        wait_for_failures(lagwatch, 1)
        assert lagwatch.page("/readyz") == (503, "not ready: first measurement (broker_away)\n")
        assert (lag(lagwatch, queue), last_success(lagwatch)) == (None, None)

        broker.start()

        wait_until(lagwatch.is_ready, within_s=WITHIN_S)
        assert lag(lagwatch, queue) == 2


def test_a_broker_that_dies_leaves_old_values_that_say_so_and_new_ones_when_it_returns(
    broker: KafkaBroker, queue: tuple[str, str], tmp_path: Path
) -> None:
    with watching(broker, queue, tmp_path) as lagwatch:
        wait_until(lagwatch.is_ready, within_s=WITHIN_S)

        broker.kill()
        wait_for_failures(lagwatch, 1)
        stood_still_at, aged = last_success(lagwatch), age_s(lagwatch, queue)
        wait_for_failures(lagwatch, 1)
        assert (lag(lagwatch, queue), last_success(lagwatch)) == (2, stood_still_at)
        assert age_s(lagwatch, queue) > aged
        assert lagwatch.is_ready()

        broker.start()
        with real_queues(broker.address) as hands:
            hands.commit(*queue, 0, 3)
        wait_until(lambda: lag(lagwatch, queue) == 0, within_s=WITHIN_S)
        assert (last_success(lagwatch) or 0) > (stood_still_at or 0)


def test_while_kafka_is_away_an_old_zero_and_an_old_wait_are_no_longer_told(
    broker: KafkaBroker, tmp_path: Path
) -> None:
    name = uuid.uuid4().hex[:12]
    mailer = (f"mailer-{name}", f"letters-{name}")
    queues = [mailer, (f"owner-{name}", f"mail.delivery.{name}.v1")]
    with real_queues(broker.address) as hands:
        for group, topic in queues:
            hands.create(topic)
            hands.commit(group, topic, 0, 0)
        hands.append(mailer[1], 0, datetime.now(UTC) - timedelta(seconds=100))
    watched = ",".join("=".join(queue) for queue in queues)
    with lagwatch_running(broker.address, watched, tmp_path / "lagwatch.log", lanes=name) as lagwatch:

        def lane(metric: str) -> float | None:
            return lagwatch.value(f"lagwatch_lane_{metric}", lane=name)

        wait_until(lambda: lagwatch.is_up() and lane("predicted_wait_seconds"), within_s=WITHIN_S)
        assert lag(lagwatch, queues[1]) == 0

        broker.kill()
        wait_for_failures(lagwatch, 1)
        measured_at = lane("last_success_timestamp_seconds") or 0
        wait_until(lambda: lane("predicted_wait_seconds") is None, within_s=WITHIN_S, what="a wait is told no more")

        assert time.time() - measured_at >= FRESH.total_seconds()
        assert (lag(lagwatch, mailer), lane("backlog_messages")) == (1, 1)
        assert (lane("age_seconds") or 0) >= 100
        assert lag(lagwatch, queues[1]) is None
        assert lane("last_success_timestamp_seconds") == measured_at

        broker.start()
        wait_until(lambda: lane("predicted_wait_seconds"), within_s=WITHIN_S, what="and is told again")
        assert (lag(lagwatch, queues[1]), lag(lagwatch, mailer)) == (0, 1)


def test_a_silent_broker_holds_up_neither_the_page_nor_the_end(
    broker: KafkaBroker, queue: tuple[str, str], tmp_path: Path
) -> None:
    with watching(broker, queue, tmp_path) as lagwatch:
        wait_until(lagwatch.is_ready, within_s=WITHIN_S)

        os.kill(broker.pid, signal.SIGSTOP)  # takes connections in, and says nothing
        try:
            wait_for_failures(lagwatch, 2)
            assert lag(lagwatch, queue) == 2
            lagwatch.terminate()
            assert lagwatch.exit_code(within_s=5) == 0
        finally:
            os.kill(broker.pid, signal.SIGCONT)


def test_a_broker_that_was_silent_is_found_again(broker: KafkaBroker, queue: tuple[str, str], tmp_path: Path) -> None:
    with watching(broker, queue, tmp_path) as lagwatch:
        wait_until(lagwatch.is_ready, within_s=WITHIN_S)

        os.kill(broker.pid, signal.SIGSTOP)
        try:
            wait_for_failures(lagwatch, 1)
        finally:
            os.kill(broker.pid, signal.SIGCONT)

        resumed = time.time()
        wait_until(lambda: (last_success(lagwatch) or 0) > resumed, within_s=WITHIN_S)


def test_sigterm_ends_it_also_while_kafka_is_away(broker: KafkaBroker, queue: tuple[str, str], tmp_path: Path) -> None:
    broker.kill()

    with watching(broker, queue, tmp_path) as lagwatch:
        wait_for_failures(lagwatch, 1)
        lagwatch.terminate()

        assert lagwatch.exit_code(within_s=5) == 0
