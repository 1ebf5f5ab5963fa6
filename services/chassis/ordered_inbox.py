"""A consumer group that acknowledges strictly in order, so that no crash, rebalance or bug steps over a record.

**Invariant.** For each partition, the committed offset never passes a record whose handling has not settled. A record
settles when its handler returned (what it did is durable), or when its dead letter is acknowledged by the broker. So a
record is handled at least once, and after a crash at most `window` records of each partition are handled again:
handlers must bear a repeat.

**How.** Faust gives group membership, fetching and back-pressure; its own acknowledgement is not used, because with
several records in hand it commits past unfinished ones. One agent only takes records in; each is handled in a task of
its own; `OffsetTracker` releases the settled prefix of a partition, and only then the stream is told. Four rules, each
learnt from a loss that was measured:

* an event is taken only in the consumer generation in which it was fetched: one fetched before a rebalance is dropped,
it is refetched;
* an event that waits for room or for a slot is woken and given up at a stop or rebalance, else Faust waits for it
without end;
* giving up means `acked = True` on the message and nothing else: it lets Faust go on and commits nothing;
* a handler that fails must not fill the window for ever: what cannot be read becomes a dead letter at once, a bug after
`TRIES`;
  only "a dependency is away" waits in place, and then the whole partition rightly waits with it.

When the broker goes away Faust rejoins by itself; when it gives up, or the broker is not there at the start, the
consumer is built anew, with backoff, without end but never in step: until then health says "not ready" and lag grows
where it is measured.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import faust
import structlog
from opentelemetry import propagate, trace
from prometheus_client import CollectorRegistry, Counter, Gauge

from services.chassis.errors import Kind, ServiceError
from services.chassis.faust_app import build_app
from services.chassis.kafka_producer import BrokerAway, Producer
from services.chassis.offset_tracker import OffsetTracker, Slot
from services.chassis.retry import patiently
from services.chassis.settings import KafkaSettings
from services.chassis.telemetry import Health

WINDOW = 200  # records of a partition between the oldest unsettled and the newest in hand: what a crash repeats
CONCURRENCY = 64  # records in hand over all partitions
TRIES = 5  # of a handler that fails without a reason we know: enough for a hiccup, short enough for the partition
DEAD_LETTER_WAIT = timedelta(seconds=20)
STOP_TIMEOUT_S = 5.0  # for the last commit and the good-bye to the group; past it the group finds out by itself
LOOK = 0.05  # seconds between two looks at Faust's state; it has no signal before it waits for the events in hand


@dataclass(frozen=True, slots=True)
class Record:
    """One record as a handler gets it."""

    topic: str
    partition: int
    offset: int
    key: bytes
    value: bytes
    headers: Mapping[str, bytes]
    timestamp: datetime
    """When the producer made it (CreateTime)."""
    epoch: int
    """Generation of the consumer group: a newer one has taken over from every older one."""


class Poison(Exception):
    """A record that no retry can make readable. Its text is the dead letter's reason: for people, no personal data."""


class ConsumerEndedError(ConnectionError):
    """Faust stopped without being asked to."""


class TryAgainError(Exception):
    """Inner signal: the handler did not settle the record this time."""


@dataclass(frozen=True, slots=True)
class InboxMetrics:
    """What an inbox tells; labels are the topics of one process."""

    records: Counter
    restarts: Counter
    in_hand: Gauge

    @classmethod
    def on(cls, registry: CollectorRegistry) -> InboxMetrics:
        """Register the metrics; one per process."""
        return cls(
            records=Counter(
                "inbox_records",
                "Records settled, by outcome: handled, dead_lettered; and given_up, to come again.",
                ["topic", "outcome"],
                registry=registry,
            ),
            restarts=Counter(
                "inbox_restarts", "Times a consumer was built anew after it failed.", ["topic"], registry=registry
            ),
            in_hand=Gauge(
                "inbox_records_in_hand", "Records taken and not yet acknowledged.", ["topic"], registry=registry
            ),
        )


@dataclass(frozen=True, slots=True)
class InboxOptions:
    """Sizes of an inbox, and what is special about it."""

    window: int = WINDOW
    concurrency: int = CONCURRENCY
    drain_grace: timedelta = timedelta(seconds=10)
    session_timeout: timedelta = timedelta(seconds=10)
    """After a kill, how long the group waits before it gives the partitions to somebody else."""
    buried_in: str | None = None
    """Topic of its dead letters; by default its own name with `.dead`."""
    waiting: Callable[[], int] = lambda: 0
    """How many records in hand only wait for their time: a drain gives those up at once."""


