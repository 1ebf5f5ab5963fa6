"""What a surge showed, in numbers, and which promises it broke."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from tests.surge.play import Seen
from tests.surge.profiles import CAPACITY, LONG, PATIENCE_S, SHORT, TAKES_S, UNGUARDED

FLUID_SLACK = 1.1
MOST_TURNS = 4
"""Admission begins and is over; a little more where the last of the crowd come back."""
LEAST_TOLD_S = 5.0
LEAST_LET_IN_THEN = 0.4
"""Of who comes back: a tenth where what is told is what the queue needs at least; three of four in a model at full
length. Here the queue is measured no faster than there, and a turn is a twelfth, so the share swings within it."""
SLOW, WILL_DIE, DYING = "OtpCodesSlow", "OtpCodesWillDie", "OtpCodesDying"
OFFERED, REFUSED = "offered load above 1", "refused"


@dataclass(frozen=True, slots=True)
class Figures:
    """A surge in numbers."""

    came: int
    let_in: int
    got_through: int
    """Those whose first code was right when it came, within their patience since they were let in."""
    at_once: int
    """Of them, those who had it within their patience since they came."""
    mails: int
    joins: int
    refusals: int
    refused_people: int
    came_back: int
    """Refused people who came when they were told to."""
    let_in_then: int
    """Of them, at once."""
    told_s: tuple[float, float]
    """The shortest and the longest time that a refusal told."""
    dropped: int
    p95_s: float
    """From the first press to the mailbox, of whoever got a mail."""
    fluid_p95_s: float
    """What a relay that never idles makes of the same arrivals, all let in, first come, first served."""
    relay_used: float
    """Mails from the first one until nobody comes any more, of what the relay can take in that time."""
    transaction_s: float
    turns: int
    """How often admission began or was over."""
    order_s: dict[str, float | None]
    """Seconds from the first person until each was first told, and until it was over."""

    @property
    def of_everyone(self) -> float:
        """Return the share of everyone who came that got through."""
        return self.got_through / self.came

    @property
    def of_the_admitted(self) -> float:
        """Return the share of those who were let in that got through."""
        return self.got_through / self.let_in if self.let_in else 0.0


def figures_of(seen: Seen) -> Figures:
    """Count."""
    people = sorted(seen.people, key=lambda person: person.came_at)
    refused = [person for person in people if person.refusals]
    came_back = [person for person in refused if len(person.refusals) > 1 or person.let_in_at is not None]
    told = sorted(wait for person in people for wait in person.refusals)
    mails = sorted(at for person in people for at in person.mails)
    end = seen.begun_at + seen.profile.seconds
    return Figures(
        came=len(people),
        let_in=sum(person.let_in_at is not None for person in people),
        got_through=sum(person.is_through for person in people),
        at_once=sum(
            person.is_through and person.mail_at is not None and person.mail_at <= person.came_at + PATIENCE_S
            for person in people
        ),
        mails=len(mails),
        joins=sum(person.joins for person in people),
        refusals=len(told),
        refused_people=len(refused),
        came_back=len(came_back),
        let_in_then=sum(len(person.refusals) == 1 for person in came_back),
        told_s=(told[0], told[-1]) if told else (0.0, 0.0),
        dropped=seen.dropped,
        p95_s=_p95([person.mail_at - person.came_at for person in people if person.mail_at is not None]),
        fluid_p95_s=_p95(list(_fluid_waits([person.came_at for person in people]))),
        relay_used=sum(at <= end for at in mails) / (end - mails[0]) / CAPACITY,
        transaction_s=seen.transaction_s,
        turns=sum(one is not other for one, other in pairwise(row.refused > 0.05 for row in seen.rows)),
        order_s={
            **{f"first {name}": _since(seen, at) for name, at in seen.order.items()},
            **{f"last {name}": _since(seen, at) for name, at in seen.ended.items()},
        },
    )


def broken(seen: Seen, told: Figures) -> list[str]:
    """Return the promises that were not kept, each in words; none when all is well."""
    promises = {SHORT.name: _of_short, LONG.name: _of_long, UNGUARDED.name: _of_unguarded}[seen.profile.name]
    return [words for words, is_kept in promises(seen, told) if not is_kept]


def _of_short(seen: Seen, told: Figures) -> Iterator[tuple[str, bool]]:
    yield "there was a surge", max(row.offered for row in seen.rows) > 2 and told.joins > 0.2 * told.came
    yield "nobody is refused", told.refusals == 0
    yield "99 % of everyone who came get through", told.of_everyone >= 0.99
    yield "one mail each", told.let_in <= told.mails <= 1.01 * told.came
    yield "no code dies", told.dropped == 0
    yield "p95 is that of a relay which never idles", told.p95_s <= FLUID_SLACK * told.fluid_p95_s
    yield "a load above 1, then 'slow'", _in_order(seen.order[OFFERED], seen.order[SLOW])
    yield "no load above 1 any more, then resolved", _is_over(seen, OFFERED, SLOW)
    yield "nobody is told that codes die", seen.order[DYING] is None


def _of_long(seen: Seen, told: Figures) -> Iterator[tuple[str, bool]]:
    yield "some are refused", told.let_in < told.came
    yield "each refusal tells an honest time: at least 5 s", told.told_s[0] >= LEAST_TOLD_S
    yield "many who come back when told to are let in", told.let_in_then >= LEAST_LET_IN_THEN * told.came_back
    yield "99 % of the admitted get through", told.of_the_admitted >= 0.99
    yield "one mail each", told.mails <= 1.01 * told.let_in
    yield "no code dies", told.dropped == 0
    yield "95 % of the relay is used", told.relay_used >= 0.95
    yield "admission does not swing", told.turns <= MOST_TURNS
    yield (
        "a load above 1, 'slow', 'will die', then admission",
        _in_order(*(seen.order[sign] for sign in (OFFERED, SLOW, WILL_DIE, REFUSED))),
    )
    yield "nobody is refused any more, then resolved", _is_over(seen, REFUSED, SLOW)


def _of_unguarded(seen: Seen, told: Figures) -> Iterator[tuple[str, bool]]:
    yield "nobody is refused", told.refusals == 0
    yield "nobody joins", told.joins == 0
    yield "codes die", told.dropped > 0.1 * told.came
    yield (
        "a load above 1, 'slow', 'will die', then it is told that codes die",
        _in_order(*(seen.order[sign] for sign in (OFFERED, SLOW, WILL_DIE, DYING))),
    )
    yield (
        "a code dies after it was foreseen",
        all(row.at_s > (_since(seen, seen.order[WILL_DIE]) or 0) for row in seen.rows if row.dead),
    )


def _is_over(seen: Seen, *signs: str) -> bool:
    return _in_order(*(seen.ended[sign] for sign in signs)) and seen.is_resolved


def _in_order(*instants: float | None) -> bool:
    known = [at for at in instants if at is not None]
    return len(known) == len(instants) and known == sorted(known)


def _since(seen: Seen, at: float | None) -> float | None:
    return None if at is None else round(at - seen.begun_at, 1)


def _fluid_waits(came_at: list[float]) -> Iterator[float]:
    """Yield what each waits when a letter leaves every 1 / `CAPACITY` s as long as any waits."""
    free_at = 0.0
    for at in came_at:
        free_at = max(free_at, at) + 1 / CAPACITY
        yield free_at - at + TAKES_S - 1 / CAPACITY


def _p95(waits: list[float]) -> float:
    return sorted(waits)[int(0.95 * len(waits))] if waits else 0.0
