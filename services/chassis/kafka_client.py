"""What every kafka-python client here needs: how the brokers are reached, and to be opened without leaving litter."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

from kafka.net.compat import KafkaNetClient

from services.chassis.settings import KafkaSettings

C = TypeVar("C")


def client_config(settings: KafkaSettings) -> dict[str, Any]:
    """Return what any kafka-python client needs to reach the brokers."""
    config: dict[str, Any] = {"bootstrap_servers": settings.kafka_brokers.split(",")}
    protocol = ("SASL_" if settings.kafka_user else "") + ("SSL" if settings.kafka_tls else "PLAINTEXT")
    config["security_protocol"] = protocol
    if settings.kafka_tls and settings.kafka_ca_file:
        config["ssl_cafile"] = str(settings.kafka_ca_file)
    if settings.kafka_user and settings.kafka_password:
        config |= {
            "sasl_mechanism": "SCRAM-SHA-512",
            "sasl_plain_username": settings.kafka_user,
            "sasl_plain_password": settings.kafka_password.get_secret_value(),
        }
    return config


def open_client(kind: Callable[..., C], within: timedelta, **config: Any) -> C:
    """Construct a kafka-python client that waits for nothing longer than `within`.

    Constructors of kafka-python 3.0 start a thread and open sockets before they look for a broker, and leave both
    behind when there is none; a process that tries for hours would run out of them.

    Raises:
        kafka.errors.KafkaError, OSError: no broker, or none that lets us in; nothing is left behind.
    """
    patience_ms = int(within.total_seconds() * 1000)
    made: list[KafkaNetClient] = []

    def network(**options: Any) -> KafkaNetClient:
        made.append(KafkaNetClient(**(options | {"socket_connection_setup_timeout_ms": patience_ms})))
        return made[-1]

    try:
        return kind(
            **{"request_timeout_ms": patience_ms, "reconnect_backoff_max_ms": 1_000, **config},
            kafka_client=network,
            bootstrap_timeout_ms=patience_ms,
        )
    except BaseException:
        for client in made:
            client.close()
        raise
