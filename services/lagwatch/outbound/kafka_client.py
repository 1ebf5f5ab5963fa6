"""What both Kafka clients here need: to be opened without leaving litter, and to be understood when they fail."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from kafka import errors
from kafka.net.compat import KafkaNetClient

from services.lagwatch.ports import Reason

C = TypeVar("C")
K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

KAFKA_ERRORS = (errors.KafkaError, OSError)
"""What a call of kafka-python may raise without being at fault itself."""

REASONS: tuple[tuple[tuple[type[Exception], ...], Reason], ...] = (
    ((errors.AuthorizationError, errors.SaslAuthenticationFailedError), Reason.DENIED),
    ((errors.UnknownTopicOrPartitionError, errors.InvalidTopicError), Reason.TOPIC_UNKNOWN),
    (
        (
            errors.KafkaConnectionError,
            errors.KafkaTimeoutError,
            errors.NodeNotReadyError,
            errors.RequestTimedOutError,
            errors.UnknownBrokerIdError,
            OSError,
        ),
        Reason.BROKER_AWAY,
    ),
)


def reason_of(error: Exception, otherwise: Reason) -> Reason:
    """Return what an error means for who asked; `otherwise` when it says no more than that it did not work."""
    return next((reason for kinds, reason in REASONS if isinstance(error, kinds)), otherwise)


def asked_together(
    ask: Callable[[Sequence[K]], dict[K, V]], keys: Sequence[K], otherwise: Reason
) -> dict[K, V | Reason]:
    """Ask about all keys at once and, when one of them spoils the answer, about each alone.

    kafka-python's admin calls raise on the first bad partition or group of an answer and drop the good ones.

    Returns:
        For each key its value, or why there is none.
    """
    try:
        answers = ask(keys)
    except KAFKA_ERRORS as error:
        reason = reason_of(error, otherwise)
        if len(keys) == 1 or reason is Reason.BROKER_AWAY:  # then each alone would only wait as long again
            return dict.fromkeys(keys, reason)
        return {key: answer for one in keys for key, answer in asked_together(ask, [one], otherwise).items()}
    return {key: answers.get(key, otherwise) for key in keys}


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
            **config,
            kafka_client=network,
            bootstrap_timeout_ms=patience_ms,
            request_timeout_ms=patience_ms,
            reconnect_backoff_max_ms=1_000,
        )
    except BaseException:
        for client in made:
            client.close()
        raise
