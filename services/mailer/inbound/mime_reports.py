"""Delivery status notifications (RFC 3464 in RFC 6522's multipart/report) → what they say of which mail.

Read are the fields, never the words: the human part and the returned headers are passed over, so no charset can lie.
Whoever writes to the return path may write anything, so what is no such report has a reason and no effect.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import Message
from email.parser import BytesParser
from email.policy import compat32
from email.utils import parsedate_to_datetime
from enum import StrEnum

from services.mailer.rules.receipt import Told

MOST_HOPS = 30  # `Received` lines; RFC 5321 §6.3 asks for at least 100 of a relay, and this is nobody's relay
MOST_PARTS = 10  # of a report; RFC 6522 has three
MOST_RECIPIENTS = 10  # our letters have one
STATUS = re.compile(r"[245]\.\d{1,3}\.\d{1,3}")
ACTIONS = {
    "delivered": Told.DELIVERED,
    "relayed": Told.DELIVERED,
    "expanded": Told.DELIVERED,
    "delayed": Told.DEFERRED,
    "failed": Told.BOUNCED,
}
"""RFC 3464 §2.3.3. Relayed: the next hop took it and gives no notifications; expanded: a list took it."""


class Unusable(StrEnum):
    """Why a mail to the return path tells nothing."""

    NO_REPORT = "no_report"
    MALFORMED = "malformed"
    LOOP = "loop"


class NoUse(ValueError):
    """A mail that tells nothing."""

    def __init__(self, reason: Unusable) -> None:
        """Say why."""
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Reported:
    """What a report says of one recipient."""

    envelope_id: str
    """As it came; empty when there is none."""
    told: Told
    at: datetime
    status: str


def read_report(octets: bytes, received_at: datetime) -> list[Reported]:
    """Read a mail.

    Raises:
        NoUse: it is no report, or one that cannot be read.
    """
    try:
        return list(_reported(BytesParser(policy=compat32).parsebytes(octets), received_at))
    except NoUse:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise NoUse(Unusable.MALFORMED) from error  # the parser forgives nearly everything, and not quite all


def _reported(mail: Message, received_at: datetime) -> Iterator[Reported]:
    if len(mail.get_all("Received", [])) > MOST_HOPS:
        raise NoUse(Unusable.LOOP)
    about_mail, *about_recipients = _status_of(mail)
    envelope_id = str(about_mail.get("Original-Envelope-Id", "")).strip()
    for recipient in about_recipients[:MOST_RECIPIENTS]:
        if not recipient.keys():
            continue  # a blank line more at the end
        words = str(recipient.get("Action", "")).lower().split()
        told = ACTIONS.get(words[0]) if words else None
        if told is None:
            raise NoUse(Unusable.MALFORMED)
        at = _instant(recipient.get("Last-Attempt-Date")) or _instant(mail.get("Date")) or received_at
        status = STATUS.search(str(recipient.get("Status", "")))
        yield Reported(envelope_id, told, min(at, received_at), status.group() if status else "")


def _status_of(mail: Message) -> list[Message]:
    """Return the groups of fields of a report: those about the mail, then those about each recipient."""
    if mail.get_content_type() != "multipart/report":
        raise NoUse(Unusable.NO_REPORT)
    parts = _messages(mail.get_payload())[:MOST_PARTS]
    statuses = [part for part in parts if part.get_content_type() == "message/delivery-status"]
    if not statuses:
        raise NoUse(Unusable.NO_REPORT)
    groups = _messages(statuses[0].get_payload())
    if len(groups) < 2:
        raise NoUse(Unusable.MALFORMED)
    return groups


def _messages(payload: object) -> list[Message]:
    """Return what a part holds, if that is parts."""
    return [part for part in payload if isinstance(part, Message)] if isinstance(payload, list) else []


def _instant(text: object) -> datetime | None:
    if text is None:
        return None
    try:
        instant = parsedate_to_datetime(str(text))
    except ValueError:
        return None
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
