"""A hotline: who can be phoned when mail does not work, and when somebody answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, tzinfo


@dataclass(frozen=True, slots=True)
class OpeningHours:
    """One stretch of some days of the week, `opens` included, `closes` not; never over midnight."""

    days: frozenset[int]
    """0 is Monday, as `datetime.weekday()` has it."""
    opens: timedelta
    """Since midnight of the hotline's clock."""
    closes: timedelta
    """Since midnight, later than `opens`, 24 h at most."""

    def hold(self, local: datetime) -> bool:
        """Say whether an instant, shown by the hotline's clock, is in the stretch."""
        since_midnight = local.replace(tzinfo=None) - datetime.combine(local, time.min)
        return local.weekday() in self.days and self.opens <= since_midnight < self.closes


@dataclass(frozen=True, slots=True)
class Hotline:
    """A phone and its hours. Public holidays are not known here: the words should say so."""

    phone: str
    """As people dial it."""
    zone: tzinfo
    """Whose clock the hours are of."""
    open: tuple[OpeningHours, ...]
    text: Mapping[str, str]
    """The hours in words, by language."""

    def is_open(self, now: datetime) -> bool:
        """Say whether somebody answers at `now`, an instant with a zone."""
        local = now.astimezone(self.zone)
        return any(hours.hold(local) for hours in self.open)

    def turns(self, since: datetime, until: datetime) -> int:
        """Count how often a stretch began or ended after `since`, up to and including `until`."""
        first, last = (at.astimezone(self.zone).date().toordinal() for at in (since, until))
        midnights = [datetime.combine(date.fromordinal(day), time.min, self.zone) for day in range(first, last + 1)]
        borders = [
            midnight + border
            for midnight in midnights
            for hours in self.open
            if midnight.weekday() in hours.days
            for border in (hours.opens, hours.closes)
        ]
        return sum(since < border <= until for border in borders)
