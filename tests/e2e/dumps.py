"""Everything that the running stack keeps, sends and says, as bytes to search: Redis, Kafka, logs, metrics, processes.

The mailbox is left out, for it is the citizen's, and so is the archive of `dossier`, whose purpose is to keep names and
addresses; both have their own guards.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import redis
from kafka import KafkaConsumer, TopicPartition

from tests.e2e.metrics_page import page_of
from tests.e2e.stacks import Running

READ_WITHIN_S = 60.0
SERVICES = ("otp", "mailer", "dossier", "lagwatch")
READERS: Mapping[bytes, Callable[[Any, bytes], object]] = {
    b"string": lambda client, key: client.get(key),
    b"hash": lambda client, key: client.hgetall(key),
    b"set": lambda client, key: client.smembers(key),
    b"stream": lambda client, key: client.xrange(key),
    b"zset": lambda client, key: client.zrange(key, 0, -1),
}


def everything(running: Running) -> dict[str, bytes]:
    """Return what there is, by the place where it was found."""
    stack = running.stack
    logs = sorted((stack.directory / "logs").glob("*.log"))
    return {
        "redis": b"\n".join(_redis_parts(stack.address("redis"))),
        "kafka": b"\n".join(kafka_parts(stack.address("kafka"))),
        **{f"log of {log.stem}": log.read_bytes() for log in logs},
        **{f"metrics of {name}": page_of(stack.address(f"{name}.http")).encode() for name in SERVICES},
        **{f"process {process.name}": _told_to(process.pid) for process in stack.processes()},
    }


def ways_to_write(text: str) -> Iterator[bytes]:
    """Return a text as it may stand in bytes: as it is, in JSON, in hex, in base64."""
    octets = text.encode()
    yield octets
    yield json.dumps(text)[1:-1].encode()
    yield octets.hex().encode()
    yield base64.b64encode(octets).rstrip(b"=")


def places_of(needles: Iterable[bytes], haystacks: Mapping[str, bytes]) -> set[str]:
    """Return the places where any of the needles is."""
    wanted = list(needles)
    return {place for place, octets in haystacks.items() if any(needle in octets for needle in wanted)}


def _redis_parts(address: str) -> Iterator[bytes]:
    client: Any = redis.Redis.from_url(f"redis://{address}/0")
    try:
        for key in client.scan_iter():
            yield key
            yield from _octets(READERS[client.type(key)](client, key))
    finally:
        client.close()


def _octets(value: object) -> Iterator[bytes]:
    """Take an answer of Redis apart."""
    if isinstance(value, bytes):
        yield value
    elif isinstance(value, dict):
        yield from _octets([*value.keys(), *value.values()])
    elif isinstance(value, list | tuple | set):
        for part in value:
            yield from _octets(part)


def kafka_parts(address: str) -> Iterator[bytes]:
    """Read every record of every topic: keys, values, names and values of headers."""
    for record in kafka_records(address):
        yield from filter(None, (record.key, record.value))
        yield from (part for name, value in record.headers for part in (name.encode(), value))


def kafka_records(address: str) -> Iterator[Any]:
    """Read every record of every topic."""
    consumer = KafkaConsumer(bootstrap_servers=[address], auto_offset_reset="earliest", enable_auto_commit=False)
    try:
        topics = sorted(consumer.topics())
        partitions = [TopicPartition(topic, part) for topic in topics for part in consumer.partitions_for_topic(topic)]
        ends = consumer.end_offsets(partitions)
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        deadline = time.monotonic() + READ_WITHIN_S
        while any(consumer.position(partition) < end for partition, end in ends.items()):
            assert time.monotonic() < deadline, f"Kafka was not read within {READ_WITHIN_S} s"
            for records in consumer.poll(timeout_ms=500).values():
                yield from records
    finally:
        consumer.close()


def _told_to(pid: int) -> bytes:
    """Return the arguments and the environment of a process."""
    return b"\n".join(Path(f"/proc/{pid}/{part}").read_bytes() for part in ("cmdline", "environ"))
