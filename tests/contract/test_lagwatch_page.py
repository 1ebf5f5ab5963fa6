"""The page of a lagwatch that watches everything we have, with letters everywhere: who collects it takes 500 series."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from deploy.create_topics import TOPICS
from services.chassis.clock import system_clock
from services.chassis.lag import PartitionReading, QueueLag, lag_of
from services.chassis.lane import Flow, LaneLag
from services.chassis.settings import Profile
from services.chassis.telemetry import new_registry
from services.lagwatch.metrics import LagwatchMetrics
from services.lagwatch.ports import Reason
from services.lagwatch.settings import LagwatchSettings

MOST = 500
OF_THE_PROCESS = 20  # process_*, python_*: not on the registry of a test


def test_a_page_with_letters_everywhere_has_few_series() -> None:
    settings = LagwatchSettings(profile=Profile.LAPTOP, kafka_brokers="127.0.0.1:9092")
    registry, now = new_registry("lagwatch", "0"), datetime.now(UTC)
    metrics = LagwatchMetrics(registry, system_clock, Reason)
    waiting = {
        topic.name: tuple(
            lag_of(PartitionReading(number, 1, 0, 5, head_at=now - timedelta(seconds=60)))
            for number in range(topic.partitions)
        )
        for topic in TOPICS
    }

    for queue in settings.queues:
        metrics.show(QueueLag(queue, waiting[queue.topic], frozenset(), 1, now))
    for lane in settings.lanes:
        flow = Flow(busy=((timedelta(seconds=30), 60),), before=LaneLag(now, waiting[lane.main.topic]))
        metrics.show_lane(lane.name, lane.main, flow)
    metrics.polled(now, timedelta(0), Reason, is_whole=True)

    page = generate_latest(registry).decode()
    shown = {sample.name for family in text_string_to_metric_families(page) for sample in family.samples}
    series = sum(len(family.samples) for family in text_string_to_metric_families(page))
    assert {"lagwatch_lane_predicted_wait_seconds", "lagwatch_group_predicted_wait_seconds"} <= shown
    assert series < MOST - OF_THE_PROCESS
