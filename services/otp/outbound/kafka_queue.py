"""Implements `Queue` on kafka-python: once a second, how far the mailer's groups are and where their topics end.

One thread owns the blocking client; each question in it is bounded. The client is opened for the first sample, used
again for every other, and thrown away after any trouble. A sample that fails leaves the one before, which grows old.
Reading needs DESCRIBE on the groups and on the topics; nothing is joined, committed or consumed.

The wait of a letter that is asked for now is that of `services.chassis.lane`, at the end of the partition where the
letter will stand: the producer puts it where murmur2 of its challenge id says.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol

import structlog
from kafka import TopicPartition
from kafka.admin import KafkaAdminClient, OffsetSpec
from kafka.errors import KafkaError
from kafka.partitioner.default import murmur2

from services.chassis.clock import Clock, system_clock
from services.chassis.kafka_client import client_config, open_client
from services.chassis.lag import PartitionLag, PartitionReading, followed, lag_of
from services.chassis.lane import LEARNING, Flow, LaneLag, Wait, flowed, wait_in
from services.chassis.retry import patiently
from services.chassis.settings import KafkaSettings
from services.otp.metrics import OtpMetrics
from services.otp.outbound.kafka_events import CODE_REQUESTED
from services.otp.ports import Position
from services.otp.rules.admission import Load
from services.otp.rules.outlook import Offsets, Outlook, Sample, forecast, sampled, whole_second

MAILER_GROUP = "mailer-otp"
CODE_TIERS = ("1s", "3s", "10s", "30s", "1m")  # where codes wait that could not leave
SAMPLE_PAUSE = timedelta(seconds=1)
LOOK_AGAIN = timedelta(milliseconds=100)  # between two samples only the age of what stands still changes
ANSWER_WITHIN = timedelta(seconds=3)  # a calm broker takes milliseconds, one that changes leaders a second or two
CLOSE_WITHIN = timedelta(seconds=2)


def lane_queues() -> dict[str, str]:
    """Return topic → group of all that waits for the slots of codes, the main topic first."""
    return {CODE_REQUESTED: MAILER_GROUP} | {f"mail.retry.otp.{t}.v1": f"mailer-retry-otp-{t}" for t in CODE_TIERS}


class Place(NamedTuple):
    """One partition of one topic."""

    topic: str
    partition: int


class OffsetReader(Protocol):
    """Reads the offsets of topics, each for its group; blocks, for a bounded time."""

    def read(self) -> Mapping[Place, Offsets]:
        """Return the offsets of each partition.

        Raises:
            KafkaError, OSError: at least one could not be read; the reader is good for nothing more.
        """

    def close(self) -> None:
        """Let go of the brokers."""


class AdminReader:
    """Implements `OffsetReader` with an admin client, or what behaves like one, for topics and their groups."""

    def __init__(self, admin: Any, groups: Mapping[str, str]) -> None:
        self._admin = admin
        self._groups = groups

    @classmethod
    def opened(cls, settings: KafkaSettings, groups: Mapping[str, str]) -> AdminReader:
        """Connect. Raises as `open_client` does."""
        config = client_config(settings) | {"client_id": "otp-queue"}
        return cls(open_client(KafkaAdminClient, ANSWER_WITHIN, **config), groups)

    def read(self) -> Mapping[Place, Offsets]:
        """Implements `OffsetReader`: commits first, ends last, so that a queue looks a little too long, never short.

        Where nothing was committed yet the mailer begins at the first record, as all our consumers do.
        """
        told = self._admin.list_group_offsets(list(self._groups.values()))
        committed = {
            place: each.offset
            for topic, group in self._groups.items()
            for place, each in told[group].items()
            if place.topic == topic and each.offset >= 0
        }
        begun = self._partitions() - committed.keys()
        positions = self._offsets(begun, OffsetSpec.EARLIEST) | committed
        ends = self._offsets(positions.keys(), OffsetSpec.LATEST)
        return {
            Place(place.topic, place.partition): Offsets(offset, ends[place])
            for place, offset in positions.items()
            if offset <= ends[place]  # beyond: of a topic that was made anew
        }

    def _partitions(self) -> set[TopicPartition]:
        return {
            TopicPartition(topic["name"], each["partition_index"])
            for topic in self._admin.describe_topics(list(self._groups))
            for each in topic["partitions"]
        }

    def _offsets(self, places: Collection[TopicPartition], which: OffsetSpec) -> dict[TopicPartition, int]:
        if not places:
            return {}
        within_ms = int(ANSWER_WITHIN.total_seconds() * 1000)
        told = self._admin.list_partition_offsets(dict.fromkeys(places, which), timeout_ms=within_ms)
        return {place: each.offset for place, each in told.items()}

    def close(self) -> None:
        """Implements `OffsetReader`."""
        self._admin.close()


class KafkaQueue:
    """Implements `Queue`.

    Args:
        topic: the main one; the others that are read are its retry tiers.
        open_reader: called in the queue's thread, for the first sample and after trouble.
        clock: tells how old a sample is.
        metrics: show the age of the last sample.
        share: how many times as many hand-overs there are as this process hears of: all partitions of the delivery
            topic, divided by those assigned to us; 0 when none is, then nothing is learnt.
    """

    def __init__(
        self,
        open_reader: Callable[[], OffsetReader],
        clock: Clock,
        metrics: OtpMetrics,
        topic: str = CODE_REQUESTED,
        *,
        share: Callable[[], float] = lambda: 1.0,
    ) -> None:
        self._open_reader = open_reader
        self._clock = clock
        self._metrics = metrics
        self._topic = topic
        self._share = share
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kafka-queue")
        self._reader: OffsetReader | None = None
        self._sample: Sample | None = None
        self._flow = self._kind = Flow()
        self._waited: tuple[Flow, datetime, Wait | None] | None = None
        self._parts: Mapping[Place, PartitionLag] = {}
        self._unpublished = 0
        self._heard = 0
        self._opened_at = clock()
        metrics.queue_sample_age.set_function(self._age_s)

    def outlook(self, position: Position | None, now: datetime) -> Outlook:
        """Implements `Queue`."""
        if position is None or self._sample is None:
            return Outlook()
        rate = None if self._flow.is_still else self._flow.learnt_per_second
        told = forecast(self._sample, rate, position.partition, position.offset, self._clock())
        if told is None:
            return Outlook()
        return Outlook(told.place, None if told.wait is None else whole_second(now + told.wait))

    def load(self, challenge_id: str) -> Load:
        """Implements `Queue`."""
        lane = self._flow.before
        count = len(lane.main) if lane is not None else 0
        partition = (murmur2(challenge_id.encode()) & 0x7FFFFFFF) % count if count else 0
        told = self._wait()
        wait = told.partitions.get(partition, told.whole) if told is not None else None
        return Load(wait, self._unpublished, self._flow.learnt_per_second, partition)

    def _wait(self) -> Wait | None:
        """Return the waits of now, or of a moment ago: a long queue takes 0.1 ms to look at, three times a request."""
        now = self._clock()
        if self._waited is not None:
            flow, at, wait = self._waited
            if flow is self._kind and at <= now < at + LOOK_AGAIN:
                return wait
        wait = wait_in(self._kind, now)
        self._waited = (self._kind, now, wait)
        return wait

    def unpublished(self, letters: int) -> None:
        """Implements `Queue`."""
        self._unpublished = letters

    def handed_over(self, at: datetime) -> None:
        """Implements `Queue`; what comes late, after an outage, is no sign of how fast letters leave now."""
        if self._clock() - at <= LEARNING:
            self._heard += 1

    async def sample(self) -> None:
        """Take one sample; not to be called again before it has returned.

        Raises:
            KafkaError, OSError: no broker, or none that tells; the sample before stays and grows old.
        """
        asked_at = self._clock()  # before the reading: a sample is at least this fresh, never staler than it says
        try:
            offsets = await asyncio.get_running_loop().run_in_executor(self._thread, self._read)
        except Exception:
            self._metrics.queue_sample_failures.inc()
            raise
        share, heard = self._share(), self._heard
        self._heard = 0
        main = {place.partition: told for place, told in offsets.items() if place.topic == self._topic}
        lane = self._lane(offsets, asked_at)
        self._sample = sampled(self._sample, asked_at, main, sum(part.messages for part in lane.tiers))
        if share > 0:
            self._flow = flowed(self._flow, lane, round(heard * share))
        else:  # nobody tells us what leaves: nothing is learnt, and nothing is held against the mailer
            self._flow = replace(self._flow, before=lane)
        self._kind = _kind_to_people(self._flow)

    def _lane(self, offsets: Mapping[Place, Offsets], at: datetime) -> LaneLag:
        self._parts = {
            place: followed(
                self._parts.get(place),
                lag_of(PartitionReading(place.partition, told.committed, 0, told.end)),
                at,
            )
            for place, told in offsets.items()
        }
        main = tuple(part for place, part in self._parts.items() if place.topic == self._topic)
        tiers = tuple(part for place, part in self._parts.items() if place.topic != self._topic)
        return LaneLag(at, main, tiers, self._unpublished)

    async def sample_for_ever(self, pause: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Sample every second, and after trouble again with growing pauses. Ends only when it is cancelled."""
        while True:
            await patiently(self._logged_sample, what="the mailer's queue", on=(Exception,), within=None, sleep=pause)
            await pause(SAMPLE_PAUSE.total_seconds())

    async def close(self) -> None:
        """Let go of the brokers; a sample that is under way is waited for, but not for long."""
        closing = asyncio.get_running_loop().run_in_executor(self._thread, self._drop)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_WITHIN.total_seconds()):
                await closing
        self._thread.shutdown(wait=False)

    async def _logged_sample(self) -> None:
        try:
            await self.sample()
        except (KafkaError, OSError):
            raise
        except Exception:
            structlog.get_logger().exception("queue_sample_failed")
            raise

    def _read(self) -> Mapping[Place, Offsets]:
        try:
            if self._reader is None:
                self._reader = self._open_reader()
            return self._reader.read()
        except BaseException:
            self._drop()
            raise

    def _drop(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            with contextlib.suppress(KafkaError, OSError, RuntimeError):  # thrown away because it does not work
                reader.close()

    def _age_s(self) -> float:
        since = self._sample.at if self._sample is not None else self._opened_at
        return (self._clock() - since).total_seconds()


def _kind_to_people(flow: Flow) -> Flow:
    """Return the flow without what only bounds a wait from above: right for a page, and wrong for refusing people.

    What left lately was little because few asked. And a partition may seem to stand while others move, because the
    mailer has its letters in hand behind theirs; one that really does fills up, and then its length tells.
    """
    lane = flow.before
    if lane is None:
        return flow
    main = tuple(replace(part, still_since=None) for part in lane.main)
    return replace(flow, recent=(), before=replace(lane, main=main))


@asynccontextmanager
async def queue_sampled(
    settings: KafkaSettings,
    metrics: OtpMetrics,
    share: Callable[[], float] = lambda: 1.0,
    *,
    groups: Mapping[str, str] | None = None,
) -> AsyncIterator[KafkaQueue]:
    """Yield the queue, sampled in the background from now on, and let go of the brokers at the end.

    `groups` is topic → group of a lane, the main topic first; the lane of codes without it.
    """
    lane = lane_queues() if groups is None else groups
    queue = KafkaQueue(lambda: AdminReader.opened(settings, lane), system_clock, metrics, next(iter(lane)), share=share)
    sampling = asyncio.create_task(queue.sample_for_ever())
    try:
        yield queue
    finally:
        sampling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sampling
        await queue.close()
