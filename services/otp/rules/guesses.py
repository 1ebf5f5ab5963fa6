"""Guesses over all challenges: when so many fail that somebody must be guessing.

One who tries five codes at each of many challenges stays below every limit of a challenge and of a subject; only the
share of failures over everything shows it. Above the policy's ratio attempts are halved, so that guessing costs twice
as many letters, until the share is clearly lower again: one that swings around its threshold must not swing promises.
"""

from __future__ import annotations

from dataclasses import dataclass

LEAST = 100
"""Entries; of fewer, a handful of people who mistype would be a share."""
CALM = 0.8
"""Of the threshold: below this it is over."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Entries that were compared, by all processes, in the last minutes."""

    failed: int
    right: int
    """Also those that came too late, or for the second time."""

    @property
    def entries(self) -> int:
        """All."""
        return self.failed + self.right

    @property
    def ratio(self) -> float:
        """The share that failed; 0 of nothing."""
        return self.failed / self.entries if self.entries else 0.0


def is_guessing(was: bool, tally: Tally, threshold: float) -> bool:  # noqa: FBT001 - what was, in the words of the question
    """Return whether somebody is guessing, given whether somebody was."""
    if tally.entries < LEAST:
        return False
    return tally.ratio > (threshold * CALM if was else threshold)
