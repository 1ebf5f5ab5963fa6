"""Every metric of lagwatch. Labels are closed sets: the watched groups and topics, their partitions, lanes, reasons.

What Kafka said is kept as it was said, and turned into samples when somebody scrapes: so the samples of one queue are
from one moment, offsets can be counters (`rate()` is then legal), and the wait of the oldest record keeps growing
between measurements, also while Kafka is away. Nothing is shown before it was measured once. What cannot be measured
any more keeps its last values beside timestamps that stand still, but neither a zero, which would soon be a guess, nor
a predicted wait: from `FRESH` on they are absent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from services.chassis.clock import Clock
from services.chassis.lag import PartitionLag, Queue, QueueLag, longest_wait
from services.chassis.lane import FRESH, Flow, wait_in

V = TypeVar("V")

PARTITION = ["group", "topic", "partition"]
LANE = ["lane"]
Families = dict[str, CounterMetricFamily | GaugeMetricFamily]


@dataclass(frozen=True, slots=True)
class _Shown:
    """One partition, as it was measured last."""

    lag: PartitionLag
    at: datetime


class LagwatchMetrics(Collector):
    """The metrics of one process, on its own registry; the board of the measuring verb."""

    def __init__(self, registry: CollectorRegistry, clock: Clock, reasons: Iterable[str]) -> None:
        """Register everything; failures start at 0 for each reason, measurements are absent until they exist."""
        self._clock = clock
        self._partitions: dict[Queue, dict[int, _Shown]] = {}
        self._lanes: dict[str, tuple[Queue, Flow]] = {}
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
        parts = {part.partition: _Shown(part, lag.measured_at) for part in lag.partitions}
        ends = {part.partition: part.end for part in lag.partitions}
        self._partitions[lag.queue] = _kept(self._partitions.get(lag.queue, {}), lag.unmeasured) | parts
        self._ends[lag.queue.topic] = _kept(self._ends.get(lag.queue.topic, {}), lag.unmeasured) | ends
        if lag.members is not None:
            self._members[lag.queue.group] = lag.members
        if lag.is_complete and not lag.is_doubtful:
            self._complete_at[lag.queue] = lag.measured_at

    def show_lane(self, lane: str, main: Queue, flow: Flow) -> None:
        """Replace what is shown of the lane."""
        self._lanes[lane] = (main, flow)

    def polled(self, started_at: datetime, took: timedelta, failures: Iterable[str], *, is_whole: bool) -> None:
        """Count one measurement, and each failure; it is a success when nothing was missing."""
        self._poll_seconds.observe(took.total_seconds())
        for reason in failures:
            self._failures.labels(reason).inc()
        if is_whole:
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
        for lane, (main, flow) in self._lanes.items():
            _add_lane(families, lane, main, flow, now)
        yield from families.values()


def _kept(known: Mapping[int, V], unmeasured: Iterable[int]) -> dict[int, V]:
    """Return what is still to be shown of earlier measurements; partitions that exist no more are not."""
    return {number: known[number] for number in unmeasured if number in known}


def _add_queue(families: Families, queue: Queue, partitions: Iterable[_Shown], now: datetime) -> None:
    shown = list(partitions)
    families["vanished"].add_metric([queue.group, queue.topic], sum(part.lag.vanished for part in shown))
    for part in shown:
        labels = [queue.group, queue.topic, str(part.lag.partition)]
        families["committed"].add_metric(labels, part.lag.committed)
        if not part.lag.messages and now - part.at > FRESH:
            continue
        families["messages"].add_metric(labels, part.lag.messages)
        if not part.lag.is_age_unknown:
            families["oldest"].add_metric(labels, part.lag.oldest_at.timestamp() if part.lag.oldest_at else 0)
    wait = longest_wait([part.lag for part in shown], now)
    if wait or (wait is not None and all(now - part.at <= FRESH for part in shown)):
        families["seconds"].add_metric([queue.group, queue.topic], wait.total_seconds())


def _add_lane(families: Families, lane: str, main: Queue, flow: Flow, now: datetime) -> None:
    measured = flow.before
    if measured is None:
        return
    families["arrivals"].add_metric([lane], flow.arrived)
    families["hand_overs"].add_metric([lane], flow.handed_over)
    families["lane_success"].add_metric([lane], measured.at.timestamp())
    if flow.per_second is not None:
        families["rate"].add_metric([lane], flow.per_second)
    if measured.backlog or now - measured.at <= FRESH:
        families["backlog"].add_metric([lane], measured.backlog)
        since = measured.waits_since
        families["age"].add_metric([lane], max(0.0, (now - since).total_seconds()) if since else 0)
    if wait := wait_in(flow, now):
        families["wait"].add_metric([lane], wait.whole.total_seconds())
        for number, partition in wait.partitions.items():
            families["partition_wait"].add_metric([main.group, main.topic, str(number)], partition.total_seconds())


def _families() -> Families:
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
            "Records deleted (retention) before the group got to them; those of a partition until its next commit.",
            labels=["group", "topic"],
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
            "When this queue was last measured completely, with nothing amiss. Standing still: do not rely on it.",
            labels=["group", "topic"],
        ),
        "success": GaugeMetricFamily(
            "lagwatch_last_success_timestamp_seconds",
            "When everything watched was last measured completely (Unix time). Standing still: see poll failures.",
            labels=[],
        ),
        "partition_wait": GaugeMetricFamily(
            "lagwatch_group_predicted_wait_seconds",
            "What a letter asked for now would wait behind this partition of a lane's main topic; absent: unknown.",
            labels=PARTITION,
        ),
        "backlog": GaugeMetricFamily(
            "lagwatch_lane_backlog_messages",
            "Letters that wait in the lane's main topic and its tiers; what its owner has not published comes on top.",
            labels=LANE,
        ),
        "age": GaugeMetricFamily(
            "lagwatch_lane_age_seconds",
            "How long ago the letter of the lane was asked for that has waited longest, tiers included; 0: none waits.",
            labels=LANE,
        ),
        "wait": GaugeMetricFamily(
            "lagwatch_lane_predicted_wait_seconds",
            "What a letter asked for now would wait, wherever in the lane; absent: not measured for 15 s.",
            labels=LANE,
        ),
        "rate": GaugeMetricFamily(
            "lagwatch_lane_hand_overs_per_second",
            "How fast letters leave while they queue, as learnt last; what the predicted wait uses; absent: unknown.",
            labels=LANE,
        ),
        "arrivals": CounterMetricFamily(
            "lagwatch_lane_arrivals", "Letters that came into the main topic, as seen since the start.", labels=LANE
        ),
        "hand_overs": CounterMetricFamily(
            "lagwatch_lane_hand_overs", "Letters that a relay took, as seen since the start.", labels=LANE
        ),
        "lane_success": GaugeMetricFamily(
            "lagwatch_lane_last_success_timestamp_seconds",
            "When the lane was last measured whole (Unix time). Standing still: its values are old.",
            labels=LANE,
        ),
    }
