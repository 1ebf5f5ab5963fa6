"""What is said of a surge: every promise can be broken, and a surge that kept all of them is told as such."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest

from tests.e2e.people import Person
from tests.surge.judge import DYING, OFFERED, REFUSED, SLOW, WILL_DIE, broken, figures_of
from tests.surge.picture import picture_of
from tests.surge.play import Row, Seen
from tests.surge.profiles import CAPACITY, FACTOR, LONG, SHORT, TAKES_S, UNGUARDED, Profile

SIGNS = (OFFERED, SLOW, WILL_DIE, REFUSED)
CALM = Row(at_s=0, came=0, offered=0, waiting=0, wait_s=0, age_s=0, refused=0, alive=0, dead=0, told=())
Change = Callable[[Seen], Seen]


def surge(profile: Profile) -> Seen:
    """Return one that kept every promise: the relay never idles, two of three are refused in the longer ones."""
    people = [Person(number / (FACTOR * CAPACITY)) for number in range(int(FACTOR * CAPACITY * profile.seconds))]
    let_in = people[::3] if profile is LONG else people
    for number, person in enumerate(let_in):
        person.let_in_at, person.is_through = person.came_at, True
        person.mails, person.joins = [TAKES_S + number / CAPACITY], int(profile.guarded)
    for person in people:
        person.refusals = [] if person.let_in_at is not None else [30.0]
    signs = {OFFERED: 3.0, SLOW: 9.0, WILL_DIE: 12.0, "OtpCodesDoomed": None}
    more = {REFUSED: 30.0 if profile is LONG else None, DYING: None if profile.guarded else 80.0}
    order: dict[str, float | None] = signs | more
    return Seen(
        profile,
        people,
        [replace(CALM, offered=FACTOR), replace(CALM, at_s=90.0, dead=0 if profile.guarded else 900)],
        begun_at=0.0,
        dropped=0 if profile.guarded else 900,
        transaction_s=TAKES_S,
        order=order,
        ended={sign: None if at is None else at + 100 for sign, at in order.items()} | {SLOW: 200.0},
        is_resolved=profile.guarded,
    )


def people(change: Callable[[int, Person], None]) -> Change:
    def changed(seen: Seen) -> Seen:
        for number, person in enumerate(seen.people):
            change(number, person)
        return seen

    return changed


def told(**order: float | None) -> Change:
    return lambda seen: replace(seen, order=seen.order | order)


def refuse_one(number: int, person: Person) -> None:
    if number == 7:
        person.refusals = [10.0]


def be_late(_: int, person: Person) -> None:
    person.mails = [at + 10 for at in person.mails]


def lose_codes(number: int, person: Person) -> None:
    person.is_through = person.is_through and number % 20 > 0


def mail_twice(number: int, person: Person) -> None:
    person.mails = person.mails * (2 if number % 6 == 0 else 1)


def never_join(_: int, person: Person) -> None:
    person.joins = 0


def join(_: int, person: Person) -> None:
    person.joins = 1


def come_back_in_vain(_: int, person: Person) -> None:
    person.refusals = person.refusals * 2


def be_told_nothing(_: int, person: Person) -> None:
    person.refusals = [1.0 for _ in person.refusals]


def let_in_all(_: int, person: Person) -> None:
    person.let_in_at, person.is_through, person.mails = person.came_at, True, person.mails or [1.0]


def use_half(number: int, person: Person) -> None:
    if number % 2:
        person.let_in_at, person.mails = None, []


def swing(seen: Seen) -> Seen:
    return replace(seen, rows=[replace(CALM, at_s=at, refused=at % 2) for at in range(10)])


def drop(seen: Seen) -> Seen:
    return replace(seen, dropped=1 if seen.profile.guarded else 0)


def die_early(seen: Seen) -> Seen:
    return replace(seen, rows=[replace(CALM, at_s=5.0, dead=1)])


def end_never(seen: Seen) -> Seen:
    return replace(seen, is_resolved=False)


BROKEN: list[tuple[Profile, Change, str]] = [
    (SHORT, people(never_join), "there was a surge"),
    (SHORT, people(refuse_one), "nobody is refused"),
    (SHORT, people(lose_codes), "99 % of everyone who came get through"),
    (SHORT, people(mail_twice), "one mail each"),
    (SHORT, drop, "no code dies"),
    (SHORT, people(be_late), "p95 is that of a relay which never idles"),
    (SHORT, told(**{SLOW: 2.0}), "a load above 1, then 'slow'"),
    (SHORT, end_never, "no load above 1 any more, then resolved"),
    (SHORT, told(**{DYING: 60.0}), "nobody is told that codes die"),
    (LONG, people(let_in_all), "some are refused"),
    (LONG, people(be_told_nothing), "each refusal tells an honest time: at least 5 s"),
    (LONG, people(come_back_in_vain), "many who come back when told to are let in"),
    (LONG, people(lose_codes), "99 % of the admitted get through"),
    (LONG, people(mail_twice), "one mail each"),
    (LONG, drop, "no code dies"),
    (LONG, people(use_half), "95 % of the relay is used"),
    (LONG, swing, "admission does not swing"),
    (LONG, told(**{REFUSED: 10.0}), "a load above 1, 'slow', 'will die', then admission"),
    (LONG, end_never, "nobody is refused any more, then resolved"),
    (UNGUARDED, people(refuse_one), "nobody is refused"),
    (UNGUARDED, people(join), "nobody joins"),
    (UNGUARDED, drop, "codes die"),
    (UNGUARDED, told(**{DYING: None}), "a load above 1, 'slow', 'will die', then it is told that codes die"),
    (UNGUARDED, die_early, "a code dies after it was foreseen"),
]


@pytest.mark.parametrize("profile", [SHORT, LONG, UNGUARDED], ids=lambda profile: profile.name)
def test_a_surge_that_kept_every_promise_broke_none(profile: Profile) -> None:
    seen = surge(profile)

    assert broken(seen, figures_of(seen)) == []


@pytest.mark.parametrize(("profile", "change", "words"), BROKEN, ids=lambda each: getattr(each, "name", None))
def test_every_promise_can_be_broken(profile: Profile, change: Change, words: str) -> None:
    seen = change(surge(profile))

    assert words in broken(seen, figures_of(seen))


def test_the_picture_is_a_drawing_that_tells_both_shares() -> None:
    surges = [(seen, figures_of(seen)) for seen in (surge(SHORT), surge(LONG), surge(UNGUARDED))]

    drawing = ET.fromstring(picture_of(surges))  # noqa: S314 - our own

    assert drawing.tag == "{http://www.w3.org/2000/svg}svg"
    assert "33% of everyone who came and 100% of the admitted got through" in "".join(drawing.itertext())
