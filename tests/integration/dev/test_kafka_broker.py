"""A real broker: what it acknowledged survives a kill, a stop, and other ports."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import KafkaAdminClient, NewTopic

from deploy.dev.kafka_broker import KafkaBroker
from deploy.dev.ports import PortInUse
from tests.conditions import wait_until
from tests.servers.process_search import processes_of

TOPIC = "letters"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[KafkaBroker]:
    broker = KafkaBroker(tmp_path)
    broker.start()
    yield broker
    broker.kill()
    assert not processes_of(tmp_path)


def create_topic(address: str) -> None:
    admin = KafkaAdminClient(bootstrap_servers=address)
    admin.create_topics([NewTopic(name=TOPIC, num_partitions=1, replication_factor=1)])
    admin.close()


def produce(address: str, *texts: bytes) -> None:
    producer = KafkaProducer(bootstrap_servers=address, acks="all")
    for text in texts:
        producer.send(TOPIC, text).get(timeout=20)
    producer.close()


def consume(address: str, count: int) -> list[bytes]:
    consumer = KafkaConsumer(TOPIC, bootstrap_servers=address, auto_offset_reset="earliest", group_id=None)
    values: list[bytes] = []

    def enough() -> bool:
        values.extend(record.value for records in consumer.poll(100).values() for record in records)
        return len(values) >= count

    wait_until(enough, within_s=30, what=f"{count} records")
    consumer.close()
    return values


def test_what_was_acknowledged_survives_a_kill(broker: KafkaBroker) -> None:
    create_topic(broker.address)
    produce(broker.address, b"one", b"two")
    address = broker.address

    broker.kill()
    broker.start()

    assert broker.address == address
    assert consume(address, 2) == [b"one", b"two"]


def test_a_directory_may_be_served_again_on_other_ports(broker: KafkaBroker, tmp_path: Path) -> None:
    create_topic(broker.address)
    produce(broker.address, b"one")
    broker.stop()
    successor = KafkaBroker(tmp_path)

    successor.start()
    seen = consume(successor.address, 1)
    code = successor.stop()

    assert successor.address != broker.address
    assert seen == [b"one"]
    assert code == 143  # a JVM's word for "ended by SIGTERM, orderly"


def test_it_listens_on_loopback_only(broker: KafkaBroker) -> None:
    tables = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    port = f"{broker.port('kafka'):04X}"
    addresses = {
        fields[1].rpartition(":")[0] for fields in tables if fields[1].endswith(f":{port}") and fields[3] == "0A"
    }

    assert addresses
    assert all(address.endswith("0100007F") for address in addresses)  # 127.0.0.1, also as an IPv6 address


def test_a_taken_port_is_told_before_anything_runs(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]

        with pytest.raises(PortInUse, match=f"Port {port} is in use"):
            KafkaBroker(tmp_path, port).start()

    assert not processes_of(tmp_path)
