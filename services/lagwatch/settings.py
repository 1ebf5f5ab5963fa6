"""What lagwatch is told from outside."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated

from pydantic import BeforeValidator, Field, ValidationInfo
from pydantic_settings import NoDecode, SettingsConfigDict

from services.chassis.lag import Queue
from services.chassis.settings import KafkaSettings
from services.lagwatch.ports import Lane

NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")  # what Kafka allows for a topic; our groups keep to it too
NO_LANE = "none"
MOST_QUEUES = 32  # each is a handful of series per partition, and one more question to Kafka


def _queues(text: object) -> object:
    if not isinstance(text, str):
        return text
    queues = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        group, equals, topic = part.partition("=")
        if not equals or not NAME.fullmatch(group) or not NAME.fullmatch(topic):
            raise ValueError(f"{part!r} must be GROUP=TOPIC, names of letters, digits, dots, dashes, underscores")
        queues.append(Queue(group, topic))
    if len(set(queues)) < len(queues):
        raise ValueError("names a queue twice")
    return tuple(queues)


Queues = Annotated[tuple[Queue, ...], NoDecode, BeforeValidator(_queues)]
"""`GROUP=TOPIC`, separated by commas."""


def _lane(name: str, queues: Sequence[Queue]) -> Lane:
    """Return the lane of that name: its groups and topics are named after it, as the mailer names them."""
    main = [queue for queue in queues if queue.group == f"mailer-{name}"]
    deliveries = [queue for queue in queues if queue.topic == f"mail.delivery.{name}.v1"]
    if len(main) != 1 or len(deliveries) != 1:
        raise ValueError(
            f"{name!r} needs one queue of the group mailer-{name} and one of the topic mail.delivery.{name}.v1"
        )
    tiers = tuple(queue for queue in queues if queue.group.startswith(f"mailer-retry-{name}-"))
    return Lane(name, main[0], tiers, deliveries[0])


def _lanes(names: object, told: ValidationInfo) -> object:
    queues = told.data.get("queues")
    if not isinstance(names, str) or queues is None:  # without queues: there is a problem with them, which is told
        return names
    asked = [part.strip() for part in names.split(",") if part.strip() and part.strip() != NO_LANE]
    if len(set(asked)) < len(asked):
        raise ValueError("names a lane twice")
    return tuple(_lane(name, queues) for name in asked)


Lanes = Annotated[tuple[Lane, ...], NoDecode, BeforeValidator(_lanes)]
"""Names, separated by commas; `none` for no lane."""


class LagwatchSettings(KafkaSettings):
    """`LAGWATCH_*` in the environment."""

    model_config = SettingsConfigDict(env_prefix="LAGWATCH_", validate_default=True)

    queues: Queues = Field(
        # What waits on the way of a code (mailer, then otp) and of a notice (mailer, then dossier); in the tiers of
        # the mailer it is meant to wait, for as long as the topic's name says.
        "mailer-otp=otp.code-requested.v1,mailer-wanted=otp.code-wanted.v1,mailer-notice=notice.requested.v1,"  # type: ignore[arg-type]  # as people write it
        "mailer-retry-otp-1s=mail.retry.otp.1s.v1,mailer-retry-otp-3s=mail.retry.otp.3s.v1,"
        "mailer-retry-otp-10s=mail.retry.otp.10s.v1,mailer-retry-otp-30s=mail.retry.otp.30s.v1,"
        "mailer-retry-otp-1m=mail.retry.otp.1m.v1,mailer-retry-notice-1m=mail.retry.notice.1m.v1,"
        "mailer-retry-notice-10m=mail.retry.notice.10m.v1,mailer-retry-notice-1h=mail.retry.notice.1h.v1,"
        "mailer-retry-notice-6h=mail.retry.notice.6h.v1,"
        "otp=mail.delivery.otp.v1,dossier=mail.delivery.notice.v1",
        min_length=1,
        max_length=MOST_QUEUES,
        description="What is watched: GROUP=TOPIC, separated by commas.",
    )
    lanes: Lanes = Field(
        "otp,notice",  # type: ignore[arg-type]  # as people write it
        description="Whose wait is predicted, separated by commas: NAME has the group mailer-NAME, tiers of the groups "
        "mailer-retry-NAME-* and the topic mail.delivery.NAME.v1, all among the queues; `none` for no lane.",
    )
    poll_interval: timedelta = Field(
        timedelta(seconds=5),
        ge=timedelta(milliseconds=100),
        le=timedelta(seconds=10),
        description="From the start of one measurement to the start of the next (ISO 8601, such as PT5S).",
    )
