"""Chaos for the ordered inbox: a steady rate, two workers, kills and stops, a broker killed; every record is counted.

A lag of 0 at the end proves nothing (it was 0 in runs that had lost records), so ids are counted.
"""

from __future__ import annotations

import asyncio
import collections
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from deploy.create_topics import Topic, create_topics, laptop
from deploy.dev.kafka_broker import KafkaBroker
from services.chassis.events import Envelope
from services.chassis.kafka_producer import BrokerAway, producing
from services.chassis.retry import patiently
from services.chassis.settings import KafkaSettings, Profile
from tests.conditions import eventually

PARTITIONS = 12
WINDOW = 20
PUBLISH_WITHIN = timedelta(seconds=20)
STOP_WITHIN_S = 25


@dataclass(slots=True)
class InboxReport:
    """What a run saw."""

    records: int
    lost: int = 0
    repeated: int = 0
    """Handled more often than once, counted beyond the first."""
    bound: int = 0
    """What the window allows: a window per partition for each disruption that drops what was in hand."""
    killed: int = 0
    terminated: int = 0
    broker_killed: int = 0
    exit_codes: list[int] = field(default_factory=list)
    """Of the workers that were asked to stop."""
    slowest_stop_s: float = 0
    seconds: float = 0

    @property
    def is_good(self) -> bool:
        """Whether nothing was lost, no more repeated than the bound allows, and every worker left when asked."""
        return self.lost == 0 and self.repeated <= self.bound and not any(self.exit_codes)


class InboxChaos:
    """One run."""

    def __init__(self, folder: Path, broker: KafkaBroker, *, records: int, rate: float, rounds: int) -> None:
        """Send `records` at `rate` per second; in each of `rounds` kill one worker and stop another."""
        self._folder = folder
        self._broker = broker
        self._records = records
        self._rate = rate
        self._rounds = rounds
        self._topic = f"chaos-{time.time_ns()}"
        self._done = folder / f"{self._topic}.done"
        self._report = InboxReport(records)

    async def __call__(self) -> InboxReport:
        """Run it to the end."""
        started = time.monotonic()
        await asyncio.to_thread(
            create_topics, laptop(self._broker.address), topics=(Topic(self._topic, PARTITIONS, 3_600_000),)
        )
        self._done.touch()
        producing_task = asyncio.create_task(self._produce())
        workers = [self._worker(), self._worker()]
        try:
            await self._settled(self._records // 20, within_s=60)
            for turn in range(self._rounds):
                await self._disrupt(workers, turn)
            await producing_task
            await self._settled(self._records, within_s=120)
        finally:
            producing_task.cancel()
            for worker in workers:
                await self._terminate(worker)
        self._count(time.monotonic() - started)
        return self._report

    async def _disrupt(self, workers: list[subprocess.Popen[bytes]], turn: int) -> None:
        victim = turn % 2
        await self._progress()
        workers[victim].kill()
        code = await asyncio.to_thread(workers[victim].wait, STOP_WITHIN_S)
        assert code == -signal.SIGKILL, "the worker is gone, and by our kill"
        self._report.killed += 1
        workers[victim] = self._worker()
        if turn == self._rounds // 2:
            await self._kill_broker()
        await self._progress()
        await self._terminate(workers[victim - 1])
        self._report.terminated += 1
        workers[victim - 1] = self._worker()

    async def _kill_broker(self) -> None:
        pid = self._broker.pid
        await asyncio.to_thread(self._broker.kill)
        assert pid is not None, "there was a broker to kill"
        assert not self._broker.is_ready(), "the broker is away"
        self._report.broker_killed += 1
        await asyncio.sleep(5)  # longer than any client's first look for it
        await asyncio.to_thread(self._broker.start)

    async def _terminate(self, worker: subprocess.Popen[bytes]) -> None:
        await eventually(self._up_file(worker.pid).exists, within_s=60, what="a worker is up")
        asked = time.monotonic()
        worker.terminate()
        try:
            code = await asyncio.to_thread(worker.wait, STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            worker.kill()
            code = await asyncio.to_thread(worker.wait)
        self._report.exit_codes.append(code)
        self._report.slowest_stop_s = max(self._report.slowest_stop_s, round(time.monotonic() - asked, 2))

    async def _produce(self) -> None:
        settings = KafkaSettings(profile=Profile.LAPTOP, kafka_brokers=self._broker.address)
        async with producing(settings, "chaos-producer") as producer, asyncio.TaskGroup() as sending:

            async def send(number: int) -> None:
                record = Envelope(
                    self._topic, f"k{number}".encode(), str(number).encode(), "t", "s", "x", datetime.now(UTC)
                )
                await patiently(lambda: producer.publish(record, within=PUBLISH_WITHIN), what="chaos", on=(BrokerAway,))

            await eventually(lambda: producer.connected, within_s=30, what="the producer has seen the broker")
            started = time.monotonic()
            for number in range(self._records):
                sending.create_task(send(number))
                await asyncio.sleep(max(0, started + number / self._rate - time.monotonic()))

    def _worker(self) -> subprocess.Popen[bytes]:
        arguments = [self._broker.address, f"{self._topic}-group", self._topic, str(self._done), str(WINDOW)]
        with (self._folder / "workers.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.worker", *arguments], stdout=log, stderr=log, start_new_session=True
            )

    def _up_file(self, pid: int) -> Path:
        return self._done.with_suffix(f".{pid}.up")

    async def _progress(self) -> None:
        """Wait until a good part more has settled: the disruption before this one is over."""
        seen = len(self._settled_ids())
        await self._settled(min(seen + self._records // (4 * self._rounds), self._records), within_s=90)

    async def _settled(self, count: int, *, within_s: float) -> None:
        await eventually(lambda: len(self._settled_ids()) >= count, within_s=within_s, what=f"{count} records settled")

    def _settled_ids(self) -> set[bytes]:
        return set(self._done.read_bytes().split())

    def _count(self, seconds: float) -> None:
        times = collections.Counter(self._done.read_bytes().split())
        report = self._report
        report.lost = report.records - len(times)
        report.repeated = sum(times.values()) - len(times)
        report.bound = (report.killed + 2 * report.broker_killed) * PARTITIONS * WINDOW
        report.seconds = round(seconds, 1)


async def inbox_chaos(folder: Path, *, records: int, rate: float, rounds: int) -> InboxReport:
    """Start a broker, make one run, stop the broker."""
    broker = KafkaBroker(folder / "kafka")
    await asyncio.to_thread(broker.start)
    try:
        return await InboxChaos(folder, broker, records=records, rate=rate, rounds=rounds)()
    finally:
        await asyncio.to_thread(broker.stop)
