"""How a record lies in a string of Redis: its version, its notes, and the dataclass as MessagePack.

| octets | what |
|---|---|
| 0–7 | version, big-endian; what a commit compares |
| 8–15 | watched until, Unix ms; 0 = nobody watches |
| 16–29 | number of a generation, partition and offset of its letter; number 0 = not published yet |
| 30– | MessagePack of the dataclass, without the fields that have their defaults |

One string per record is half of what a hash takes, and notes change in place. A field that is not there gets its
default, and one that nobody knows is skipped, so replicas of two releases read each other's records.
"""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from struct import Struct
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from services.otp.ports import Notes, Position
from services.otp.rules.challenge import Challenge
from services.otp.rules.subject import Subject

T = TypeVar("T")

VERSION = Struct(">Q")
WATCHED = Struct(">Q")
POSITION = Struct(">HIq")
WATCHED_AT = VERSION.size
POSITION_AT = WATCHED_AT + WATCHED.size
DATA_AT = POSITION_AT + POSITION.size


def packed_version(version: int) -> bytes:
    """Return a version as it is stored and compared: empty for no record, for less than 0 what no record has."""
    return VERSION.pack(version) if version > 0 else b"" if version == 0 else b"-"


def packed_watch(until: datetime) -> bytes:
    """Return the note of a watcher."""
    return WATCHED.pack(int(until.timestamp() * 1000))


def packed_position(number: int, position: Position) -> bytes:
    """Return the note of where a letter stands."""
    return POSITION.pack(number, position.partition, position.offset)


def packed_data(record: Challenge | Subject) -> bytes:
    """Return a dataclass as MessagePack, without the fields that have their defaults."""
    return msgspec.msgpack.encode(msgspec.convert(record, ROWS[type(record)], from_attributes=True))


def unpacked(stored: bytes, kind: type[T]) -> T:
    """Return the dataclass of a record."""
    return msgspec.msgpack.decode(memoryview(stored)[DATA_AT:], type=kind)


def notes_of(stored: bytes, newest: int) -> Notes:
    """Return the notes of a challenge with that newest generation; where an earlier letter stands tells nothing."""
    (watched,) = WATCHED.unpack_from(stored, WATCHED_AT)
    number, partition, offset = POSITION.unpack_from(stored, POSITION_AT)
    return Notes(
        watched_until=datetime.fromtimestamp(watched / 1000, UTC) if watched else None,
        position=Position(partition, offset) if number == newest else None,
    )


def _row_of(kind: type) -> type[msgspec.Struct]:
    """Return a struct with the fields of a dataclass that leaves defaults out."""
    hints = get_type_hints(kind)
    fields = [
        (field.name, _row_hint(hints[field.name]))
        if field.default is dataclasses.MISSING
        else (field.name, _row_hint(hints[field.name]), field.default)
        for field in dataclasses.fields(kind)
    ]
    return msgspec.defstruct(f"{kind.__name__}Row", fields, omit_defaults=True, frozen=True)


def _row_hint(hint: Any) -> Any:
    """Return a type with every dataclass in it replaced by its row."""
    if dataclasses.is_dataclass(hint):
        return _row_of(hint)  # type: ignore[arg-type] # a class, not an instance
    inside = tuple(map(_row_hint, get_args(hint)))
    if get_origin(hint) in {Union, UnionType}:
        return Union[inside]  # noqa: UP007 - of a computed tuple
    return get_origin(hint)[inside] if inside else hint


ROWS = {kind: _row_of(kind) for kind in (Challenge, Subject)}
