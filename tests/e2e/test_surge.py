"""Three times what the relay can take, twice at the same time: with admission and joins, and without both.

The first refuses some and serves whom it lets in; in the other, an issuer of today, codes die in the queue. How many of
everyone who came get through is told of both. `make demo-surge` has longer ones, with alerts, a table and a picture.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from deploy.dev.key_files import write_secrets
from deploy.dev.process_table import PROCESSES
from deploy.dev.stack import Stack
from tests.conditions import eventually
from tests.e2e.alarms import RESERVE_S, SLOTS, short_policy
from tests.e2e.metrics_page import page_of, total
from tests.e2e.people import People, Person
from tests.e2e.stacks import LOOK_EVERY, Running
from tests.surge.profiles import CAPACITY, FACTOR, slow_down

DEADLINE_S = 44
PATIENCE_S = DEADLINE_S + RESERVE_S
PRESS_AFTER_S = DEADLINE_S / 14  # as a minute is to fourteen
SECONDS = 23.0  # what comes then would wait 46 s
LOOK_S = 0.5
OVER_WITHIN_S = 150.0
ENOUGH_DEAD = 50
PLAYERS = {"inbox", "otp", "mailer", "lagwatch"}

pytestmark = pytest.mark.timeout(300)


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two stacks."""

    running: Running
    guarded: bool

    async def is_over(self) -> bool:
        """Whether everything has left, or, where that would take long, enough is dead."""
        await asyncio.sleep(LOOK_S)  # each look reads a page of thousands of numbers
        return await asyncio.to_thread(self._nothing_waits if self.guarded else self._enough_is_dead)

    def dead(self) -> float:
        """Return how many letters were given up in the queue."""
        page = page_of(self.running.stack.address("mailer.http"))
        return total(page, "mailer_emails_total", lane="otp", outcome="dropped")

    def _nothing_waits(self) -> bool:
        page = page_of(self.running.stack.address("lagwatch.http"))
        return total(page, "lagwatch_lane_backlog_messages", lane="otp") == 0

    def _enough_is_dead(self) -> bool:
        return self.dead() >= ENOUGH_DEAD


@contextmanager
def both_sides(folder: Path) -> Iterator[tuple[Side, Side]]:
    """Start both stacks, side by side."""
    sides = (_side(folder / "guarded", guarded=True), _side(folder / "unguarded", guarded=False))
    for side in sides:
        side.running.stack.addresses()  # each chooses its ports before the other looks for some
    with ThreadPoolExecutor(len(sides)) as threads:
        try:
            for start in [threads.submit(side.running.stack.start) for side in sides]:
                start.result()
            for side in sides:
                slow_down(side.running.inbox)
            yield sides
        finally:
            for stop in [threads.submit(side.running.stack.stop) for side in sides]:
                stop.result()


def _side(directory: Path, *, guarded: bool) -> Side:
    made = write_secrets(directory / "secrets")
    policy = directory / "policy.yaml"
    policy.write_text(yaml.safe_dump(short_policy(DEADLINE_S), allow_unicode=True))
    settings = {
        "otp": {"OTP_POLICY_FILE": str(policy), "OTP_ADMISSION": str(guarded).lower()},
        "mailer": {"MAILER_SLOTS_OTP": str(SLOTS)},
        "lagwatch": {"LAGWATCH_POLL_INTERVAL": LOOK_EVERY},
    }
    stack = Stack(directory, settings=settings, processes=[spec for spec in PROCESSES if spec.name in PLAYERS])
    return Side(Running(stack, (made.portal, made.operator), made.operator), guarded)


async def crowded(side: Side) -> list[Person]:
    """Let people come to one side until that is over."""
    people = People(
        side.running.stack.address("otp.grpc"),
        side.running.tokens[0],
        side.running.inbox,
        patience_s=PATIENCE_S,
        press_after_s=PRESS_AFTER_S,
        joins=side.guarded,
        comes_back=False,  # it would take as long again until the last of them has a mail
    )
    reading = asyncio.create_task(people.read())
    await people.come(FACTOR * CAPACITY, SECONDS)
    over: bool = await eventually(side.is_over, within_s=OVER_WITHIN_S, what=f"the end of {side}")
    assert over
    people.leave()
    await reading
    await people.close()
    return people.all


def of_everyone(people: list[Person]) -> float:
    return sum(person.is_through for person in people) / len(people)


async def test_in_a_surge_some_are_refused_and_nobodys_code_dies_where_codes_die_without_admission_and_joins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with both_sides(tmp_path) as (guarded, unguarded):
        ours, theirs = await asyncio.gather(crowded(guarded), crowded(unguarded))
        dead = guarded.dead(), unguarded.dead()

    let_in = [person for person in ours if person.let_in_at is not None]
    told = [wait for person in ours for wait in person.refusals]
    with capsys.disabled():  # told of every run, whatever comes of it
        shares = [f"{of_everyone(people):.0%}" for people in (ours, let_in, theirs)]
        print("\nget through: {} of everyone, {} of the admitted; unguarded {} of everyone".format(*shares))  # noqa: T201
    assert told
    assert min(told) >= 5
    assert len(let_in) < len(ours)
    assert of_everyone(let_in) >= 0.98
    assert sum(len(person.mails) for person in ours) <= 1.01 * len(let_in)
    assert sum(person.joins for person in ours) > 0.2 * len(let_in)
    assert dead[0] <= 0.01 * len(let_in)
    assert dead[1] >= ENOUGH_DEAD
    assert not any(person.refusals or person.joins for person in theirs)
    assert of_everyone(ours) > of_everyone(theirs)
