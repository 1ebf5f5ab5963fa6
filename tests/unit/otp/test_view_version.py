"""The version of what is shown grows with every change that can be seen, whether a commit or only time made it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from services.otp.rules.challenge import Challenge, Fresh, Stall, with_another, with_delivery, without_handle
from services.otp.rules.generation import Cause, Delivery, Fate
from services.otp.rules.hotline import Hotline, OpeningHours
from services.otp.rules.policy import Purpose
from services.otp.rules.renewal import asked_again
from services.otp.rules.view import VERSIONS, ChallengeView, seen_by
from tests.fakes.clock import NOON
from tests.fakes.otp import PURPOSE
from tests.unit.otp.made_up import D_S, MS, SEALED, after, challenge, generation

END_S = PURPOSE.challenge_life.total_seconds()
OPENS_S, CLOSES_S, REOPENS_S = 300, 900, 1500
HOURS = tuple(
    OpeningHours(frozenset({2}), timedelta(hours=12, seconds=opens), timedelta(hours=12, seconds=closes))
    for opens, closes in ((OPENS_S, CLOSES_S), (REOPENS_S, 3000))
)
OPENING = replace(PURPOSE, hotline=Hotline("1900 0000", UTC, HOURS, {}))
PURPOSES = [OPENING, replace(OPENING, hotline=None), replace(OPENING, enumeration_safe=True)]

seconds = st.integers(0, int(END_S) + 3000) | st.sampled_from([OPENS_S, CLOSES_S, REOPENS_S, int(D_S), int(END_S)])
maybe = st.none() | st.integers(0, 1600)


@st.composite
def letters(draw: st.DrawFn, number: int) -> dict[str, object]:
    """What may be known of a letter: anything in any combination."""
    names = ("handed_over_at", "delivered_at", "deferred_at", "bounced_at", "refused_at", "dropped_at")
    seen = {name: at for name in names if (at := draw(maybe)) is not None}
    made_s = draw(st.integers(0, 600)) if number > 1 else 0
    return {"made_at": made_s, "wanted_until": made_s + D_S, "exposed": draw(st.booleans()), **seen}


@st.composite
def challenges(draw: st.DrawFn) -> Challenge:
    """Any challenge of noon, with one to three letters."""
    made = [generation(number, **draw(letters(number))) for number in range(1, draw(st.integers(1, 3)) + 1)]
    return challenge(
        *made,
        version=draw(st.integers(1, 9)),
        attempts=draw(st.sampled_from([0, PURPOSE.attempts])),
        stalled=draw(st.sampled_from([None, Stall.BUDGET])),
        verified_at=draw(st.sampled_from([None, None, NOON])),
    )


def _but_version(seen: ChallengeView) -> ChallengeView:
    return replace(seen, version=0)


@given(known=challenges(), purpose=st.sampled_from(PURPOSES), instants=st.tuples(seconds, seconds), late=st.booleans())
@example(known=challenge(generation(bounced_at=6)), purpose=OPENING, instants=(OPENS_S - 1, OPENS_S), late=False)
@example(known=challenge(generation(bounced_at=6)), purpose=OPENING, instants=(CLOSES_S - 1, CLOSES_S), late=False)
@example(known=challenge(generation(bounced_at=6)), purpose=OPENING, instants=(OPENS_S - 1, CLOSES_S), late=False)
def test_what_only_time_changes_makes_the_version_grow(
    known: Challenge,
    purpose: Purpose,
    instants: tuple[int, int],
    late: bool,  # noqa: FBT001 - drawn
) -> None:
    earlier, later = sorted(after(second) for second in instants)

    before, now = (seen_by(known, 0, purpose, at) for at in (earlier, later + MS if late else later))

    assert now.version >= before.version
    if _but_version(now) != _but_version(before):
        assert now.version > before.version


def _instants(known: Challenge) -> list[datetime]:
    """Return when something may change by time alone, from what the design says and not from the code."""
    instants = [known.ends_at, after(OPENS_S), after(CLOSES_S), after(REOPENS_S)]
    for each in known.generations:
        instants += [each.wanted_until, each.wanted_until + timedelta(seconds=45), each.good_until(known.ends_at)]
        instants += [at + PURPOSE.spam_after for at in (each.handed_over_at,) if at]
    return sorted(at for at in instants if at >= NOON)


@given(known=challenges(), purpose=st.sampled_from(PURPOSES))
def test_around_each_instant_that_matters_no_change_goes_unnoticed(known: Challenge, purpose: Purpose) -> None:
    moments = [at + step for at in _instants(known) for step in (-MS, 0 * MS, timedelta.resolution, MS)]

    shown = [seen_by(known, 0, purpose, at) for at in sorted(moments)]

    for before, now in pairwise(shown):
        assert now.version >= before.version
        assert (_but_version(now) == _but_version(before)) or now.version > before.version


def _changes(known: Challenge, now: datetime) -> list[Challenge | None]:
    return [
        with_delivery(known, known.newest.number, Delivery(Fate.HANDED_OVER, now), now),
        with_delivery(known, 1, Delivery(Fate.BOUNCED, now), now),
        asked_again(known, PURPOSE, now),
        without_handle(known, 0),
        with_another(known, PURPOSE, lambda *_: Fresh("NEW01", "c1", SEALED), cause=Cause.RESENT, now=now),
        replace(known, version=known.version + 1, verified_at=now),
    ]


@given(known=challenges(), second=seconds, purpose=st.sampled_from(PURPOSES), ago=st.integers(0, 900))
def test_every_commit_makes_the_version_grow_whatever_time_had_added_to_it(
    known: Challenge, second: int, purpose: Purpose, ago: int
) -> None:
    now = after(second)
    before = seen_by(known, 0, purpose, now).version

    versions = [
        seen_by(each, 0, purpose, now - timedelta(seconds=ago)).version for each in _changes(known, now) if each
    ]

    assert all(version > before for version in versions)


def test_when_the_pause_is_over_whoever_watches_is_told() -> None:
    known = challenge(generation(handed_over_at=6, delivered_at=7))
    over = after(6) + PURPOSE.cooldowns[0]

    versions = [seen_by(known, 0, PURPOSE, at).version for at in (over - MS, over, over + MS)]

    assert versions == [VERSIONS + 1, VERSIONS + 1, VERSIONS + 2]


def test_however_much_time_adds_it_never_reaches_the_next_commit() -> None:
    known = challenge(*(generation(number, handed_over_at=6) for number in range(1, 120)), version=7)

    long_after = seen_by(known, 0, PURPOSE, after(END_S + 3600)).version

    assert 7 * VERSIONS < long_after < 8 * VERSIONS


ZONE = timezone(timedelta(hours=7))


def _local(hour: float, day: int = 25) -> datetime:
    return datetime(2026, 11, day, tzinfo=ZONE) + timedelta(hours=hour)


def test_a_hotline_turns_when_it_opens_and_when_it_closes_on_its_days_alone() -> None:
    weekdays = OpeningHours(frozenset({0, 1, 2, 3, 4}), timedelta(hours=8), timedelta(hours=17))
    hotline = Hotline("1", ZONE, (weekdays,), {})

    assert hotline.turns(_local(7), _local(7.9)) == 0
    assert hotline.turns(_local(7), _local(8)) == 1
    assert hotline.turns(_local(8), _local(16.9)) == 0
    assert hotline.turns(_local(7).astimezone(UTC), _local(17).astimezone(UTC)) == 2
    assert hotline.turns(_local(12), _local(12, day=26)) == 2
    assert hotline.turns(_local(18, day=27), _local(7, day=30)) == 0  # a Friday evening to a Monday morning