class OrderedInbox:
    """One topic, one group, one handler."""

    def __init__(
        self,
        settings: KafkaSettings,
        *,
        group: str,
        topic: str,
        handle: Callable[[Record], Awaitable[None]],
        producer: Producer,
        metrics: InboxMetrics,
        health: Health | None = None,
        options: InboxOptions | None = None,
    ) -> None:
        self._settings = settings
        self._group = group
        self._topic = topic
        self._handle = handle
        self._producer = producer
        self._metrics = metrics
        self._health = health or Health()  # nobody's, when the process can serve without this inbox
        self._options = options or InboxOptions()
        self._tracker = OffsetTracker(self._options.window)
        self._slots = asyncio.Semaphore(self._options.concurrency)
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._draining = False
        self._drained_rebalance = 0
        self.consuming = False
        """True while there is something to drain; else the consumer is being built, or waits for a broker."""
        self.assigned: frozenset[int] = frozenset()
        """Partitions whose records come here; none during a rebalance and while there is no consumer."""
        self._stopping = asyncio.Event()
        self._broken = asyncio.Event()
        self._log = structlog.get_logger().bind(topic=topic, group=group)
        for outcome in ("handled", "dead_lettered", "given_up"):
            metrics.records.labels(topic, outcome)
        metrics.restarts.labels(topic)

    async def run(self) -> None:
        """Consume until `stop`, building the consumer anew whenever it fails."""
        await patiently(
            self._consume, what=f"consumer of {self._topic}", on=(Exception,), within=None, sleep=self._rest
        )

    async def _rest(self, seconds: float) -> None:
        self._metrics.restarts.labels(self._topic).inc()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    def stop(self) -> None:
        """Take no more; `run` returns when what is in hand has settled, or was given up after the grace."""
        self._stopping.set()

    async def _consume(self) -> None:
        """Run one consumer until `stop` (returns) or until it fails (raises)."""
        self._health.part(f"inbox {self._topic}", ready=False)
        if self._stopping.is_set():
            return
        app = self._build()
        self._broken.clear()
        self._draining = False
        self._drained_rebalance = 0
        async with _running(app):
            self.consuming = True
            self._health.part(f"inbox {self._topic}", ready=True)
            ends = [
                asyncio.create_task(end)
                for end in (
                    self._follow_rebalances(app),
                    app.wait_until_stopped(),
                    self._stopping.wait(),
                    self._broken.wait(),
                )
            ]
            try:
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                await self._drain()
            finally:
                self.consuming = False
                self.assigned = frozenset()
                for end in ends:
                    end.cancel()
                self._give_up()
        if not self._stopping.is_set():
            raise app.crash_reason or ConsumerEndedError(f"the consumer of {self._topic} ended by itself")

    def _build(self) -> faust.App:
        options = self._options

        async def intake(stream: Any) -> None:
            unacknowledged = stream.noack()
            async for event in unacknowledged.events():
                await self._take(app, unacknowledged, event)

        app = build_app(
            self._settings,
            group=self._group,
            topic=self._topic,
            intake=intake,
            session_timeout=options.session_timeout,
            buffer=2 * options.window,
        )
        app.on_partitions_assigned.connect(self._assigned, weak=False)  # type: ignore[arg-type] # the stub knows no methods
        app.on_partitions_revoked.connect(self._revoked, weak=False)  # type: ignore[arg-type] # the stub knows no methods
        return app

    async def _assigned(self, _app: Any, partitions: Any, **_: Any) -> None:
        self.assigned = frozenset(place.partition for place in partitions)
        self._log.info("partitions_assigned")

    async def _revoked(self, app: Any, *_: Any, **__: Any) -> None:
        """From here on, what comes belongs to the next assignment, also if it comes before `_assigned` is called."""
        self.assigned = frozenset()
        self._give_up()
        self._drained_rebalance = app.rebalancing_count
        self._draining = self._stopping.is_set()
        self._log.info("partitions_revoked")

    async def _follow_rebalances(self, app: faust.App) -> None:
        """Drain, then give up: Faust waits without limit for what is in hand before it lets partitions go.

        Once per rebalance, and never after its revocation: draining then would turn away the next assignment's records,
        which nobody fetches again.
        """
        while True:
            await asyncio.sleep(LOOK)
            if app.rebalancing and app.rebalancing_count != self._drained_rebalance:
                self._drained_rebalance = app.rebalancing_count
                await self._drain(until=lambda: not self._draining)
                if self._draining:
                    self._give_up()

    async def _drain(self, until: Callable[[], bool] = lambda: False) -> None:
        self._draining = True
        self._changed.set()
        deadline = asyncio.get_running_loop().time() + self._options.drain_grace.total_seconds()
        while self._works() and asyncio.get_running_loop().time() < deadline and not until():  # noqa: ASYNC110 - Faust's state has no event
            await asyncio.sleep(LOOK / 2)
        self._log.info("drained", left=len(self._tracker))

    def _works(self) -> bool:
        """Say whether a record in hand does more than wait; one that has settled has no task any more."""
        return len(self._tasks) > self._options.waiting()

    def _give_up(self) -> None:
        left = self._tracker.give_up()
        for slot in left:
            slot.carried.message.acked = True
        for task in self._tasks:
            task.cancel()
        self._changed.set()
        self._metrics.in_hand.labels(self._topic).set(0)
        if left:
            self._metrics.records.labels(self._topic, "given_up").inc(len(left))
            self._log.warning("records_given_up", count=len(left))

    async def _take(self, app: faust.App, stream: Any, event: Any) -> None:
        message = event.message
        epoch = self._tracker.epoch
        while self._may_wait(epoch) and not self._tracker.has_room(message.partition, message.offset):
            self._changed.clear()
            await self._changed.wait()
        await self._slots.acquire()
        if message.generation_id != app.consumer_generation_id or not self._may_wait(epoch):
            self._slots.release()
            message.acked = True
            return
        slot = self._tracker.take(message.partition, message.offset, event)
        task = asyncio.get_running_loop().create_task(self._settle(stream, slot))
        self._tasks.add(task)
        task.add_done_callback(self._ended)  # not a `finally` in the task: one cancelled before its first step has none
        self._metrics.in_hand.labels(self._topic).set(len(self._tracker))

    def _may_wait(self, epoch: int) -> bool:
        """Say whether a record that came in `epoch` is still ours to take; if not, whoever owns it next fetches it."""
        return epoch == self._tracker.epoch and not self._draining

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._slots.release()
        self._changed.set()
        if not task.cancelled() and task.exception() is not None:
            self._log.error("acknowledgement_failed", error=type(task.exception()).__name__)
            self._broken.set()

    async def _settle(self, stream: Any, slot: Slot) -> None:
        outcome = await self._handle_or_bury(_record(slot.carried.message))
        self._metrics.records.labels(self._topic, outcome).inc()
        for ready in self._tracker.settle(slot):
            await stream.ack(ready.carried)  # does not suspend, so two tasks cannot mix up their order
        self._metrics.in_hand.labels(self._topic).set(len(self._tracker))

    async def _handle_or_bury(self, record: Record) -> str:
        """Return how the record settled: `handled` or `dead_lettered`."""
        tracer = trace.get_tracer(__name__)
        parent = propagate.extract({name: value.decode("latin-1") for name, value in record.headers.items()})
        with tracer.start_as_current_span(f"process {record.topic}", context=parent, kind=trace.SpanKind.CONSUMER):
            reason = await self._try(record)
            if reason is None:
                return "handled"
            await self._bury(record, reason)
            return "dead_lettered"

    async def _try(self, record: Record) -> str | None:
        """Handle until it works; return a reason when it never can."""
        faults = 0

        async def once() -> str | None:
            nonlocal faults
            try:
                await self._handle(record)
            except Poison as poison:
                return str(poison)
            except Exception as error:
                if not _is_away(error):
                    faults += 1
                    self._log.exception("record_failed", partition=record.partition, offset=record.offset, tries=faults)
                if faults >= TRIES:
                    return f"the handler failed {TRIES} times with {type(error).__name__}; the log has the traceback"
                raise TryAgainError from error
            return None

        return await patiently(once, what=f"handler of {record.topic}", on=(TryAgainError,), within=None)

    async def _bury(self, record: Record, reason: str) -> None:
        """Publish the dead letter; without its acknowledgement the record has not settled."""
        headers = [
            *record.headers.items(),
            ("dead-topic", record.topic.encode()),
            ("dead-partition", str(record.partition).encode()),
            ("dead-offset", str(record.offset).encode()),
            ("dead-reason", reason.encode()),
        ]

        async def write() -> None:
            topic = self._options.buried_in or f"{record.topic}.dead"
            await self._producer.write(topic, record.key, record.value, headers, within=DEAD_LETTER_WAIT)

        await patiently(write, what=f"dead letters of {record.topic}", on=(BrokerAway,), within=None)
        self._log.error("record_dead_lettered", partition=record.partition, offset=record.offset, reason=reason)


