"""The envelope of every Kafka record: CloudEvents 1.0 in binary mode, as headers.

The value of a record is protobuf and says what happened; the headers say which event it is, who sent it, when, about
whom, and after when it is pointless (`expirytime`), so that people and tools can sort records without opening them.
`traceparent` (W3C Trace Context) joins a letter to the call that asked for it. Sources: CloudEvents Kafka protocol
binding §3.2, extensions `expirytime` and distributed tracing.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from opentelemetry import propagate

SPEC_VERSION = b"1.0"
CONTENT_TYPE = b"application/protobuf"


@dataclass(frozen=True, slots=True)
class Envelope:
    """One record on its way to Kafka, or as it came from there."""

    topic: str
    key: bytes
    """Decides the partition (murmur2)."""
    value: bytes
    """Protobuf."""
    type: str
    """Full name of the message, such as `kip.otp.v1.CodeRequested`."""
    source: str
    """The service that speaks, such as `otp`."""
    subject: str
    """Public id of what it is about; never personal."""
    time: datetime
    expires: datetime | None = None
    """After this nobody needs it; readers may drop it."""
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    """Unique per source: a repeat of the same event has the same id."""
    trace: Mapping[str, str] = field(default_factory=dict)
    """W3C Trace Context: `traceparent` and, if any, `tracestate`."""

    def headers(self) -> list[tuple[str, bytes]]:
        """Return the Kafka headers."""
        named = {
            "ce_specversion": SPEC_VERSION,
            "ce_id": self.id.encode(),
            "ce_type": self.type.encode(),
            "ce_source": self.source.encode(),
            "ce_subject": self.subject.encode(),
            "ce_time": instant_text(self.time),
            "content-type": CONTENT_TYPE,
        }
        if self.expires is not None:
            named["expirytime"] = instant_text(self.expires)
        return [*named.items(), *((name, value.encode()) for name, value in self.trace.items())]


def current_trace() -> dict[str, str]:
    """Return the headers that carry the current span on."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return carrier


def envelope_of(topic: str, key: bytes, value: bytes, headers: Mapping[str, bytes]) -> Envelope:
    """Rebuild the envelope of a record that was read.

    Raises:
        ValueError: a header that every event has is missing or malformed; names it.
    """

    def text(name: str) -> str:
        try:
            return headers[name].decode()
        except KeyError as missing:
            raise ValueError(f"header {name} is missing") from missing
        except UnicodeDecodeError as wrong:
            raise ValueError(f"header {name} is not UTF-8") from wrong

    def instant(name: str) -> datetime:
        written = text(name)
        try:
            return read_instant(written)
        except ValueError as wrong:
            raise ValueError(f"header {name}: {wrong}") from wrong

    return Envelope(
        topic=topic,
        key=key,
        value=value,
        type=text("ce_type"),
        source=text("ce_source"),
        subject=text("ce_subject"),
        time=instant("ce_time"),
        expires=instant("expirytime") if headers.get("expirytime") else None,
        id=text("ce_id"),
        trace={name: text(name) for name in ("traceparent", "tracestate") if name in headers},
    )


def instant_text(instant: datetime) -> bytes:
    """Return how a header tells a time: RFC 3339 in UTC, to the microsecond."""
    return instant.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z").encode()


def read_instant(text: str) -> datetime:
    """Return the time that a header tells.

    Raises:
        ValueError: it is no RFC 3339, or has no time zone.
    """
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return instant.astimezone(UTC)
