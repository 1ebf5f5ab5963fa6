"""What a dead letter says of itself: its headers, as `ordered_inbox` writes them and `kip-dead` reads them.

The record stays as it came, key, value and headers; beside them stands where it lay, for whom, when it died and why. A
dead letter that is put back and dies again says so once more, in the place of the first time; only how often is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

LONGEST_REASON = 500  # characters: a sentence, never a dump of the record

TOPIC, PARTITION, OFFSET = "dead-topic", "dead-partition", "dead-offset"
GROUP, AT, KIND, REASON, TIMES = "dead-group", "dead-at", "dead-kind", "dead-reason", "dead-times"
HEADERS = frozenset({TOPIC, PARTITION, OFFSET, GROUP, AT, KIND, REASON, TIMES})


class DeadKind(StrEnum):
    """Why a record can never be handled, in one word of a closed set."""

    UNDECODABLE = "undecodable"
    """It is no such message, or lacks what each of them has."""
    UNKNOWN_TEMPLATE = "unknown-template"
    """It names a template that this release does not have."""
    MISSING_PARAMETER = "missing-parameter"
    """Its template names a parameter that it does not bring."""
    SEAL_BROKEN = "seal-broken"
    """Its sealed part does not open: sealed for something else, or changed on the way."""
    IMPOSSIBLE = "impossible"
    """It was read whole, and what it asks for cannot be done."""
    HANDLER_FAILED = "handler-failed"
    """The handler failed again and again, without a reason that we know."""

    @property
    def is_deploy_fault(self) -> bool:
        """Say whether it tells of a release that does not fit its neighbours, rather than of the record."""
        return self in {DeadKind.UNDECODABLE, DeadKind.UNKNOWN_TEMPLATE, DeadKind.MISSING_PARAMETER}


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Where a record lay, and why it is dead."""

    topic: str
    """Where it was read, and where it goes back to."""
    partition: int
    offset: int
    group: str
    """Whose handler gave it up; empty when it does not say (older releases did not)."""
    at: datetime | None
    kind: str
    """A `DeadKind`; another word when a newer release wrote it, empty when it does not say."""
    reason: str
    """For people; no personal data."""
    times: int = 1
    """How often it died."""

    def headers(self, original: Mapping[str, bytes]) -> list[tuple[str, bytes]]:
        """Return the headers of the dead letter: those the record came with, then ours.

        What an earlier death left in `original` is replaced, and counted.
        """
        times = self.times + _count(original.get(TIMES))
        ours = {
            TOPIC: self.topic,
            PARTITION: str(self.partition),
            OFFSET: str(self.offset),
            GROUP: self.group,
            AT: _rfc3339(self.at) if self.at else "",
            KIND: self.kind,
            REASON: self.reason[:LONGEST_REASON],
            TIMES: str(times),
        }
        return [*without_death(original.items()), *((name, text.encode()) for name, text in ours.items())]


def dead_topic(topic: str, buried_in: str | None = None) -> str:
    """Return where the dead letters of `topic` lie: `buried_in` when that was chosen, else beside it."""
    return buried_in or f"{topic}.dead"


def read_dead_letter(headers: Iterable[tuple[str, bytes | None]]) -> DeadLetter:
    """Return what a dead letter says of itself.

    Raises:
        ValueError: it does not say where it lay, so nobody can put it back; names the header.
    """
    texts = {name: (value or b"").decode(errors="replace") for name, value in headers if name in HEADERS}
    for name in (TOPIC, PARTITION, OFFSET):
        if not texts.get(name) or (name != TOPIC and not texts[name].isdecimal()):
            raise ValueError(f"header {name} is missing or malformed")
    return DeadLetter(
        topic=texts[TOPIC],
        partition=int(texts[PARTITION]),
        offset=int(texts[OFFSET]),
        group=texts.get(GROUP, ""),
        at=_instant(texts.get(AT, "")),
        kind=texts.get(KIND, ""),
        reason=texts.get(REASON, ""),
        times=max(1, _count(texts.get(TIMES, "").encode())),
    )


def without_death(headers: Iterable[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """Return the headers that a record had before it died."""
    return [(name, value) for name, value in headers if name not in HEADERS]


def headers_to_go_back(headers: Iterable[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """Return the headers of a dead letter that is put back: as before it died, but it remembers how often it did."""
    headers = list(headers)
    return [*without_death(headers), *((name, value) for name, value in headers if name == TIMES)]


def _count(text: bytes | None) -> int:
    return int(text) if text and text.isdigit() else 0


def _rfc3339(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _instant(text: str) -> datetime | None:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        return None
    return instant.astimezone(UTC) if instant.tzinfo else None
