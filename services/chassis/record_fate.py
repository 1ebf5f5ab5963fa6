"""What becomes of one record: handled, tried again, or buried as a dead letter that is written and told.

`ordered_inbox` says when; it lets a record settle only after `RecordFate.handle` returned nothing, or `bury` returned.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from services.chassis.clock import system_clock
from services.chassis.dead_letter import DeadKind, DeadLetter, dead_topic
from services.chassis.errors import Kind, ServiceError
from services.chassis.kafka_producer import BrokerAway, Producer
from services.chassis.retry import patiently

TRIES = 5  # of a handler that fails without a reason we know: enough for a hiccup, short enough for the partition
DEAD_LETTER_WAIT = timedelta(seconds=20)


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

    def __init__(self, reason: str, kind: DeadKind = DeadKind.UNDECODABLE) -> None:
        """Say why, in a sentence and in a word."""
        super().__init__(reason)
        self.kind = kind


class TryAgainError(Exception):
    """Inner signal: the handler did not settle the record this time."""


class RecordFate:
    """The handler of one topic and group, with what follows when it fails.

    Args:
        group: whose handling a dead letter tells of.
        buried_in: the topic where dead letters go; `<topic>.dead` when `None`.
        handle, producer, on_dead: see `OrderedInbox`.
        log: a bound logger.
    """

    def __init__(
        self,
        group: str,
        *,
        handle: Callable[[Record], Awaitable[None]],
        producer: Producer,
        buried_in: str | None,
        on_dead: Callable[[Record, DeadKind], Awaitable[None]] | None,
        log: Any,
    ) -> None:
        self._group = group
        self._handle = handle
        self._producer = producer
        self._buried_in = buried_in
        self._on_dead = on_dead
        self._log = log

    async def handle(self, record: Record) -> Poison | None:
        """Handle until it works; return why it never can.

        "A dependency is away" (`BrokerAway`, or a `ServiceError` of `Kind.UNAVAILABLE`) is tried again with backoff and
        without end; any other error `TRIES` times.
        """
        faults = 0

        async def once() -> Poison | None:
            nonlocal faults
            try:
                await self._handle(record)
            except Poison as poison:
                return poison
            except Exception as error:
                if not _is_away(error):
                    faults += 1
                    self._log.exception("record_failed", partition=record.partition, offset=record.offset, tries=faults)
                if faults >= TRIES:
                    reason = f"the handler failed {TRIES} times with {type(error).__name__}; the log has the traceback"
                    return Poison(reason, DeadKind.HANDLER_FAILED)
                raise TryAgainError from error
            return None

        return await patiently(once, what=f"handler of {record.topic}", on=(TryAgainError,), within=None)

    async def bury(self, record: Record, poison: Poison) -> None:
        """Publish the dead letter and tell of it; until both are done the record has not settled."""
        place = record.topic, record.partition, record.offset
        letter = DeadLetter(*place, self._group, system_clock(), poison.kind, str(poison))
        topic = dead_topic(record.topic, self._buried_in)
        headers = letter.headers(record.headers)

        async def write() -> None:
            await self._producer.write(topic, record.key, record.value, headers, within=DEAD_LETTER_WAIT)

        await patiently(write, what=f"dead letters of {record.topic}", on=(BrokerAway,), within=None)
        self._log.error(
            "record_dead_lettered",
            partition=record.partition,
            offset=record.offset,
            kind=poison.kind.value,
            reason=letter.reason,
        )
        await patiently(
            lambda: self._tell(record, poison.kind),
            what=f"telling of a dead letter of {record.topic}",
            on=(TryAgainError,),
            within=None,
        )

    async def _tell(self, record: Record, kind: DeadKind) -> None:
        if self._on_dead is None:
            return
        try:
            await self._on_dead(record, kind)
        except Exception as error:
            if _is_away(error):
                raise TryAgainError from error
            self._log.exception("dead_letter_not_told", partition=record.partition, offset=record.offset)


def _is_away(error: Exception) -> bool:
    return isinstance(error, BrokerAway) or (isinstance(error, ServiceError) and error.kind is Kind.UNAVAILABLE)
