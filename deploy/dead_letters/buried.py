"""What lies in the dead-letter topics, and which of it a person means. No Kafka here."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from services.chassis.dead_letter import DeadLetter

UNITS = {"s": timedelta(seconds=1), "m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}


class Problem(Exception):
    """Something a person can put right; the text says what to do next."""


class Done(StrEnum):
    """What became of a dead letter by the hand of a person."""

    REDRIVEN = "redriven"
    """Put back to where it died."""
    DROPPED = "dropped"
    """Closed: nobody will put it back."""


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a dead letter lies: its name on the command line."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}@{self.partition}:{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Place:
        """Read what `str` writes.

        Raises:
            Problem: it is no such name.
        """
        match = re.fullmatch(r"(\S+)@(\d+):(\d+)", text)
        if match is None:
            raise Problem(
                f"{text!r} names no dead letter. `kip-dead list` shows names, such as some.topic.v1.dead@0:17"
            )
        return cls(match[1], int(match[2]), int(match[3]))


@dataclass(frozen=True, slots=True)
class Buried:
    """One dead letter."""

    place: Place
    key: bytes = field(repr=False)
    value: bytes = field(repr=False)
    headers: Sequence[tuple[str, bytes]] = field(repr=False)
    written_at: datetime
    letter: DeadLetter | None
    """What it says of itself; `None` when it does not say where it lay."""
    done: Done | None = None

    @property
    def died_at(self) -> datetime:
        """When; of older releases, when it was written."""
        return (self.letter.at if self.letter else None) or self.written_at

    @property
    def kind(self) -> str:
        """The word for why."""
        return (self.letter.kind if self.letter else "") or "not-said"

    @property
    def reason(self) -> str:
        """The sentence for why."""
        return (self.letter.reason if self.letter else "") or "it does not say why"

    @property
    def expires(self) -> datetime | None:
        """After this nobody needs it; `None` when it does not end, or does not say so readably."""
        text = dict(self.headers).get("expirytime", b"")
        try:
            instant = datetime.fromisoformat(text.decode())
        except ValueError:
            return None
        return instant.astimezone(UTC) if instant.tzinfo else None

    def has_expired(self, now: datetime) -> bool:
        """Say whether nobody needs it any more."""
        return self.expires is not None and self.expires <= now


@dataclass(frozen=True, slots=True)
class Choice:
    """Which dead letters are meant: those named; or all that wait, less what the other words rule out."""

    places: Sequence[Place] = ()
    topic: str | None = None
    kind: str | None = None
    reason: str | None = None
    since: datetime | None = None

    def of(self, buried: Sequence[Buried]) -> list[Buried]:
        """Return them in the order in which they died. What was named is meant also when it was done with before.

        Raises:
            Problem: one that was named is not there.
        """
        if not self.places:
            return [each for each in buried if each.done is None and self.fits(each)]
        known = {each.place: each for each in buried}
        if missing := [place for place in self.places if place not in known]:
            raise Problem(f"There is no dead letter {missing[0]}. `kip-dead list` shows what there is.")
        return [known[place] for place in sorted(set(self.places))]

    def fits(self, each: Buried) -> bool:
        """Say whether nothing rules it out."""
        rules: list[tuple[object, Callable[[], bool]]] = [
            (self.topic, lambda: self.topic in {each.place.topic, each.letter.topic if each.letter else None}),
            (self.kind, lambda: self.kind == each.kind),
            (self.reason, lambda: (self.reason or "").casefold() in each.reason.casefold()),
            (self.since, lambda: self.since is not None and each.died_at >= self.since),
        ]
        return all(rule() for said, rule in rules if said is not None)


def instant_of(text: str, now: datetime) -> datetime:
    """Read "30m", "2h", "3d" as that long ago, or an instant with its zone.

    Raises:
        ValueError: it is neither.
    """
    if match := re.fullmatch(r"(\d{1,5})([smhd])", text):
        return now - int(match[1]) * UNITS[match[2]]
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is None:
        raise ValueError("an instant needs its zone, such as 2026-11-27T08:00:00Z")
    return instant
