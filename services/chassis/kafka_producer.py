"""An awaitable, idempotent Kafka producer: kafka-python's, bridged to asyncio.

kafka-python sends from a thread of its own and answers with a future of its own kind; each send here gets an asyncio
future that the thread completes. Loop and thread take the interpreter from each other, and each time they do costs more
than a record: so records are handed over, and acknowledgements taken back, several at a time (docs/adr/0021). What
would block the loop is kept off it: the constructor (it waits for a broker) and the first look at a topic (it waits for
metadata) run in a thread. The library bounds nothing that waits to be sent, so a semaphore does.

A record that was given up waiting for may still be written later: whoever publishes must be able to bear it twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta

import structlog
from kafka import KafkaProducer
from kafka.errors import AuthorizationError, ClusterAuthorizationFailedError, KafkaError
from kafka.producer.future import FutureRecordMetadata
from kafka.producer.transaction_manager import TransactionState

from services.chassis.events import Envelope
from services.chassis.kafka_client import (
    LOOK_AT,
    MISSING_RIGHT,
    Door,
    Refused,
    Trouble,
    client_config,
    open_client,
    trouble_of,
)
from services.chassis.retry import LONGEST_PAUSE
from services.chassis.settings import KafkaSettings

MAX_IN_FLIGHT = 1_000  # records; a few megabytes
DELIVERY = timedelta(seconds=20)  # how long the library tries; a broker that restarts is back within this
CONNECT_WITHIN = timedelta(seconds=2)
LINGER = timedelta(milliseconds=25)
"""How long a record waits for company, before the thread hears of any of them. A request to the broker costs 1.3 ms of
CPU however few records it has, and each of them 75 µs; nobody who waits for a mail notices 25 ms."""
SAY_EVERY = timedelta(seconds=10)  # that a right is missing: often enough to be found, too seldom to hide the rest


class BrokerAway(ConnectionError):
    """The record was not acknowledged: the broker is away, did not answer in time, or refuses; `trouble` says which.

    Whoever publishes keeps the record and tries again, whatever the trouble: it is never the record's.
    """

    def __init__(self, told: str, trouble: Trouble = Trouble.BROKER_AWAY) -> None:
        super().__init__(told)
        self.trouble = trouble


@dataclass(frozen=True, slots=True)
class RecordPosition:
    """Where an acknowledged record stands in its topic."""

    partition: int
    offset: int
    """-1 when the broker had the record already, from a try whose answer was lost, and does not say where."""


@dataclass(frozen=True, slots=True)
class _Leaving:
    """A record that waits for company."""

    producer: KafkaProducer
    topic: str
    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]
    written: asyncio.Future[RecordPosition]


class Producer:
    """Publishes with acks=all. Opened in the background, so that a process can start before its broker.

    Args:
        settings: where the brokers are, and who we are.
        client_id: names us in the broker's log.
        delivery: how long the library tries to write a record, whether or not somebody still awaits it.
    """

    def __init__(self, settings: KafkaSettings, client_id: str, *, delivery: timedelta = DELIVERY) -> None:
        self._config = client_config(settings) | {
            "client_id": client_id,
            "acks": "all",
            "enable_idempotence": True,
            "linger_ms": 0,  # what is handed over has lingered
            "metrics_enabled": False,  # nobody reads them, and each record pays for them
            "delivery_timeout_ms": int(delivery.total_seconds() * 1000),
            "request_timeout_ms": int(delivery.total_seconds() * 500),
            "max_block_ms": 500,
            "reconnect_backoff_max_ms": 1_000,
        }
        self._room = asyncio.Semaphore(MAX_IN_FLIGHT)
        self._producer: KafkaProducer | None = None
        self._let_in = asyncio.Event()
        self._spoilt = asyncio.Event()
        self._door = Door()
        self._leaving: list[_Leaving] = []
        self._answered: deque[tuple[asyncio.Future[RecordPosition], RecordPosition | BaseException]] = deque()
        self._is_telling = False
        self._known_topics: set[str] = set()
        self._said_at: dict[str, float] = {}

    @property
    def connected(self) -> bool:
        """True while there is a client; it has seen a broker, which may be away by now."""
        return self._producer is not None

    async def wait_until_connected(self) -> None:
        """Wait, without end, until a broker lets us in; for whoever has nothing else to do meanwhile."""
        await self._let_in.wait()

    async def connect(self) -> None:
        """Try until a broker lets us in, and again whenever the client is spoilt; runs beside everything else."""
        while True:
            self._producer = producer = await self._opened()
            self._let_in.set()
            await self._spoilt.wait()
            self._spoilt.clear()
            self._let_in.clear()
            with contextlib.suppress(KafkaError):
                await asyncio.to_thread(producer.close, timeout=0)

    async def _opened(self) -> KafkaProducer:
        log = structlog.get_logger()
        while True:
            try:
                producer = await asyncio.to_thread(
                    lambda: open_client(KafkaProducer, CONNECT_WITHIN, door=self._door, **self._config)
                )
            except (KafkaError, OSError) as error:
                reason = trouble_of(error)
                why = str(error) if isinstance(error, Refused) else f"{LOOK_AT[reason]} ({error})"
                log.warning("dependency_not_there", what="Kafka producer", reason=reason.value, why=why)
                await asyncio.sleep(LONGEST_PAUSE.total_seconds() / 5)
            else:
                _ask_for_a_new_id_after_a_reset(producer)
                return producer

    async def publish(self, envelope: Envelope, *, within: timedelta) -> RecordPosition:
        """Write one event, wait until every in-sync replica has it, and return where it stands.

        Raises:
            BrokerAway: not acknowledged `within`; it may still be written.
        """
        return await self.write(envelope.topic, envelope.key, envelope.value, envelope.headers(), within=within)

    async def write(
        self, topic: str, key: bytes, value: bytes, headers: list[tuple[str, bytes]], *, within: timedelta
    ) -> RecordPosition:
        """Write one record, whatever it is; otherwise as `publish`."""
        producer = self._producer
        if producer is None:
            raise self._away(f"{topic}: no broker has let us in yet")
        try:
            async with asyncio.timeout(within.total_seconds()), self._room:
                return await self._send(producer, topic, key, value, headers)
        except (TimeoutError, KafkaError) as error:
            refusal = Refused(Trouble.DENIED, str(error), MISSING_RIGHT) if _is_missing_right(error) else None
            self._let_go_if_spoilt(producer, refusal)
            if refusal is None:
                raise self._away(f"{topic}: not acknowledged within {within}") from error
            self._say(topic, refusal)
            raise BrokerAway(f"{topic}: {refusal}", refusal.trouble) from error

    def _say(self, topic: str, refusal: Refused) -> None:
        """Log a missing right here, now and then: callers keep the record and try again, some without a word."""
        now = time.monotonic()
        if now - self._said_at.get(topic, float("-inf")) > SAY_EVERY.total_seconds():
            self._said_at[topic] = now
            structlog.get_logger().error("record_refused", topic=topic, reason=refusal.trouble.value, why=str(refusal))

    def _let_go_if_spoilt(self, producer: KafkaProducer, refusal: Refused | None) -> None:
        """Open another client: this one never sends again, since it was refused a producer id, whatever comes later."""
        manager = producer._transaction_manager  # noqa: SLF001 - there is no other way to it
        if self._producer is producer and manager.has_fatal_error():
            self._producer = None
            self._door.refusal = refusal  # until the other one is let in
            self._known_topics.clear()
            self._spoilt.set()

    def _away(self, told: str) -> BrokerAway:
        refusal = self._door.refusal
        return BrokerAway(told) if refusal is None else BrokerAway(f"{told}; {refusal}", refusal.trouble)

    async def _send(
        self, producer: KafkaProducer, topic: str, key: bytes, value: bytes, headers: list[tuple[str, bytes]]
    ) -> RecordPosition:
        await self._know(topic, producer)
        loop = asyncio.get_running_loop()
        if not self._leaving:
            loop.call_later(LINGER.total_seconds(), self._hand_over, loop)
        leaving = _Leaving(producer, topic, key, value, headers, loop.create_future())
        self._leaving.append(leaving)
        return await leaving.written

    def _hand_over(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give the thread all that waits and that somebody still awaits; wake it once for each client."""
        together, self._leaving = self._leaving, []
        with contextlib.ExitStack() as woken:
            for producer in {each.producer for each in together}:
                woken.enter_context(_woken_at_the_end(producer))
            for each in together:
                if each.written.done():
                    continue
                try:
                    sent = each.producer.send(each.topic, key=each.key, value=each.value, headers=each.headers)
                except Exception as error:  # noqa: BLE001 - it belongs to whoever awaits this record, not to the others
                    each.written.set_exception(error)
                else:
                    self._tell_when_done(loop, sent, each.written)

    def _tell_when_done(
        self, loop: asyncio.AbstractEventLoop, sent: FutureRecordMetadata, written: asyncio.Future[RecordPosition]
    ) -> None:
        """Let the thread say how it ended; the loop is woken once for all that the thread says before it looks."""

        def tell(answer: RecordPosition | BaseException) -> None:
            self._answered.append((written, answer))
            if not self._is_telling:
                self._is_telling = True
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                    loop.call_soon_threadsafe(self._settle)

        sent.add_callback(lambda told: tell(RecordPosition(told.partition, told.offset))).add_errback(tell)

    def _settle(self) -> None:
        self._is_telling = False  # before looking: what the thread says from now on wakes the loop again
        while self._answered:
            written, answer = self._answered.popleft()
            if written.done():
                continue
            if isinstance(answer, BaseException):
                written.set_exception(answer)
            else:
                written.set_result(answer)

    async def _know(self, topic: str, producer: KafkaProducer) -> None:
        """Look at a topic for the first time; the library would block the loop for it."""
        if topic in self._known_topics:
            return
        try:
            found = await asyncio.to_thread(producer.partitions_for, topic)
        except AuthorizationError:
            raise
        except KafkaError:  # it raises alike when the broker knows no such topic and when it is away
            found = None
        if not found:
            raise self._away(f"{topic}: the broker is away or has no such topic (deploy/create_topics.py makes them)")
        self._known_topics.add(topic)

    async def close(self) -> None:
        """Let go of the broker; what nobody awaits any more is not waited for."""
        if self._producer is not None:
            with contextlib.suppress(KafkaError):  # something could not be sent: nobody awaits it, or it raised there
                await asyncio.to_thread(self._producer.close, timeout=2)


