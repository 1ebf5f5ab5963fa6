"""What kills may cost: repeats, byte for byte, of letters in hand. `make chaos` makes larger runs of the same code."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.mailer import MailerChaos, Plan

PLAN = Plan(letters=600, rate=40, rounds=1)

pytestmark = pytest.mark.timeout(400)


def test_no_letter_is_lost_and_only_those_in_hand_come_twice_when_processes_and_the_broker_are_killed(
    tmp_path: Path,
) -> None:
    report = MailerChaos(tmp_path, PLAN)()

    assert (report.killed, report.terminated, report.broker_killed) == (1, 1, 1)
    assert report.lost == 0
    assert report.different == 0, "every repeat is the same octets"
    assert report.is_bounded, report
    assert report.is_explained, report
    assert report.untold == report.dead_letters == 0
    assert not any(report.exit_codes), "every mailer that was asked to stop left with 0"


def test_without_its_ledger_the_same_kills_break_that_bound(tmp_path: Path) -> None:
    report = MailerChaos(tmp_path, Plan(letters=300, rate=40, rounds=1, broker_killed=False, ledger=False))()

    assert report.killed == 1
    assert report.lost == report.different == 0
    assert not report.is_bounded, report
