"""The surge, on the real stack: who gets in, what is told and in which order, and that the relay never idles.

`make demo-surge` shows it as a table. Times are compressed as `tests.e2e.alarms` says. That codes die, and the worst
alert comes, where nobody is refused: `test_overloads`.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from tests.conditions import eventually
from tests.e2e.alarms import HURRY, RESERVE_S, SLOTS, Alarmed, alarmed_stack
from tests.e2e.overload import CAPACITY, TAKES_S
from tests.e2e.people import People, Person

DEADLINE_S = 60
PATIENCE_S = DEADLINE_S + RESERVE_S
FACTOR = 3.0
SHORT_S = 12.0  # what came by then waits 24 s, below 0.6 of the deadline
LONG_S = 90.0
LOOK_S = 3.0
EMPTY_WITHIN_S = 240.0

pytestmark = pytest.mark.timeout(600)


@dataclass(frozen=True, slots=True)
class Row:
    """How things stood."""

    at_s: float
    came: int
    waiting: int
    wait_s: float
    refused: float
    """Share of those who ask."""
    told: str

    def __str__(self) -> str:
        bar = "#" * round(self.wait_s / 2) + "!" * round(self.refused * 10)
        return (
            f"{self.at_s:5.0f} s {self.came:6} came {self.waiting:5} wait {self.wait_s:5.0f} s "
            f"{self.refused:6.0%} refused  {bar:<40} {self.told}"
        )


@contextmanager
def surge_stack(folder: Path) -> Iterator[Alarmed]:
    """A watched stack whose relay takes `CAPACITY` letters a second, and that lets in as many as it can serve."""
    with (
        alarmed_stack(folder, deadline_s=DEADLINE_S, admission=True) as alarmed,
        alarmed.relay(action="delay", delay_s=TAKES_S),
    ):
        yield alarmed


async def lived_through(alarmed: Alarmed, seconds: float) -> tuple[list[Person], list[Row]]:
    """Let people come, and look until everything that was promised has left."""
    people = People(
        alarmed.stack.address("otp.grpc"),
        alarmed.running.tokens[0],
        patience_s=PATIENCE_S,
        press_after_s=60 / HURRY,
    )
    rows: list[Row] = []
    begun = time.monotonic()
    coming = asyncio.create_task(people.come(FACTOR * CAPACITY, seconds))

    async def nothing_waits() -> bool:
        row = await asyncio.to_thread(_row, alarmed, time.monotonic() - begun, len(people.all))
        rows.append(row)
        print(row)
        await asyncio.sleep(LOOK_S)
        return coming.done() and row.waiting == 0

    over: bool = await eventually(nothing_waits, within_s=seconds + EMPTY_WITHIN_S, what="everything has left")
    assert over
    await coming
    return people.all, rows


def _row(alarmed: Alarmed, at_s: float, came: int) -> Row:
    return Row(
        at_s,
        came,
        int(alarmed.counted("lagwatch", "lagwatch_lane_backlog_messages", lane="otp")),
        alarmed.value("max(lane:wait_predicted:seconds)") or 0.0,
        alarmed.value("max(otp_admission_refused_ratio)") or 0.0,
        " ".join(sorted(name.removeprefix("Otp") for name in alarmed.told() if name.startswith("OtpCodes"))),
    )


def mails_of(alarmed: Alarmed) -> Counter[str]:
    """Count the mails by recipient."""
    found: Counter[str] = Counter()
    before: int | None = None
    while mails := alarmed.running.inbox.messages(before=before, limit=500):
        found.update(to for mail in mails for to in mail.rcpt_to)
        before = mails[-1].id
    return found


def first_time(alarmed: Alarmed, expression: str) -> float | None:
    """Return when an expression first held, by Prometheus's clock."""
    return alarmed.value(f"min(min_over_time(timestamp({expression})[15m:1s]))")


def firing(alert: str) -> str:
    return f'ALERTS{{alertname="{alert}",alertstate="firing"}}'


async def test_a_surge_that_the_queue_can_serve_lets_everybody_in_with_one_mail_each(tmp_path: Path) -> None:
    with surge_stack(tmp_path) as alarmed:
        people, rows = await lived_through(alarmed, SHORT_S)
        mails = mails_of(alarmed)

    got_in = sum(mails[person.email] > 0 for person in people)
    print(f"everyone who came: {len(people)}, got a mail: {got_in}, joins: {sum(person.joins for person in people)}")
    assert [person for person in people if person.refusals] == []
    assert got_in == len(people)
    assert sum(mails[person.email] for person in people) <= 1.01 * len(people)
    assert max(row.wait_s for row in rows) > 0.25 * DEADLINE_S, "there was no surge"
    assert sum(person.joins for person in people) > 0.2 * len(people)


async def test_a_surge_that_no_queue_can_serve_refuses_some_and_serves_whom_it_lets_in(tmp_path: Path) -> None:
    with surge_stack(tmp_path) as alarmed:
        begun = time.monotonic()
        busy = alarmed.counted("mailer", "mailer_smtp_transaction_duration_seconds_sum", lane="otp")
        surging = asyncio.create_task(lived_through(alarmed, LONG_S))
        await asyncio.sleep(LONG_S)
        busy = alarmed.counted("mailer", "mailer_smtp_transaction_duration_seconds_sum", lane="otp") - busy
        used = busy / SLOTS / (time.monotonic() - begun)
        people, rows = await surging
        mails = mails_of(alarmed)
        dropped = alarmed.counted("mailer", "mailer_emails_total", lane="otp", outcome="dropped")
        order = {
            "slow": first_time(alarmed, firing("OtpCodesSlow")),
            "will die": first_time(alarmed, firing("OtpCodesWillDie")),
            "admission": first_time(alarmed, "max(otp_admission_refused_ratio) > 0"),
        }
        await asyncio.to_thread(alarmed.wait_until_over, "OtpCodesSlow", "OtpCodesWillDie")

    let_in = [person for person in people if person.let_in_at is not None]
    usable = sum(mails[person.email] > 0 for person in let_in)
    told = sorted(wait for person in people for wait in person.refusals)
    print(f"everyone who came: {len(people)}, let in: {len(let_in)}, with a mail: {usable}, dropped: {dropped:.0f}")
    print(f"refusals: {len(told)}, told to wait {told[0]:.0f} to {told[-1]:.0f} s; of the relay was used: {used:.0%}")
    print(
        "seconds after the first page:", {name: round((at or 0) - (order["slow"] or 0)) for name, at in order.items()}
    )
    assert dropped == 0
    assert usable >= 0.99 * len(let_in)
    assert len(let_in) < len(people)
    assert sum(mails.values()) <= 1.01 * len(let_in)
    assert used >= 0.9  # the first seconds, in which the queue forms, included
    assert None not in order.values()
    assert order["slow"] <= order["will die"] <= order["admission"]  # type: ignore[operator] # none is none
    assert all(wait >= 5 for wait in told)
    assert _turns(rows) <= 2, "admission swings"


def _turns(rows: list[Row]) -> int:
    refusing = [row.refused > 0.05 for row in rows]
    return sum(one is not other for one, other in pairwise(refusing))
