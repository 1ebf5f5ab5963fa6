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
* a handler that fails must not fill the window for ever (`record_fate`): what cannot be read becomes a dead letter at
  once, a bug after `TRIES`; only "a dependency is away" waits in place, and then the whole partition rightly waits with
  it.

**Pauses.** A partition whose records nearly all die of a deploy fault is paused (`partition_pauses`), so that no bad
release pours a night's records into the dead letters. The others go on, and readiness stays true: a new process of the
same release would do no better, so a pause is for a person to see (`inbox_partitions_paused`) and not for a probe. What
is held back has not settled, so the invariant holds; a stop does not wait for it.

When the broker goes away Faust rejoins by itself; when it gives up, or the broker is not there at the start, the
consumer is built anew, with backoff, without end but never in step: until then health says "not ready" and lag grows
where it is measured. Before each building the broker is asked whether it lets us in; a refusal, which only people can
end, is told and counted as what it is, and tried again all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import faust
import structlog
from opentelemetry import propagate, trace

from services.chassis.dead_letter import DeadKind
from services.chassis.faust_app import build_app, running
from services.chassis.inbox_metrics import InboxMetrics
from services.chassis.kafka_client import Refused, Trouble
from services.chassis.kafka_producer import Producer
from services.chassis.kafka_rights import let_in
from services.chassis.offset_tracker import OffsetTracker, Slot
from services.chassis.partition_pauses import PartitionPauses
from services.chassis.poison_limiter import Limits
from services.chassis.record_fate import Record, RecordFate
from services.chassis.retry import patiently
from services.chassis.settings import KafkaSettings
from services.chassis.telemetry import Health

WINDOW = 200  # records of a partition between the oldest unsettled and the newest in hand: what a crash repeats
CONCURRENCY = 64  # records in hand over all partitions
LOOK = 0.05  # seconds between two looks at Faust's state; it has no signal before it waits for the events in hand


@dataclass(frozen=True, slots=True)
class Taken:
    """What a slot carries: a record as Faust gave it, and where to acknowledge it."""

    stream: Any
    event: Any


class ConsumerEndedError(ConnectionError):
    """Faust stopped without being asked to."""


@dataclass(frozen=True, slots=True)
class InboxOptions:
    """Sizes of an inbox, and what is special about it."""

    window: int = WINDOW
    concurrency: int = CONCURRENCY
    drain_grace: timedelta = timedelta(seconds=10)
    session_timeout: timedelta = timedelta(seconds=10)
    """After a kill, how long the group waits before it gives the partitions to somebody else."""
    buried_in: str | None = None
    """The topic where dead letters go; `<topic>.dead` when it is not said."""
    limits: Limits = field(default_factory=Limits)
    """When a partition is paused."""
    waiting: Callable[[], int] = lambda: 0
    """How many records in hand only wait for their time: a drain gives those up at once."""


