"""An awaitable, idempotent Kafka producer: kafka-python's, bridged to asyncio.

kafka-python sends from a thread of its own and answers with a future of its own kind; each send here gets an asyncio
future that the thread completes. What would block the loop is kept off it: the constructor (it waits for a broker) and
the first look at a topic (it waits for metadata) run in a thread. The library bounds nothing that waits to be sent, so
a semaphore does.

A record that was given up waiting for may still be written later: whoever publishes must be able to bear it twice.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import structlog
from kafka import KafkaProducer
from kafka.errors import KafkaError
from kafka.producer.transaction_manager import TransactionState

from services.chassis.events import Envelope
from services.chassis.kafka_client import client_config, open_client
from services.chassis.retry import LONGEST_PAUSE
from services.chassis.settings import KafkaSettings

MAX_IN_FLIGHT = 1_000  # records; a few megabytes
DELIVERY = timedelta(seconds=20)  # how long the library tries; a broker that restarts is back within this
CONNECT_WITHIN = timedelta(seconds=2)
LINGER = timedelta(milliseconds=10)
"""How long a record waits for company. A request to the broker costs the sending thread as much as several records do;
nobody who waits for a mail notices ten milliseconds."""


class BrokerAway(ConnectionError):
    """The record was not acknowledged: the broker is away, or did not answer in time."""


@dataclass(frozen=True, slots=True)
class RecordPosition:
    """Where an acknowledged record stands in its topic."""

    partition: int
    offset: int
    """-1 when the broker had the record already, from a try whose answer was lost, and does not say where."""


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
            "linger_ms": int(LINGER.total_seconds() * 1000),
            "delivery_timeout_ms": int(delivery.total_seconds() * 1000),
            "request_timeout_ms": int(delivery.total_seconds() * 500),
            "max_block_ms": 500,
            "reconnect_backoff_max_ms": 1_000,
        }
        self._room = asyncio.Semaphore(MAX_IN_FLIGHT)
        self._producer: KafkaProducer | None = None
        self._known_topics: set[str] = set()

    @property
    def connected(self) -> bool:
        """True once a broker has been seen."""
        return self._producer is not None

    async def connect(self) -> None:
        """Try until a broker answers; meant to run beside everything else."""
        log = structlog.get_logger()
        while self._producer is None:
            try:
                producer = await asyncio.to_thread(lambda: open_client(KafkaProducer, CONNECT_WITHIN, **self._config))
            except (KafkaError, OSError) as error:
                log.warning("dependency_not_there", what="Kafka producer", error=type(error).__name__, why=str(error))
                await asyncio.sleep(LONGEST_PAUSE.total_seconds() / 5)
            else:
                _ask_for_a_new_id_after_a_reset(producer)
                self._producer = producer

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
        try:
            async with asyncio.timeout(within.total_seconds()), self._room:
                return await self._send(topic, key, value, headers)
        except (TimeoutError, KafkaError) as error:
            raise BrokerAway(f"{topic}: not acknowledged within {within}") from error

    async def _send(self, topic: str, key: bytes, value: bytes, headers: list[tuple[str, bytes]]) -> RecordPosition:
        producer = self._producer
        if producer is None:
            raise BrokerAway(f"{topic}: no broker has been seen yet")
        await self._know(topic, producer)
        loop = asyncio.get_running_loop()
        written: asyncio.Future[RecordPosition] = loop.create_future()

        def settle(answer: RecordPosition | BaseException) -> None:
            if written.done():
                return
            if isinstance(answer, BaseException):
                written.set_exception(answer)
            else:
                written.set_result(answer)

        def tell(answer: RecordPosition | BaseException) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(settle, answer)

        producer.send(topic, key=key, value=value, headers=headers).add_callback(
            lambda told: tell(RecordPosition(told.partition, told.offset))
        ).add_errback(tell)
        return await written

    async def _know(self, topic: str, producer: KafkaProducer) -> None:
        """Look at a topic for the first time; the library would block the loop for it."""
        if topic in self._known_topics:
            return
        with contextlib.suppress(KafkaError):  # it raises alike when the broker knows no such topic and when it is away
            if await asyncio.to_thread(producer.partitions_for, topic):
                self._known_topics.add(topic)
                return
        raise BrokerAway(f"{topic}: the broker is away or has no such topic (deploy/create_topics.py makes them)")

    async def close(self) -> None:
        """Let go of the broker; what nobody awaits any more is not waited for."""
        if self._producer is not None:
            with contextlib.suppress(KafkaError):  # something could not be sent: nobody awaits it, or it raised there
                await asyncio.to_thread(self._producer.close, timeout=2)


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
