"""What became of a letter: the words of the ledger and of the delivery events."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class DropReason(StrEnum):
    """Why a letter was not sent."""

    DEADLINE = "deadline"
    WITHDRAWN = "withdrawn"
    DEAD_LETTERED = "dead_lettered"
    """It can never be mailed as it is; it lies in a dead-letter topic, and people may put it back."""


@dataclass(frozen=True, slots=True)
class HandedOver:
    """The relay took it (SMTP 250 after the body)."""

    at: datetime
    body_started_at: datetime
    """When the first octet of the body may have left; never later than it did."""
    route: str
    relay_id: str
    """Queue id that the relay told, if any."""
    uncertain: bool = False
    """No reply came and the deadline passed: it may or may not arrive."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The relay said no for good (SMTP 5xx)."""

    at: datetime
    reply_code: int
    status: str
    """RFC 3463, such as 5.1.1; empty when none was sent."""
    exposed: bool = False
    """An earlier body of it left without a reply."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """We gave it up."""

    at: datetime
    reason: DropReason
    exposed: bool
    """A body may have left this house."""


@dataclass(frozen=True, slots=True)
class Deferred:
    """It could not leave this time, and waits in a tier. Not an outcome: it is told to the owner, and nothing else."""

    at: datetime
    next_try_at: datetime
    attempt: int
    """Of the next try."""
    status: str = ""
    """RFC 3463, such as 4.7.1; empty when no relay sent one."""


Outcome = HandedOver | Refused | Dropped


@dataclass(frozen=True, slots=True)
class NoReply:
    """The body left and no reply came: nobody knows. Not an outcome yet."""

    body_started_at: datetime
