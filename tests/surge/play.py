"""Let a surge happen, and look at it every few seconds until everything has left, or everybody has gone."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.conditions import eventually
from tests.e2e.alarms import Alarmed
from tests.e2e.people import PRESSES, People, Person
from tests.surge.profiles import CAPACITY, FACTOR, PATIENCE_S, PRESS_AFTER_S, Profile, surge_stack

LOOK_S = 3.0
EMPTY_WITHIN_S = 300.0
ALERTS = ("OtpCodesSlow", "OtpCodesWillDie", "OtpCodesDoomed", "OtpCodesDying")
"""Of an overload, from the earliest to the latest."""
OFFERED = "lane:offered_load:ratio"
REFUSED = "max(otp_admission_refused_ratio)"


@dataclass(frozen=True, slots=True)
class Row:
    """How things stood."""

    at_s: float
    came: int
    offered: float
    """What comes for each letter that the relay could take."""
    waiting: int
    wait_s: float
    """Of a letter that would be asked for now."""
    age_s: float
    """Of the oldest that waits."""
    refused: float
    """Share of those who ask."""
    alive: int
    """Codes that were right as soon as they were in the mailbox."""
    dead: int
    """Letters that were given up in the queue."""
    told: tuple[str, ...]
    """Alerts of the overload."""

    def __str__(self) -> str:
        told = " ".join(alert.removeprefix("OtpCodes") for alert in self.told)
        return (
            f"{self.at_s:5.0f} s {self.came:6} {self.offered:7.1f} {self.waiting:7} {self.wait_s:6.0f} s"
            f" {self.age_s:5.0f} s {self.refused:7.0%} {self.alive:6} {self.dead:5}  {told}"
        )


HEADING = " time     came offered waiting    wait     age refused  alive  dead  alerts"


@dataclass(frozen=True, slots=True)
class Seen:
    """A surge that is over."""

    profile: Profile
    people: list[Person]
    rows: list[Row]
    begun_at: float
    """Unix time, as all instants."""
    dropped: int
    transaction_s: float
    """What the relay took for a letter, on average."""
    order: dict[str, float | None]
    """When each of these was first so, by Prometheus's clock; none: never."""
    ended: dict[str, float | None]
    """When each of these was last so."""
    is_resolved: bool
    """Whether Alertmanager had nothing of the overload any more in the end; not waited for where codes die."""


async def played(profile: Profile, tell: Callable[[object], None] = print) -> Seen:
    """Start a stack, let the people of a profile come, and stop it when nothing is told of them any more."""
    with tempfile.TemporaryDirectory(prefix="kip-surge-") as folder, surge_stack(Path(folder), profile) as alarmed:
        people = People(
            alarmed.stack.address("otp.grpc"),
            alarmed.running.tokens[0],
            alarmed.running.inbox,
            patience_s=PATIENCE_S,
            press_after_s=PRESS_AFTER_S,
            joins=profile.guarded,
        )
        begun_at = time.time()
        rows = await _lived_through(alarmed, people, profile, tell)
        return await asyncio.to_thread(_seen, alarmed, people.all, profile, rows, begun_at)


async def _lived_through(
    alarmed: Alarmed, people: People, profile: Profile, tell: Callable[[object], None]
) -> list[Row]:
    rows: list[Row] = []
    begun = time.monotonic()
    tell(HEADING)
    reading = asyncio.create_task(people.read())
    coming = asyncio.create_task(people.come(FACTOR * CAPACITY, profile.seconds))

    gone_s = profile.seconds + PRESSES * PRESS_AFTER_S + PATIENCE_S

    async def nobody_waits() -> bool:
        row = await asyncio.to_thread(_row, alarmed, time.monotonic() - begun, people.all)
        rows.append(row)
        tell(row)
        await asyncio.sleep(LOOK_S)
        if reading.done():
            reading.result()
        return coming.done() and (row.waiting == 0 or (not profile.guarded and row.at_s > gone_s))

    over: bool = await eventually(
        nobody_waits, within_s=profile.seconds + EMPTY_WITHIN_S, what="everything has left, or everybody"
    )
    assert over
    await coming
    people.leave()
    await reading
    await people.close()
    return rows


def _row(alarmed: Alarmed, at_s: float, people: list[Person]) -> Row:
    told = alarmed.told()
    return Row(
        at_s,
        len(people),
        _finite(alarmed.value(f"max({OFFERED})")),
        int(alarmed.counted("lagwatch", "lagwatch_lane_backlog_messages", lane="otp")),
        _finite(alarmed.value("max(lane:wait_predicted:seconds)")),
        _finite(alarmed.value("max(lane:queue_age:seconds)")),
        _finite(alarmed.value(REFUSED)),
        sum(person.is_through for person in people),
        _dropped(alarmed),
        tuple(alert for alert in ALERTS if alert in told),
    )


def _finite(value: float | None) -> float:
    """Return 0 where nothing is told, or where it is told that nothing can be."""
    return value if value is not None and value < float("inf") else 0.0


def _dropped(alarmed: Alarmed) -> int:
    return int(alarmed.counted("mailer", "mailer_emails_total", lane="otp", outcome="dropped"))


def _ends(alarmed: Alarmed) -> bool:
    try:
        alarmed.wait_until_over(*ALERTS)
    except AssertionError:
        return False
    return True


def _seen(alarmed: Alarmed, people: list[Person], profile: Profile, rows: list[Row], begun_at: float) -> Seen:
    is_resolved = profile.guarded and _ends(alarmed)  # else letters die for minutes after the last person has gone
    spent, letters = (
        alarmed.counted("mailer", f"mailer_smtp_transaction_duration_seconds_{what}", lane="otp")
        for what in ("sum", "count")
    )
    happened = {
        "offered load above 1": f"{OFFERED} > 1",
        "refused": f"{REFUSED} > 0.01",
        **{alert: f'ALERTS{{alertname="{alert}",alertstate="firing"}}' for alert in ALERTS},
    }
    return Seen(
        profile,
        people,
        rows,
        begun_at,
        _dropped(alarmed),
        spent / letters,
        {name: _instant(alarmed, "min", expression) for name, expression in happened.items()},
        {name: _instant(alarmed, "max", expression) for name, expression in happened.items()},
        is_resolved,
    )


def _instant(alarmed: Alarmed, which: str, expression: str) -> float | None:
    """Return when an expression first (`min`) or last (`max`) held."""
    return alarmed.value(f"{which}({which}_over_time(timestamp({expression})[15m:1s]))")
