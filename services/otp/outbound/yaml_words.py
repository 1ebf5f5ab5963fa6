"""How people write durations, opening hours and time zones in the policy file, and what is made of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta, tzinfo
from typing import Annotated
from zoneinfo import ZoneInfo

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from services.otp.rules.hotline import OpeningHours

DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*(ms|s|min|h)")
UNITS = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "min": timedelta(minutes=1),
    "h": timedelta(hours=1),
}
DAYS = ("Mo", "Tu", "We", "Th", "Fr", "Sa", "Su")
# Days, then one stretch: `Mo-Fr,Su 07:30-11:30`. A part of the opening_hours format of OpenStreetMap.
HOURS = re.compile(r"([A-Z][a-z](?:[-,][A-Z][a-z])*) ([0-9]{2}):([0-5][0-9])-([0-9]{2}):([0-5][0-9])")
MIDNIGHT = timedelta(hours=24)


class Entry(BaseModel):
    """A mapping of the file; what it does not know is a problem."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


def _duration(value: object) -> timedelta:
    match = DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError("must be a number with s, min or h, such as `5 min`")
    return float(match.group(1)) * UNITS[match.group(2)]


def _hours(value: object) -> OpeningHours:
    match = HOURS.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("must be days and hours, such as `Mo-Fr 07:30-11:30`")
    opens_h, opens_min, closes_h, closes_min = map(int, match.groups()[1:])
    opens, closes = timedelta(hours=opens_h, minutes=opens_min), timedelta(hours=closes_h, minutes=closes_min)
    if closes > MIDNIGHT:
        raise ValueError("a day ends at 24:00")
    if opens >= closes:
        raise ValueError("must open before it closes; hours over midnight are two entries")
    return OpeningHours(frozenset(_days(match.group(1))), opens, closes)


def _days(text: str) -> Iterator[int]:
    for part in text.split(","):
        names = part.split("-")
        unknown = [name for name in names if name not in DAYS]
        if unknown:
            raise ValueError(f"no such day: {', '.join(unknown)}; days are {' '.join(DAYS)}")
        first, last = DAYS.index(names[0]), DAYS.index(names[-1])
        if len(names) > 2 or first > last:
            raise ValueError(f"`{part}` must run from an earlier to a later day of the week")
        yield from range(first, last + 1)


def _zone(value: object) -> tzinfo:
    try:
        return ZoneInfo(str(value))
    except (KeyError, ValueError, OSError) as error:
        raise ValueError("is no time zone of this machine; such as Asia/Ho_Chi_Minh") from error


Duration = Annotated[timedelta, BeforeValidator(_duration), Field(gt=timedelta(0), le=timedelta(hours=24))]
DurationOfDays = Annotated[timedelta, BeforeValidator(_duration), Field(gt=timedelta(0), le=timedelta(hours=48))]
Text = Annotated[str, Field(min_length=1, max_length=500)]
Hours = BeforeValidator(_hours)
Zone = BeforeValidator(_zone)
