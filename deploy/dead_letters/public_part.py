"""What may be shown of a dead letter: never what is sealed, never octets, and text only as the logs would show it.

A dead letter is by nature not what it should be, so nothing is trusted to stand in its right field: text that looks
like an address or a code is masked wherever it stands, and octets are counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC
from typing import Any

from google.protobuf import symbol_database
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.timestamp_pb2 import Timestamp
from kip.dossier.v1 import dossier_service_pb2
from kip.mailer.v1 import mail_events_pb2, notice_events_pb2
from kip.otp.v1 import otp_events_pb2

from services.chassis.telemetry import redact

CONTRACTS = (
    dossier_service_pb2,
    mail_events_pb2,
    notice_events_pb2,
    otp_events_pb2,
)  # to be shown, they must be loaded
SEALED = {"kid", "ciphertext"}  # the fields that make a message a seal
LONGEST = 200  # characters of one text


def shown(text: str) -> str:
    """Return a text of somebody else's as a terminal may show it: masked, printable, not too long."""
    masked = str(redact(None, "", {"text": text})["text"])
    return "".join(each if each.isprintable() else "\ufffd" for each in masked)[:LONGEST]


def shown_octets(octets: bytes | None) -> str:
    """Return a header or a key: as text, if it is one."""
    try:
        return shown((octets or b"").decode())
    except UnicodeDecodeError:
        return f"{len(octets or b'')} octets"


def event_lines(headers: Iterable[tuple[str, bytes]], value: bytes) -> Iterator[str]:
    """Yield the event of a dead letter, a field a line."""
    kind = shown_octets(dict(headers).get("ce_type")) or "(its headers do not say what it is)"
    message = _decoded(kind, value)
    if message is None:
        yield f"event: {len(value)} octets that do not decode as {kind}"
        return
    yield f"event: {kind}"
    yield from _fields(message, "  ")


def _decoded(kind: str, value: bytes) -> Message | None:
    try:
        made: Any = symbol_database.Default().GetSymbol(kind)
        message: Message = made.FromString(value)
    except (KeyError, DecodeError):
        return None
    return message


def _fields(message: Message, indent: str) -> Iterator[str]:
    for field, value in message.ListFields():
        for each in _each(field, value):
            if isinstance(each, Message) and not isinstance(each, Timestamp) and not _is_seal(each):
                yield f"{indent}{field.name}:"
                yield from _fields(each, f"{indent}  ")
            else:
                yield f"{indent}{field.name}: {_text(field, each)}"


def _each(field: FieldDescriptor, value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return [f"{len(value)} entries"]
    return list(value) if field.is_repeated else [value]


def _is_seal(message: Message) -> bool:
    return set(message.DESCRIPTOR.fields_by_name) >= SEALED


def _text(field: FieldDescriptor, value: Any) -> str:
    if isinstance(value, Timestamp):
        try:
            return value.ToDatetime(tzinfo=UTC).isoformat().replace("+00:00", "Z")
        except (ValueError, OverflowError):
            return "no time of this era"
    if isinstance(value, Message):
        return (
            f"sealed with key {shown(str(getattr(value, 'kid', '')))}, {len(getattr(value, 'ciphertext', b''))} octets"
        )
    if isinstance(value, bytes):
        return f"{len(value)} octets"
    if field.enum_type is not None and isinstance(value, int):
        named = field.enum_type.values_by_number.get(value)
        return named.name if named else str(value)
    return shown(value) if isinstance(value, str) else str(value)
