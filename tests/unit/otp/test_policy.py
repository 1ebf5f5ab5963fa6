"""What a purpose promises: its deadline, its pauses, and when its hotline answers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from services.otp.rules.hotline import Hotline, OpeningHours
from services.otp.rules.policy import LOCK_AT_LIMIT, LOCK_FIRST, LOCK_LONGEST, ROW_LIMIT, SUBJECT_ROW, Policy
from services.otp.rules.standards import beyond
from tests.fakes.otp import POLICY, PURPOSE

ZONE = ZoneInfo("Asia/Ho_Chi_Minh")
MICROSECOND = timedelta.resolution
MONDAY_TO_FRIDAY, SATURDAY = frozenset(range(5)), frozenset({5})
HOTLINE = Hotline(
    phone="1900 0000",
    zone=ZONE,
    open=(
        OpeningHours(MONDAY_TO_FRIDAY, timedelta(hours=7.5), timedelta(hours=11.5)),
        OpeningHours(MONDAY_TO_FRIDAY, timedelta(hours=13.5), timedelta(hours=17)),
        OpeningHours(SATURDAY, timedelta(0), timedelta(hours=24)),
    ),
    text={"vi": "giờ hành chính", "en": "office hours"},
)


def _local(day: int, hour: int, minute: int = 0) -> datetime:
    """An instant of November 2026, whose 23rd is a Monday, by the clock of Vietnam."""
    return datetime(2026, 11, day, hour, minute, tzinfo=ZONE)


def test_the_queue_may_use_the_patience_but_for_the_reserve() -> None:
    assert PURPOSE.deadline == timedelta(seconds=13 * 60 - 70)


@pytest.mark.parametrize(("letters", "pause_s"), [(1, 50), (2, 95), (3, 205), (4, 205), (400, 205)])
def test_each_letter_has_its_pause_and_the_last_one_repeats(letters: int, pause_s: float) -> None:
    assert PURPOSE.cooldown_after(letters) == timedelta(seconds=pause_s)


@pytest.mark.parametrize("letters", [0, -1])
def test_without_a_letter_there_is_no_pause(letters: int) -> None:
    with pytest.raises(ValueError, match="follows a letter"):
        PURPOSE.cooldown_after(letters)


def test_a_purpose_is_found_by_its_name_alone() -> None:
    assert POLICY.find(PURPOSE.name) is PURPOSE
    assert POLICY.find("unheard-of") is None
    assert Policy({}).find(PURPOSE.name) is None


OPEN = {
    "monday morning, from the first instant": _local(23, 7, 30),
    "monday morning, to the last": _local(23, 11, 30) - MICROSECOND,
    "friday afternoon": _local(27, 13, 30),
    "friday, just before the end": _local(27, 17) - MICROSECOND,
    "saturday from midnight": _local(28, 0),
    "saturday to midnight": _local(29, 0) - MICROSECOND,
    "an instant that another zone calls friday": datetime(2026, 11, 27, 17, 0, tzinfo=UTC),
}
CLOSED = {
    "monday, just before it opens": _local(23, 7, 30) - MICROSECOND,
    "at noon": _local(23, 11, 30),
    "just before the afternoon": _local(27, 13, 30) - MICROSECOND,
    "friday evening": _local(27, 17),
    "sunday from midnight": _local(29, 0),
    "sunday at ten": _local(29, 10),
    "an instant that another zone calls saturday": datetime(2026, 11, 28, 17, 0, tzinfo=UTC),
    "seven thirty of another zone": datetime(2026, 11, 23, 7, 30, tzinfo=UTC) - timedelta(hours=2),
}


@pytest.mark.parametrize("now", OPEN.values(), ids=OPEN.keys())
def test_somebody_answers_in_the_hours(now: datetime) -> None:
    assert HOTLINE.is_open(now)
    assert HOTLINE.is_open(now.astimezone(UTC))


@pytest.mark.parametrize("now", CLOSED.values(), ids=CLOSED.keys())
def test_nobody_answers_outside_the_hours(now: datetime) -> None:
    assert not HOTLINE.is_open(now)
    assert not HOTLINE.is_open(now.astimezone(UTC))


def test_a_hotline_without_hours_never_answers() -> None:
    assert not Hotline("1", ZONE, (), {}).is_open(_local(23, 8))


def test_locks_begin_short_and_end_at_the_failures_that_nist_allows() -> None:
    assert timedelta(seconds=30) == LOCK_FIRST < LOCK_LONGEST < LOCK_AT_LIMIT
    assert SUBJECT_ROW < ROW_LIMIT == 100


MINUTE = timedelta(minutes=1)
CAPS = {
    "digits": (6, 5, "fewer than 6"),
    "life": (10 * MINUTE, 10 * MINUTE + MICROSECOND, "10 min"),
    "max_life": (10 * MINUTE, 10 * MINUTE + MICROSECOND, "10 min"),
    "challenge_life": (60 * MINUTE, 60 * MINUTE + MICROSECOND, "1 h"),
    "attempts_per_handle": (10, 11, "more than 10"),
    "attempts": (20, 21, "more than 20"),
}


@pytest.mark.parametrize(("field", "allowed", "refused", "cap"), [(field, *row) for field, row in CAPS.items()])
def test_what_lies_on_a_cap_is_allowed_and_what_is_beyond_names_cap_and_source(
    field: str, allowed: object, refused: object, cap: str
) -> None:
    within, passed = beyond(field, allowed), beyond(field, refused)

    assert within is None
    assert passed is not None
    assert cap in passed
    assert any(source in passed for source in ("NIST SP 800-63B", "OWASP ASVS", "RFC 4226"))
