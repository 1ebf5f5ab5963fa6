"""What a failure of Kafka means to whoever asked."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

from kafka import errors

from services.chassis.kafka_client import Trouble, trouble_of
from services.lagwatch.ports import Reason

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

KAFKA_ERRORS = (errors.KafkaError, OSError)
"""What a call of kafka-python may raise without being at fault itself."""

REFUSED = {Trouble.DENIED: Reason.DENIED, Trouble.BROKER_UNTRUSTED: Reason.BROKER_UNTRUSTED}

REASONS: tuple[tuple[tuple[type[Exception], ...], Reason], ...] = (
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
    refused = REFUSED.get(trouble_of(error))
    return refused or next((reason for kinds, reason in REASONS if isinstance(error, kinds)), otherwise)


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
