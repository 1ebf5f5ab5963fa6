"""What became of each code: in time, late, never, or nothing ever told. Judged once, and kept in the record.

`in_time`: a trusted receipt or a right entry proves that the code arrived with at least `reserve` of its life left;
`late`: proved after that. `never`: refused or bounced, dropped while it was wanted, or nothing known of it at the end
of its challenge, so a dead mailer counts. `unproved`: handed over, and nothing ever told more; or withdrawn, because
its challenge was over before the letter left. A decoy ends as `unproved` too.

The first proof decides, and a bad end decides as soon as nothing of the letter can be out. What is still open then is
judged at the end of the challenge, and a little later, because an event may be on its way (`concluded`). A judgement is
part of the versioned commit that it follows from, so whoever reads the record later finds it and judges no more.

Beside it stands the promptness objective: whether a letter was handed over within `prompt`, told by its first
hand-over.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from datetime import datetime

from services.otp.rules.announcement import DONE
from services.otp.rules.challenge import Challenge
from services.otp.rules.generation import CodeFate, Generation
from services.otp.rules.policy import Purpose


@dataclass(frozen=True, slots=True)
class HandOver:
    """The relay took a letter for the first time."""

    is_prompt: bool


Milestone = CodeFate | HandOver
"""What is counted once, by whoever commits it."""


def milestones(before: Challenge | None, after: Challenge, purpose: Purpose) -> list[Milestone]:
    """Return what `after` reached since `before`; `None` when there was no challenge yet."""
    known = before.generations if before else ()
    reached: list[Milestone] = []
    for place, generation in enumerate(after.generations):
        earlier = known[place] if place < len(known) else None
        if generation.handed_over_at and not (earlier and earlier.handed_over_at):
            reached.append(HandOver(generation.handed_over_at - generation.made_at <= purpose.prompt))
        if generation.code_fate and not (earlier and earlier.code_fate):
            reached.append(generation.code_fate)
    return reached


def with_entry_judged(challenge: Challenge, right: Collection[int], purpose: Purpose, now: datetime) -> Challenge:
    """Return the challenge, at the same version, after the right codes of these generations were typed."""

    def fate(generation: Generation) -> CodeFate | None:
        if generation.number not in right:
            return None
        in_time = now + purpose.reserve <= generation.good_until(challenge.ends_at)
        return CodeFate.IN_TIME if in_time else CodeFate.LATE

    return _judged(challenge, fate)


def with_news_judged(challenge: Challenge, purpose: Purpose) -> Challenge:
    """Return the challenge, at the same version, after a delivery event was merged."""

    def fate(generation: Generation) -> CodeFate | None:
        if generation.delivered_at:
            is_late = generation.came_too_late(challenge.ends_at, purpose.reserve)
            return CodeFate.LATE if is_late else CodeFate.IN_TIME
        if generation.bounced_at:
            return CodeFate.NEVER
        is_over = generation.refused_at or generation.dropped_at
        if generation.handed_over_at or generation.exposed or not is_over:
            return None  # something of it is out, or may still come out
        return CodeFate.UNPROVED if _was_withdrawn(challenge, generation, purpose) else CodeFate.NEVER

    return _judged(challenge, fate)


def concluded(challenge: Challenge, purpose: Purpose) -> Challenge | None:
    """Return a challenge that is over, one version on, with every code judged; `None` when none was open."""

    def fate(generation: Generation) -> CodeFate:
        is_unproved = generation.handed_over_at or _was_withdrawn(challenge, generation, purpose)
        return CodeFate.UNPROVED if is_unproved else CodeFate.NEVER

    after = _judged(challenge, fate)
    return None if after is challenge else replace(after, version=challenge.version + 1)


def _was_withdrawn(challenge: Challenge, generation: Generation, purpose: Purpose) -> bool:
    """Say whether it was dropped before its deadline because the challenge was over: nobody wanted it any more."""
    at = generation.dropped_at
    return at is not None and at < generation.wanted_until and challenge.state(purpose, at) in DONE


def _judged(challenge: Challenge, fate: Callable[[Generation], CodeFate | None]) -> Challenge:
    judged = tuple(
        generation if generation.code_fate else replace(generation, code_fate=fate(generation))
        for generation in challenge.generations
    )
    return challenge if judged == challenge.generations else replace(challenge, generations=judged)
