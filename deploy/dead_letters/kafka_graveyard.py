"""Reads every dead letter, and writes what a person decided: back to where it died, and a mark beside it.

A **mark** is a record in the dead-letter topic itself, with no value: its headers name the offset that it is about and
say `redriven` or `dropped`. It is younger than what it marks, so retention never removes it first. What is put back is
acknowledged before its mark is written; whoever breaks off in between puts it back twice, which every handler bears.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from deploy.dead_letters.buried import Buried, Done, Place, Problem
from services.chassis.dead_letter import DeadLetter, headers_to_go_back, read_dead_letter
from services.chassis.kafka_client import client_config, open_client
from services.chassis.kafka_producer import BrokerAway, Producer
from services.chassis.settings import KafkaSettings

SUFFIX = ".dead"
MARK, MARKED = "kip-dead-done", "kip-dead-place"  # what was done, and with which `partition:offset` of the topic
ANSWER_WITHIN = timedelta(seconds=20)
CONNECT_WITHIN = timedelta(seconds=5)  # a person waits, and may have misspelt the address


class KafkaGraveyard:
    """The dead-letter topics of one cluster."""

    def __init__(self, settings: KafkaSettings) -> None:
        """Connect when asked."""
        self._settings = settings

    def read(self) -> list[Buried]:
        """Return every dead letter, with its mark, by topic and in the order in which they died.

        Raises:
            Problem: no broker answers, or not in time.
        """
        try:
            consumer = open_client(
                KafkaConsumer, CONNECT_WITHIN, **client_config(self._settings), group_id=None, enable_auto_commit=False
            )
        except (KafkaError, OSError) as error:
            raise Problem(self._away(error)) from error
        try:
            return _buried(_records(consumer))
        except (KafkaError, OSError) as error:
            raise Problem(self._away(error)) from error
        finally:
            consumer.close()

    def redrive(self, chosen: Sequence[Buried], tell: Callable[[Buried], None]) -> None:
        """Put each back to where it died, one after the other, awaited, and mark it; `tell` hears of each.

        Raises:
            Problem: not acknowledged; what was told of is done and marked.
        """
        asyncio.run(self._write_each(chosen, Done.REDRIVEN, tell))

    def drop(self, chosen: Sequence[Buried], tell: Callable[[Buried], None]) -> None:
        """Mark each as closed; otherwise as `redrive`."""
        asyncio.run(self._write_each(chosen, Done.DROPPED, tell))

    async def _write_each(self, chosen: Sequence[Buried], done: Done, tell: Callable[[Buried], None]) -> None:
        producer = Producer(self._settings, "kip-dead")
        try:
            async with asyncio.timeout(ANSWER_WITHIN.total_seconds()):
                await producer.connect()
            for each in chosen:
                if done is Done.REDRIVEN:
                    await _put_back(producer, each)
                await _mark(producer, each.place, done)
                tell(each)
        except (TimeoutError, BrokerAway) as error:
            raise Problem(f"{self._away(error)}\nWhat was told of above is done; run it again for the rest.") from error
        finally:
            await producer.close()

    def _away(self, error: Exception) -> str:
        why = f"{type(error).__name__}: {error}".rstrip(": ")
        return f"Kafka does not answer at {self._settings.kafka_brokers} ({why}). Is the address right, and is it up?"


async def _put_back(producer: Producer, each: Buried) -> None:
    if each.letter is None:
        raise Problem(f"{each.place} does not say where it died, so it cannot go back. `kip-dead drop` closes it.")
    headers = headers_to_go_back(each.headers)
    await producer.write(each.letter.topic, each.key, each.value, headers, within=ANSWER_WITHIN)


async def _mark(producer: Producer, place: Place, done: Done) -> None:
    headers = [(MARK, done.encode()), (MARKED, f"{place.partition}:{place.offset}".encode())]
    await producer.write(place.topic, b"", b"", headers, within=ANSWER_WITHIN)


def _records(consumer: Any) -> Iterable[Any]:
    topics = [topic for topic in consumer.topics() if topic.endswith(SUFFIX)]
    partitions = [TopicPartition(topic, number) for topic in topics for number in consumer.partitions_for_topic(topic)]
    consumer.assign(partitions)
    consumer.seek_to_beginning()
    ends = consumer.end_offsets(partitions) if partitions else {}
    deadline = time.monotonic() + ANSWER_WITHIN.total_seconds()
    while any(consumer.position(partition) < end for partition, end in ends.items()):
        if time.monotonic() > deadline:
            raise TimeoutError("the dead letters do not come")
        for batch in consumer.poll(timeout_ms=200).values():
            deadline = time.monotonic() + ANSWER_WITHIN.total_seconds()  # it goes on, however long it is
            yield from batch


def _buried(records: Iterable[Any]) -> list[Buried]:
    letters: list[Any] = []
    marks: dict[Place, Done] = {}
    for record in records:
        headers = {name: (value or b"").decode(errors="replace") for name, value in record.headers}
        if MARK not in headers:
            letters.append(record)
            continue
        partition, _, offset = headers.get(MARKED, "").partition(":")
        if partition.isdecimal() and offset.isdecimal() and headers[MARK] in set(Done):
            marks[Place(record.topic, int(partition), int(offset))] = Done(headers[MARK])
    found = (_one(record, marks) for record in letters)
    return sorted(found, key=lambda each: each.place)


def _one(record: Any, marks: dict[Place, Done]) -> Buried:
    place = Place(record.topic, record.partition, record.offset)
    return Buried(
        place=place,
        key=record.key or b"",
        value=record.value or b"",
        headers=[(name, value or b"") for name, value in record.headers],
        written_at=datetime.fromtimestamp(max(0, record.timestamp) / 1000, UTC),
        letter=_letter(record),
        done=marks.get(place),
    )


def _letter(record: Any) -> DeadLetter | None:
    try:
        return read_dead_letter(record.headers)
    except ValueError:
        return None