def _is_away(error: Exception) -> bool:
    return isinstance(error, BrokerAway) or (isinstance(error, ServiceError) and error.kind is Kind.UNAVAILABLE)


def _record(message: Any) -> Record:
    return Record(
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        key=message.key or b"",
        value=message.value or b"",
        headers=dict(message.headers or ()),
        timestamp=datetime.fromtimestamp(message.timestamp, UTC),
        epoch=message.generation_id,
    )


@asynccontextmanager
async def _running(app: faust.App) -> AsyncIterator[None]:
    """Run a Faust app and stop it within `STOP_TIMEOUT_S`, also when its stop refuses to end.

    The library's `faust_app_running` cancels such a stop and waits for it without end; seen once in dozens of stops.
    """
    app.finalize()
    await app.maybe_start()
    try:
        yield
    finally:
        stop = asyncio.create_task(app.stop())
        done, _ = await asyncio.wait({stop}, timeout=STOP_TIMEOUT_S)
        if done:
            stop.result()
        else:
            stop.cancel()
            structlog.get_logger().warning("consumer_did_not_stop", app=app.conf.id)


@asynccontextmanager
async def inbox_running(inbox: OrderedInbox) -> AsyncIterator[asyncio.Task[None]]:
    """Run an inbox beside everything else; the task ends early only when it failed. Drains at the end."""
    running = asyncio.create_task(inbox.run())
    try:
        yield running
    finally:
        inbox.stop()
        if not inbox.consuming:
            running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
