"""What `reference_model` remembers: plain records that change in place. Instants are whole milliseconds."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Literal

S = 1000
GRACE, STEP, LEASE, REPEATED = 45 * S, 30 * S, 15 * S, 60 * S
MOST_LIVE, MOST_REISSUES, MOST_HANDLES, MOST_HANDLES_EVER, MOST_WISHES = 2, 2, 4, 16, 4
KEPT, CLAIM_KEPT, ROW_KEPT = 3600 * S, 24 * 3600 * S, 30 * 24 * 3600 * S

Outcome = tuple[object, ...]
"""What somebody is answered: a word, and its facts."""
Steps = Generator[None, None, Outcome]
"""A call in its atomic steps; others may come between two of them."""
FateWord = Literal[
    "handed_over", "delivered", "deferred", "bounced", "refused", "dropped", "said_delivered", "said_bounced"
]
LATEST = ("handed_over", "deferred", "next_try")  # of several the last counts; of others, the first


@dataclass
class Numbers:
    """The purpose's numbers, in milliseconds."""

    life: int
    max_life: int
    challenge_life: int
    deadline: int
    reserve: int
    cooldowns: list[int]
    attempts_per_handle: int
    attempts: int

    def cooldown(self, letters: int) -> int:
        return self.cooldowns[min(letters, len(self.cooldowns)) - 1]


@dataclass
class Letter:
    number: int
    cause: str
    made: int
    wanted: int
    click: tuple[Handle, str] | None = None
    watch_used: bool = False
    told_expired: bool = False
    exposed: bool = False
    """Its code was over, and what was heard of it late made it good again."""
    heard: dict[str, int] = field(default_factory=dict)

    def left(self) -> bool:
        return bool(self.heard.keys() - {"deferred", "next_try"})

    def waits(self, now: int) -> bool:
        return not self.left() and now <= self.wanted + GRACE

    def left_at(self) -> int:
        ends = [self.heard[fate] for fate in ("delivered", "bounced", "refused", "dropped") if fate in self.heard]
        ends = ends or [self.heard[fate] for fate in ("said_delivered", "said_bounced") if fate in self.heard]
        return self.heard.get("handed_over", min(ends, default=self.wanted + GRACE))

    def arrived(self) -> int | None:
        return self.heard.get("delivered", self.heard.get("said_delivered"))

    def fate(self, now: int) -> str:
        for word in ("delivered", "bounced", "said_delivered", "said_bounced"):
            if word in self.heard:
                return word.removeprefix("said_")
        if "handed_over" in self.heard:
            return "deferred" if self.heard.get("deferred", -1) > self.heard["handed_over"] else "handed_over"
        if "refused" in self.heard:
            return "refused"
        if "dropped" in self.heard or now > self.wanted + GRACE:
            return "dropped"
        return "deferred" if "deferred" in self.heard else "queued"


@dataclass(eq=False)
class Handle:
    caller: str
    key: str
    joined: bool = False
    attempts: int = 0
    given_back: bool = False


@dataclass
class Entry:
    typed: str
    counted: int
    answer: Outcome | None = None


@dataclass(eq=False)
class Challenge:
    name: int
    wish: str
    made: int
    ends: int
    letters: list[Letter]
    handles: list[Handle]
    entries: dict[tuple[Handle, str], Entry] = field(default_factory=dict)
    attempts: int = 0
    verified: int | None = None
    stalled: str | None = None
    watched_until: int = -1

    @property
    def newest(self) -> Letter:
        return self.letters[-1]

    def handle(self, caller: str, key: str) -> Handle | None:
        return next((each for each in self.handles if (each.caller, each.key) == (caller, key)), None)


@dataclass
class Claim:
    body: str
    at: int
    challenge: Challenge | None = None
