"""Asks, before a consumer is started, whether it would be let in.

Faust's client says nothing, for ever, when its group is not allowed; it looks healthy when its topic is not; and it
tells a wrong password as a broker that is away. The broker itself tells all three apart, and which right is missing
(KIP-430), so it is asked first. It is asked in vain, and the consumer may try, while a group has no coordinator; and of
a group that nobody has ever joined it tells only whether we may look at it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from kafka.admin import KafkaAdminClient
from kafka.errors import AuthorizationError, KafkaError, TopicAuthorizationFailedError

from services.chassis.kafka_client import MISSING_RIGHT, Refused, Trouble, client_config, open_client
from services.chassis.settings import KafkaSettings

ANSWER_WITHIN = timedelta(seconds=2)
NEEDED = "READ"  # of the topic, to fetch; of the group, to join it and to commit


def let_in(settings: KafkaSettings, *, topic: str, group: str) -> None:
    """Return when a consumer of `topic` in `group` may work, or when nobody can say. Blocks for a few seconds at most.

    Raises:
        Refused: wrong password, unknown authority, or a missing right; names it.
        kafka.errors.KafkaError, OSError: no broker.
    """
    admin = open_client(KafkaAdminClient, ANSWER_WITHIN, **client_config(settings), client_id=f"{group}-rights")
    try:
        missing = [f"{NEEDED} on {what}" for what in _missing(admin, topic, group)]
    finally:
        admin.close()
    if missing:
        who = settings.kafka_user or "who comes without a name"
        raise Refused(Trouble.DENIED, f"{who} needs {' and '.join(missing)}", MISSING_RIGHT)


def _missing(admin: Any, topic: str, group: str) -> Iterable[str]:
    (told,) = admin.describe_topics([topic])
    if told["error_code"] == TopicAuthorizationFailedError.errno or _lacks(told):
        yield f"topic {topic}"
    try:
        (about,) = admin.describe_groups([group]).values()
    except AuthorizationError:
        yield f"group {group}"
    except KafkaError:
        return  # its coordinator is loading, or moving
    else:
        if _lacks(about):
            yield f"group {group}"


def _lacks(told: Mapping[str, Any]) -> bool:
    """Say whether rights were told, and the one we need is not among them; a broker without an authorizer tells all."""
    rights = told.get("authorized_operations") or ()
    return bool(rights) and NEEDED not in rights
