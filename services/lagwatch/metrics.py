"""Every metric of lagwatch. Labels are closed sets: the watched groups and topics, their partitions, reasons.

What Kafka said is kept as it was said, and turned into samples when somebody scrapes: so the samples of one queue are
from one moment, offsets can be counters (`rate()` is then legal), and the wait of the oldest record keeps growing
between measurements, also while Kafka is away. Nothing is shown before it was measured once, and what cannot be
measured any more keeps its last values beside timestamps that stand still: stale, never zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from services.chassis.clock import Clock
from services.chassis.lag import PartitionLag, Queue, QueueLag, longest_wait, with_age_of

V = TypeVar("V")

PARTITION = ["group", "topic", "partition"]


class LagwatchMetrics(Collector):
    """The metrics of one process, on its own registry; the board of the measuring verb."""

    def __init__(self, registry: CollectorRegistry, clock: Clock, reasons: Iterable[str]) -> None:
        """Register everything; failures start at 0 for each reason, measurements are absent until they exist."""
        self._clock = clock
        self._partitions: dict[Queue, dict[int, PartitionLag]] = {}
        self._complete_at: dict[Queue, datetime] = {}
        self._members: dict[str, int] = {}
        self._ends: dict[str, dict[int, int]] = {}
        self._last_success: datetime | None = None
        self._poll_seconds = Histogram(
            "lagwatch_poll_duration_seconds",
            "How long one measurement of everything took. Buckets from a calm broker (25 ms) to a silent one.",
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=registry,
        )
        self._failures = Counter(
            "lagwatch_poll_failures",
            "Measurements that failed wholly or in part, by reason; one measurement counts once per reason.",
            ["reason"],
            registry=registry,
        )
        for reason in reasons:
            self._failures.labels(reason)
        registry.register(self)

    def show(self, lag: QueueLag) -> None:
        """Replace what is shown of the queue; what is unmeasured this time keeps what was shown before."""
        known = self._partitions.get(lag.queue, {})
        parts = {part.partition: with_age_of(known.get(part.partition), part) for part in lag.partitions}
        ends = {part.partition: part.end for part in lag.partitions}
        self._partitions[lag.queue] = _kept(known, lag.unmeasured) | parts
        self._ends[lag.queue.topic] = _kept(self._ends.get(lag.queue.topic, {}), lag.unmeasured) | ends
        if lag.members is not None:
            self._members[lag.queue.group] = lag.members
        if lag.is_complete:
            self._complete_at[lag.queue] = lag.measured_at

    def polled(self, started_at: datetime, took: timedelta, failures: Iterable[str]) -> None:
        """Count one measurement; it is a success when it has no failures."""
        self._poll_seconds.observe(took.total_seconds())
        reasons = list(failures)
        for reason in reasons:
            self._failures.labels(reason).inc()
        if not reasons:
            self._last_success = started_at

    def describe(self) -> Iterator[Metric]:
        """Yield every family of measurements, without samples."""
        yield from _families().values()

    def collect(self) -> Iterator[Metric]:
        """Yield what is known now."""
        families = _families()
        now = self._clock()
        for queue, partitions in self._partitions.items():
            _add_queue(families, queue, partitions.values(), now)
        for topic, ends in self._ends.items():
            for number, end in ends.items():
                families["produced"].add_metric([topic, str(number)], end)
        for group, members in self._members.items():
            families["members"].add_metric([group], members)
        for queue, at in self._complete_at.items():
            families["group_success"].add_metric([queue.group, queue.topic], at.timestamp())
        if self._last_success is not None:
            families["success"].add_metric([], self._last_success.timestamp())
        yield from families.values()


def _kept(known: Mapping[int, V], unmeasured: Iterable[int]) -> dict[int, V]:
    """Return what is still to be shown of earlier measurements; partitions that exist no more are not."""
    return {number: known[number] for number in unmeasured if number in known}


def _add_queue(
    families: dict[str, CounterMetricFamily | GaugeMetricFamily],
    queue: Queue,
    partitions: Iterable[PartitionLag],
    now: datetime,
) -> None:
    parts = list(partitions)
    for part in parts:
        labels = [queue.group, queue.topic, str(part.partition)]
        families["messages"].add_metric(labels, part.messages)
        families["vanished"].add_metric(labels, part.vanished)
        families["committed"].add_metric(labels, part.committed)
        if not part.is_age_unknown:
            families["oldest"].add_metric(labels, part.oldest_at.timestamp() if part.oldest_at else 0)
    wait = longest_wait(parts, now)
    if wait is not None:
        families["seconds"].add_metric([queue.group, queue.topic], wait.total_seconds())


def _families() -> dict[str, CounterMetricFamily | GaugeMetricFamily]:
    return {
        "messages": GaugeMetricFamily(
            "lagwatch_group_lag_messages",
            "Records that wait for the group: end of the log - committed offset (its beginning if none is committed).",
            labels=PARTITION,
        ),
        "seconds": GaugeMetricFamily(
            "lagwatch_group_lag_seconds",
            "How long the oldest waiting record of all partitions has waited, worked out at the scrape; 0: none waits.",
            labels=["group", "topic"],
        ),
        "oldest": GaugeMetricFamily(
            "lagwatch_group_oldest_unprocessed_timestamp_seconds",
            "When the oldest waiting record was created (Unix time); 0: none waits; absent: it could not be read.",
            labels=PARTITION,
        ),
        "vanished": GaugeMetricFamily(
            "lagwatch_group_vanished_messages",
            "Records deleted (retention) before the group got to them; 0 again after its next commit.",
            labels=PARTITION,
        ),
        "committed": CounterMetricFamily(
            "lagwatch_group_committed",
            "Committed offset; the beginning of the log when none is committed. Falls when a topic is made anew.",
            labels=PARTITION,
        ),
        "produced": CounterMetricFamily(
            "lagwatch_topic_produced",
            "End of the log: the offset that the next record will get. Falls when a topic is made anew.",
            labels=["topic", "partition"],
        ),
        "members": GaugeMetricFamily(
            "lagwatch_group_members", "Consumers in the group; 0: nobody works on the queue.", labels=["group"]
        ),
        "group_success": GaugeMetricFamily(
            "lagwatch_group_last_success_timestamp_seconds",
            "When this queue was last measured completely (Unix time). Standing still: its values are old.",
            labels=["group", "topic"],
        ),
        "success": GaugeMetricFamily(
            "lagwatch_last_success_timestamp_seconds",
            "When everything watched was last measured completely (Unix time). Standing still: see poll failures.",
            labels=[],
        ),
    }
