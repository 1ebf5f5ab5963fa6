"""What lagwatch costs: `python -m bench.lagwatch`. Writes `.kip/bench/lagwatch.json` and prints a summary.

100 partitions and 10 groups: two lanes with three tiers each and their deliveries, 10 partitions a topic. The process
is the real one with the settings that people run it with, on a real broker; somebody collects /metrics every 5 s, as
Prometheus does. Three times of day: nothing waits; letters come and leave, so that every group moves between two
measurements, every head is read anew and hand-overs are counted; all groups stand still with letters in front of them.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from kafka import KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError
from kafka.structs import OffsetAndMetadata
from kip.mailer.v1 import mail_events_pb2

from bench.cpu import cpu_seconds
from bench.environment import CHECKOUT
from bench.machine import machine
from bench.report import Spread, spread
from deploy.create_topics import HOUR_MS, Topic, create_topics, laptop
from deploy.dev.kafka_broker import KafkaBroker
from deploy.dev.problem import told_in_words
from deploy.dev.process_table import PROCESSES
from deploy.dev.python_process import PythonProcess
from services.chassis.lag import Queue
from services.lagwatch.settings import LagwatchSettings
from tests.conditions import wait_until

FOLDER = CHECKOUT / ".kip" / "bench"
PARTITIONS = 10
LANES = ("first", "second")
DELAYS = ("1s", "10s", "1m")
SCRAPE_S = 5.0
TURN_S = 1.0
LETTERS = 20  # of each lane, come and leave in a turn
TIER_TURNS = 5  # a measurement's length: in each, a letter comes into every partition of every tier, and one leaves
GOAL = 0.01
SETTLING_S = 10.0


class Report(msgspec.Struct, frozen=True):
    """What a run found."""

    made_at: datetime
    machine: dict[str, object]
    partitions: int
    groups: int
    poll_interval_s: float
    scrape_interval_s: float
    letters_per_second: float
    """Of both lanes together, while letters come and leave."""
    core_share: dict[str, Spread]
    """Which share of a core the process used, by time of day."""
    measurements_failed: float
    goal: float
    is_met: bool


def queues() -> list[Queue]:
    """Return what is watched."""
    of_a_lane = (
        [
            Queue(f"mailer-{lane}", f"requested-{lane}"),
            *(Queue(f"mailer-retry-{lane}-{delay}", f"mail.retry.{lane}.{delay}.v1") for delay in DELAYS),
            Queue(f"owner-{lane}", f"mail.delivery.{lane}.v1"),
        ]
        for lane in LANES
    )
    return [queue for lane in of_a_lane for queue in lane]


class Traffic:
    """Writes records and commits for all groups."""

    def __init__(self, brokers: str) -> None:
        self._producer = KafkaProducer(bootstrap_servers=[brokers], linger_ms=5)
        self._admin = KafkaAdminClient(bootstrap_servers=[brokers])
        self._ends: Counter[TopicPartition] = Counter()
        self._event = mail_events_pb2.MailDelivery(
            owner_id="4f1c2b7e9d3a4c58",
            source=mail_events_pb2.SOURCE_SMTP_REPLY,
            handed_over=mail_events_pb2.HandedOver(route="first"),
        ).SerializeToString()
        wait_until(self._has_coordinators, within_s=60, what="the broker keeps groups")

    def write(self, each: int, *, tiers: int) -> None:
        """Write so many records into every partition, and so many into those of the tiers."""
        for queue in queues():
            count = tiers if queue.topic.startswith("mail.retry.") else each
            value = self._event if queue.topic.startswith("mail.delivery.") else b"s" * 400
            headers = [("ce_time", datetime.now(UTC).isoformat().encode()), ("not-before", b"2026-11-30T00:00:00Z")]
            for partition in range(PARTITIONS):
                for _ in range(count):
                    self._producer.send(queue.topic, value=value, headers=headers, partition=partition)
                self._ends[TopicPartition(queue.topic, partition)] += count
        self._producer.flush()

    def commit(self, *, left: int) -> None:
        """Let every group work until so many records wait in each partition."""
        for queue in queues():
            places = [TopicPartition(queue.topic, partition) for partition in range(PARTITIONS)]
            offsets = {place: OffsetAndMetadata(max(0, self._ends[place] - left), "", -1) for place in places}
            self._admin.alter_group_offsets(queue.group, offsets)

    def _has_coordinators(self) -> bool:
        """Ask for a group: a young broker makes the topic of groups when it is first asked, and refuses meanwhile."""
        try:
            self._admin.list_group_offsets(["nobody"])
        except KafkaError:
            return False
        return True

    def close(self) -> None:
        """Let go of the broker."""
        self._producer.close()
        self._admin.close()


@contextmanager
def meanwhile(do: Callable[[], object], every_s: float) -> Iterator[None]:
    """Do it again and again in a thread of its own."""
    over = threading.Event()

    def work() -> None:
        while not over.wait(every_s):
            do()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def shares(pid: int, repetitions: int, seconds: float) -> Spread:
    """Return which share of a core a process uses from now on."""
    time.sleep(SETTLING_S)
    found = []
    for _ in range(repetitions):
        before, started = cpu_seconds(pid), time.monotonic()
        time.sleep(seconds)
        found.append((cpu_seconds(pid) - before) / (time.monotonic() - started))
    return spread(found)


def measured(process: PythonProcess, traffic: Traffic, repetitions: int, seconds: float) -> Mapping[str, Spread]:
    """Return the core's share at each time of day."""
    turns = itertools.count()

    def turn() -> None:
        traffic.write(LETTERS // PARTITIONS, tiers=0 if next(turns) % TIER_TURNS else 1)
        traffic.commit(left=1)

    traffic.write(1, tiers=1)
    traffic.commit(left=0)
    process.start()
    address = process.addresses()["lagwatch.http"]
    with meanwhile(lambda: _page(address), SCRAPE_S):
        nothing_waits = shares(process.pid, repetitions, seconds)
        with meanwhile(turn, TURN_S):
            letters_come_and_leave = shares(process.pid, repetitions, seconds)
        traffic.write(50, tiers=50)
        all_stand_still = shares(process.pid, repetitions, seconds)
    return {
        "nothing waits": nothing_waits,
        "letters come and leave": letters_come_and_leave,
        "all groups stand still": all_stand_still,
    }


def bench(repetitions: int, seconds: float, output: Path) -> int:
    """Run everything, write the report, print the summary; return the exit code."""
    before = machine()
    interval = LagwatchSettings.model_fields["poll_interval"].default
    with tempfile.TemporaryDirectory(prefix="bench-lagwatch-") as folder:
        broker = KafkaBroker(Path(folder) / "kafka")
        broker.start()
        settings = {
            "LAGWATCH_QUEUES": ",".join(f"{queue.group}={queue.topic}" for queue in queues()),
            "LAGWATCH_LANES": ",".join(LANES),
        }
        (spec,) = (spec for spec in PROCESSES if spec.name == "lagwatch")
        process = PythonProcess(
            spec, Path(folder) / "lagwatch.log", {}, lambda: {"kafka": broker.address, **process.addresses()}, settings
        )
        try:
            create_topics(
                laptop(broker.address), topics=tuple(Topic(each.topic, PARTITIONS, HOUR_MS) for each in queues())
            )
            traffic = Traffic(broker.address)
            try:
                found = measured(process, traffic, repetitions, seconds)
                failed = _failures(_page(process.addresses()["lagwatch.http"]))
            finally:
                traffic.close()
        finally:
            process.kill()
            broker.stop()
    report = Report(
        made_at=datetime.now(UTC),
        machine=before,
        partitions=len(queues()) * PARTITIONS,
        groups=len({queue.group for queue in queues()}),
        poll_interval_s=interval.total_seconds(),
        scrape_interval_s=SCRAPE_S,
        letters_per_second=len(LANES) * LETTERS / TURN_S,
        core_share=dict(found),
        measurements_failed=failed,
        goal=GOAL,
        is_met=all(share.median < GOAL for share in found.values()),
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    _print(report, output)
    return 0


def _page(address: str) -> str:
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def _failures(page: str) -> float:
    lines: Sequence[str] = [line for line in page.splitlines() if line.startswith("lagwatch_poll_failures_total")]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def _print(report: Report, output: Path) -> None:
    print(f"{report.partitions} partitions, {report.groups} groups, measured every {report.poll_interval_s:g} s")
    for when, share in report.core_share.items():
        print(f"  {when:24} {share.median:.2%} of a core ({share.lowest:.2%} to {share.highest:.2%})")
    print(f"goal: below {report.goal:.0%}, {'met' if report.is_met else 'MISSED'}\n{output} was written.")


def main() -> int:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(prog="python -m bench.lagwatch", description="What lagwatch costs.")
    parser.add_argument("--quick", action="store_true", help="short: to see that it runs")
    parser.add_argument("--output", type=Path, default=FOLDER / "lagwatch.json")
    asked = parser.parse_args()
    repetitions, seconds = (1, 10.0) if asked.quick else (3, 20.0)
    return told_in_words(lambda: bench(repetitions, seconds, asked.output))


if __name__ == "__main__":
    sys.exit(main())
