"""What lagwatch tells of a real broker, compared with the test's own account of what it wrote and committed."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2

from tests.conditions import wait_until
from tests.integration.lagwatch.lagwatch_process import LagwatchProcess, lagwatch_running
from tests.integration.lagwatch.real_queues import UNCLOSED, Broker, RealQueues, real_queues

pytestmark = UNCLOSED

WITHIN_S = 20
LANES = 6  # tests that ask for one


class Lane:
    """Two topics, a group for each, and a lagwatch that looks at both."""

    def __init__(self, hands: RealQueues, lagwatch: LagwatchProcess, name: str) -> None:
        self.hands = hands
        self.lagwatch = lagwatch
        self.letters, self.mailer = f"letters-{name}", f"mailer-{name}"
        self.events, self.otp = f"events-{name}", f"otp-{name}"

    def messages(self, partition: int) -> float | None:
        return self._partition("lagwatch_group_lag_messages", partition)

    def oldest(self, partition: int) -> float | None:
        return self._partition("lagwatch_group_oldest_unprocessed_timestamp_seconds", partition)

    def vanished(self) -> float | None:
        return self.lagwatch.value("lagwatch_group_vanished_messages", group=self.mailer, topic=self.letters)

    def wait_s(self) -> float | None:
        return self.lagwatch.value("lagwatch_group_lag_seconds", group=self.mailer, topic=self.letters)

    def measured_at(self, group: str, topic: str) -> float | None:
        return self.lagwatch.value("lagwatch_group_last_success_timestamp_seconds", group=group, topic=topic)

    def _partition(self, name: str, partition: int) -> float | None:
        return self.lagwatch.value(name, group=self.mailer, topic=self.letters, partition=str(partition))


@pytest.fixture(scope="module")
def lanes(kafka: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Iterator[Lane]]:
    """One process that watches a lane for each test: to start it is what takes long."""
    names = [uuid.uuid4().hex[:12] for _ in range(LANES)]
    queues = ",".join(f"mailer-{name}=letters-{name},otp-{name}=events-{name}" for name in names)
    log = tmp_path_factory.mktemp("lagwatch") / "lagwatch.log"
    with real_queues(kafka.address) as hands, lagwatch_running(kafka.address, queues, log) as lagwatch:
        lanes = [Lane(hands, lagwatch, name) for name in names]
        for lane in lanes:
            hands.create(lane.letters, partitions=2)
            hands.create(lane.events)
            hands.commit(lane.mailer, lane.letters, 1, 0)  # groups that are there; they have read nothing else
            hands.commit(lane.otp, lane.events, 0, 0)
        wait_until(lagwatch.is_ready, within_s=2 * WITHIN_S, what="everything was measured once")
        yield iter(lanes)


@pytest.fixture
def lane(lanes: Iterator[Lane]) -> Lane:
    return next(lanes)


def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def test_the_lag_follows_a_queue_from_its_first_record_to_its_last(lane: Lane) -> None:
    asked = [now() - timedelta(seconds=count) for count in (120, 60, 30)]

    lane.hands.append(lane.letters, 0, *asked)
    wait_until(lambda: lane.messages(0) == 3, within_s=WITHIN_S, what="nothing was committed: all three wait")
    assert lane.oldest(0) == asked[0].timestamp()
    assert (lane.messages(1), lane.oldest(1)) == (0, 0)

    lane.hands.commit(lane.mailer, lane.letters, 0, 2)
    wait_until(lambda: lane.messages(0) == 1, within_s=WITHIN_S, what="two were committed: one waits")
    assert lane.oldest(0) == asked[2].timestamp()

    lane.hands.commit(lane.mailer, lane.letters, 0, 3)
    wait_until(lambda: lane.messages(0) == 0, within_s=WITHIN_S, what="all were committed: none waits")
    assert (lane.oldest(0), lane.wait_s()) == (0, 0)


def test_the_wait_is_that_of_the_older_partition_and_grows_with_the_clock(lane: Lane) -> None:
    older, newer = now() - timedelta(seconds=300), now() - timedelta(seconds=10)

    lane.hands.append(lane.letters, 0, newer)
    lane.hands.append(lane.letters, 1, older)
    wait_until(lambda: (lane.messages(0), lane.messages(1)) == (1, 1), within_s=WITHIN_S)

    before = time.time()
    waited = lane.wait_s()
    after = time.time()
    assert waited is not None
    assert before - older.timestamp() <= waited <= after - older.timestamp()


def test_offsets_are_counters_that_follow_the_log_and_the_commits(lane: Lane) -> None:
    lane.hands.append(lane.letters, 0, now(), now(), now())
    lane.hands.commit(lane.mailer, lane.letters, 0, 2)

    labels = {"topic": lane.letters, "partition": "0"}

    def committed() -> float | None:
        return lane.lagwatch.value("lagwatch_group_committed_total", group=lane.mailer, **labels)

    wait_until(lambda: committed() == 2, within_s=WITHIN_S)
    assert lane.lagwatch.value("lagwatch_topic_produced_total", **labels) == 3


def test_records_that_were_deleted_unread_are_told_and_wait_no_more(lane: Lane) -> None:
    written = [now() - timedelta(seconds=count) for count in (50, 40, 30, 20)]
    lane.hands.append(lane.letters, 0, *written)
    lane.hands.commit(lane.mailer, lane.letters, 0, 1)

    lane.hands.cut(lane.letters, 0, before=3)

    wait_until(lambda: lane.vanished() == 2, within_s=WITHIN_S, what="of four one was done and only the last exists")
    assert lane.messages(0) == 1
    assert lane.oldest(0) == written[3].timestamp()
    counted, stands_at = lane.lagwatch.failures("offset_out_of_range"), lane.measured_at(lane.mailer, lane.letters)
    wait_until(lambda: lane.lagwatch.failures("offset_out_of_range") >= counted + 2, within_s=WITHIN_S)
    assert counted > 0
    assert lane.measured_at(lane.mailer, lane.letters) == stands_at


def test_a_deleted_topic_is_counted_keeps_its_values_and_hides_no_other(lane: Lane) -> None:
    lane.hands.append(lane.letters, 0, now())
    wait_until(lambda: lane.messages(0) == 1, within_s=WITHIN_S)

    lane.hands.delete(lane.letters)
    failed = lane.lagwatch.failures("topic_unknown")
    wait_until(lambda: lane.lagwatch.failures("topic_unknown") >= failed + 3, within_s=WITHIN_S)

    gone, there = lane.measured_at(lane.mailer, lane.letters), lane.measured_at(lane.otp, lane.events)
    assert gone is not None
    assert there is not None
    assert gone < there
    assert lane.messages(0) == 1
    wait_until(lambda: (lane.measured_at(lane.otp, lane.events) or 0) > there, within_s=WITHIN_S)
    assert lane.measured_at(lane.mailer, lane.letters) == gone


def test_a_topic_that_comes_back_is_measured_again(lane: Lane) -> None:
    lane.hands.append(lane.letters, 0, now(), now())
    lane.hands.delete(lane.letters)
    failed = lane.lagwatch.failures("topic_unknown")
    wait_until(lambda: lane.lagwatch.failures("topic_unknown") > failed, within_s=WITHIN_S)

    lane.hands.create(lane.letters)
    lane.hands.append(lane.letters, 0, now())

    wait_until(lambda: lane.messages(1) is None, within_s=WITHIN_S, what="the new topic has one partition")
    wait_until(lambda: lane.messages(0) == 1, within_s=WITHIN_S, what="and one record")


def test_the_kubelet_hears_that_it_is_ready_and_sigterm_ends_it_in_time(kafka: Broker, tmp_path: Path) -> None:
    topic = f"letters-{uuid.uuid4().hex[:12]}"
    with real_queues(kafka.address) as hands:
        hands.create(topic)

    with lagwatch_running(kafka.address, f"mailer={topic}", tmp_path / "lagwatch.log") as lagwatch:
        wait_until(lagwatch.is_ready, within_s=WITHIN_S)
        with grpc.insecure_channel(lagwatch.probe_address) as channel:
            check = channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=health_pb2.HealthCheckResponse.FromString,
            )
            answer = check(health_pb2.HealthCheckRequest(service="readiness"), timeout=5)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING

        lagwatch.terminate()
        assert lagwatch.exit_code(within_s=5) == 0
