"""What every kafka-python client here needs: how the brokers are reached, why they are not, and no litter left.

kafka-python tells whoever opens a client one thing only: that no broker was found in time. A wrong password and a
certificate that nobody trusts look the same, and are tried again in silence. So connections here remember why the last
attempt failed, and whoever opens a client is told: a broker that is away is waited for, the rest is for people to mend.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any, TypeVar

from kafka import errors
from kafka.net.compat import KafkaNetClient
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector

from services.chassis.settings import KafkaSettings

C = TypeVar("C")


class Trouble(StrEnum):
    """Why Kafka does not do what we ask; the values are metric labels and words of health."""

    BROKER_AWAY = "broker_away"
    """No broker answers. Ends by itself when one is back."""
    BROKER_UNTRUSTED = "broker_untrusted"
    """Something answers and does not prove to be our broker."""
    DENIED = "denied"
    """A broker answers, and refuses the password or what we ask for."""


LOOK_AT = {
    Trouble.BROKER_AWAY: "no broker answers: look at Kafka, at *_KAFKA_BROKERS, and whether its port speaks TLS",
    Trouble.BROKER_UNTRUSTED: "the broker's certificate is not trusted: look at *_KAFKA_CA_FILE, "
    "at the names in the certificate, and whether the port speaks TLS",
    Trouble.DENIED: "the broker refuses the password: look at *_KAFKA_USER and *_KAFKA_PASSWORD",
}
"""What people do about each; `*` stands for the prefix of the service."""

MISSING_RIGHT = "a right is missing: look at *_KAFKA_USER, and at the rights that deploy/kafka_acls.py gives"
"""The same, when the broker knows us and does not let us do it."""

REFUSALS = (
    errors.AuthorizationError,
    errors.SaslAuthenticationFailedError,
    errors.UnsupportedSaslMechanismError,
    errors.IllegalSaslStateError,
)


class Refused(errors.KafkaError):  # type: ignore[misc] # the library has no types
    """A client was not let in, or may not do what it is for; only people can mend it, so trying again is for later.

    Args:
        trouble: `BROKER_UNTRUSTED` or `DENIED`.
        told: what the library or the broker said; no secret.
        look_at: what people do about it.
    """

    def __init__(self, trouble: Trouble, told: str, look_at: str | None = None) -> None:
        super().__init__(f"{trouble}: {look_at or LOOK_AT[trouble]} ({told})")
        self.trouble = trouble

    def __str__(self) -> str:
        """Return the words alone, without the name of the class that the library puts in front."""
        return str(self.args[0])


def trouble_of(error: BaseException) -> Trouble:
    """Return what an error of a Kafka client means for people; `BROKER_AWAY` when it says no more."""
    for each in _with_causes(error):
        if isinstance(each, Refused):
            return each.trouble
        if isinstance(each, REFUSALS):
            return Trouble.DENIED
        if isinstance(each, ssl.SSLError | FileNotFoundError | PermissionError):  # files: the authority's
            return Trouble.BROKER_UNTRUSTED
    return Trouble.BROKER_AWAY


def _with_causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@dataclass(slots=True)
class Door:
    """How a client's last attempt to connect ended."""

    refusal: Refused | None = None
    """None when it was let in, or when no broker answered."""


class _Connections(KafkaConnectionManager):  # type: ignore[misc] # the library has no types
    """Connections that note at the door why one failed."""

    def __init__(self, door: Door, net: NetworkSelector, **config: Any) -> None:
        self._door = door
        super().__init__(net, **config)

    async def _build_transport(self, *args: Any, **kwargs: Any) -> Any:
        """Mend kafka-python 3.0.12, which drops what comes together with the end of a connection.

        That is how brokers refuse a password: they say why and hang up, and the library heard them only now and then.
        """
        transport = await super()._build_transport(*args, **kwargs)
        receive = transport._sock_recv  # noqa: SLF001 - there is no other way to it

        def receive_all() -> tuple[bytes, Exception | None]:
            data, error = receive()
            return (data, None) if data else (data, error)  # the end is still there at the next look

        transport._sock_recv = receive_all  # noqa: SLF001 - as above
        return transport

    async def _connect(self, node: Any, conn: Any, *args: Any, **kwargs: Any) -> None:
        await super()._connect(node, conn, *args, **kwargs)
        failure = conn.init_future.exception if conn.init_future.failed() else None
        if isinstance(failure, errors.KafkaTimeoutError):
            return  # cut off by the end of our patience: what was said before still holds
        trouble = Trouble.BROKER_AWAY if failure is None else trouble_of(failure)
        self._door.refusal = None if trouble is Trouble.BROKER_AWAY else Refused(trouble, str(failure))
        if self._door.refusal is not None and not self.bootstrapped:
            self._auth_failures[node.node_id] = self._door.refusal  # ends the opening: to knock again would not help


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


def open_client(kind: Callable[..., C], within: timedelta, *, door: Door | None = None, **config: Any) -> C:
    """Construct a kafka-python client that waits for nothing longer than `within`.

    Constructors of kafka-python 3.0 start a thread and open sockets before they look for a broker, and leave both
    behind when there is none; a process that tries for hours would run out of them.

    Args:
        kind: a client's class.
        within: for the first connection, and for each later one.
        door: told, for as long as the client lives, whether its connections are refused.
        config: of the client.

    Raises:
        Refused: a broker was found that does not let us in, or that we do not trust.
        kafka.errors.KafkaError, OSError: no broker; nothing is left behind.
    """
    patience_ms = int(within.total_seconds() * 1000)
    door = door or Door()
    made: list[KafkaNetClient] = []

    def network(**options: Any) -> KafkaNetClient:
        ours = options | {"socket_connection_setup_timeout_ms": patience_ms}
        net = NetworkSelector(**ours)
        made.append(KafkaNetClient(net=net, manager=_Connections(door, net, **ours)))
        return made[-1]

    try:
        return kind(
            **{"request_timeout_ms": patience_ms, "reconnect_backoff_max_ms": 1_000, **config},
            kafka_client=network,
            bootstrap_timeout_ms=patience_ms,
        )
    except BaseException as error:
        for client in made:
            client.close()
        if door.refusal is not None and isinstance(error, errors.KafkaError | OSError):
            raise door.refusal from None  # "no broker in time" would be the louder half of it, and wrong
        raise