class OrderedInbox:
    """One topic, one group, one handler.

    Args:
        settings: where the brokers are, and who we are.
        group, topic: whose records.
        handle: settles a record by returning; raises `Poison` when nobody ever can.
        producer: writes the dead letters.
        metrics, health, options: see there.
        on_dead: told of each dead letter once it is written, before the record settles; bears a repeat, and is tried
            again while what it needs is away. Any other error of it is logged and lets the record settle.
    """

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
        on_dead: Callable[[Record, DeadKind], Awaitable[None]] | None = None,
    ) -> None:
        self._settings = settings
        self._group = group
        self._topic = topic
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
        self._refused_because = ""
        self._log = structlog.get_logger().bind(topic=topic, group=group)
        self._fate = RecordFate(
            group,
            handle=handle,
            producer=producer,
            buried_in=self._options.buried_in,
            on_dead=on_dead,
            log=self._log,
        )
        self._pauses = PartitionPauses(
            self._options.limits, paused=metrics.paused.labels(topic), changed=self._changed, log=self._log
        )
        for outcome in ("handled", "dead_lettered", "given_up"):
            metrics.records.labels(topic, outcome)
        metrics.restarts.labels(topic)
        for reason in (Trouble.DENIED, Trouble.BROKER_UNTRUSTED):
            metrics.refusals.labels(topic, reason.value)

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
        self._health.part(f"inbox {self._topic}", ready=False, why=self._refused_because)
        if self._stopping.is_set():
            return
        await self._ask_to_be_let_in()
        app = self._build()
        self._broken.clear()
        self._draining = False
        self._drained_rebalance = 0
        async with running(app):
            self.consuming = True
            self._health.part(f"inbox {self._topic}", ready=True)
            ends = [
                asyncio.create_task(end)
                for end in (
                    self._follow_rebalances(app),
                    self._take_up_what_was_held(),
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

    async def _ask_to_be_let_in(self) -> None:
        self._refused_because = ""
        try:
            await asyncio.to_thread(let_in, self._settings, topic=self._topic, group=self._group)
        except Refused as refusal:
            self._refused_because = refusal.trouble.value
            self._metrics.refusals.labels(self._topic, refusal.trouble.value).inc()
            self._health.part(f"inbox {self._topic}", ready=False, why=refusal.trouble.value)
            raise

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
            not_now=self._pauses.has_held,
        )
        app.on_partitions_assigned.connect(self._assigned, weak=False)  # type: ignore[arg-type] # the stub knows no methods
        app.on_partitions_revoked.connect(self._revoked, weak=False)  # type: ignore[arg-type] # the stub knows no methods
        return app

    async def _assigned(self, _app: Any, partitions: Any, **_: Any) -> None:
        self.assigned = frozenset(place.partition for place in partitions)
        self._pauses.keep(self.assigned)
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
        self._pauses.give_up()
        for slot in left:
            slot.carried.event.message.acked = True
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
        while self._may_wait(epoch) and not self._has_room(message):
            self._changed.clear()
            await self._changed.wait()
        await self._slots.acquire()
        if message.generation_id != app.consumer_generation_id or not self._may_wait(epoch):
            self._slots.release()
            message.acked = True
            return
        slot = self._tracker.take(message.partition, message.offset, Taken(stream, event))
        if self._pauses.holds(message.partition):
            self._slots.release()
            self._pauses.hold(slot)
            self._changed.set()
        else:
            self._begin(slot)
        self._metrics.in_hand.labels(self._topic).set(len(self._tracker))

    def _has_room(self, message: Any) -> bool:
        """What is held of a paused partition must not keep the others from being taken; fetching it ends by itself."""
        return self._pauses.holds(message.partition) or self._tracker.has_room(message.partition, message.offset)

    def _begin(self, slot: Slot) -> None:
        task = asyncio.get_running_loop().create_task(self._settle(slot))
        self._tasks.add(task)
        task.add_done_callback(self._ended)  # not a `finally` in the task: one cancelled before its first step has none

    async def _take_up_what_was_held(self) -> None:
        def ready(slot: Slot) -> bool:
            return not self._draining and self._tracker.has_room(slot.partition, slot.offset)

        while True:
            slot = await self._pauses.turn(ready)
            await self._slots.acquire()
            if ready(slot) and self._pauses.begin(slot):
                self._begin(slot)
            else:
                self._slots.release()

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

    async def _settle(self, slot: Slot) -> None:
        outcome = await self._handle_or_bury(slot, _record(slot.carried.event.message))
        if outcome is None:
            return
        self._metrics.records.labels(self._topic, outcome).inc()
        for ready in self._tracker.settle(slot):
            taken = ready.carried
            await taken.stream.ack(taken.event)  # does not suspend, so two tasks cannot mix up their order
        self._metrics.in_hand.labels(self._topic).set(len(self._tracker))

    async def _handle_or_bury(self, slot: Slot, record: Record) -> str | None:
        """Return how the record settled: `handled` or `dead_lettered`; `None` when it is held instead."""
        tracer = trace.get_tracer(__name__)
        parent = propagate.extract({name: value.decode("latin-1") for name, value in record.headers.items()})
        with tracer.start_as_current_span(f"process {record.topic}", context=parent, kind=trace.SpanKind.CONSUMER):
            poison = await self._fate.handle(record)
            if not self._pauses.may_settle(slot, poison.kind if poison else None):
                if slot.epoch == self._tracker.epoch:  # else a handler took the order to end for an error of its own
                    self._pauses.hold(slot)
                return None
            if poison is None:
                return "handled"
            await self._fate.bury(record, poison)
            return "dead_lettered"


def _record(message: Any) -> Record:
    return Record(
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        key=message.key or b"",
        value=message.value or b"",
        headers={name: value or b"" for name, value in message.headers or ()},
        timestamp=datetime.fromtimestamp(message.timestamp, UTC),
        epoch=message.generation_id,
    )


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