def _is_missing_right(error: Exception) -> bool:
    """Tell a missing right, also when the library has put its name into an error of no kind (of the producer's id)."""
    return isinstance(error, AuthorizationError) or ClusterAuthorizationFailedError.__name__ in str(error)


def _ask_for_a_new_id_after_a_reset(producer: KafkaProducer) -> None:
    """Mend kafka-python 3.0.12, which never sends again after a broker was away for longer than `DELIVERY`.

    When a batch expires that had been sent, the library drops its producer id, because the broker may hold the batch;
    but it asks for another id only in the state UNINITIALIZED, which it never goes back to. A
    test holds a broker silent for longer than that.
    """
    manager = producer._transaction_manager  # noqa: SLF001 - there is no other way to it
    drop_id = manager.reset_producer_id

    def reset() -> None:
        with manager._lock:  # noqa: SLF001 - as every change of the state there
            drop_id()
            manager._current_state = TransactionState.UNINITIALIZED  # noqa: SLF001 - its own setter refuses this

    manager.reset_producer_id = reset


@contextmanager
def _woken_at_the_end(producer: KafkaProducer) -> Iterator[None]:
    """Let the library's thread sleep meanwhile; the library would wake it for the first record of each partition."""
    sender = producer._sender  # noqa: SLF001 - there is no other way to it
    sender.wakeup = lambda: None
    try:
        yield
    finally:
        del sender.wakeup
        sender.wakeup()


@asynccontextmanager
async def producing(
    settings: KafkaSettings, client_id: str, *, delivery: timedelta = DELIVERY
) -> AsyncIterator[Producer]:
    """Yield a producer that connects in the background and is closed at the end."""
    producer = Producer(settings, client_id, delivery=delivery)
    connecting = asyncio.create_task(producer.connect())
    try:
        yield producer
    finally:
        connecting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await connecting
        await producer.close()
