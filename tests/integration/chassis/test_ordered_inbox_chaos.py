"""The invariant of the ordered inbox on the real broker, under kills. `make chaos` makes twenty larger runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.inbox import inbox_chaos


@pytest.mark.timeout(300)
async def test_no_record_is_lost_when_workers_and_the_broker_are_killed(tmp_path: Path) -> None:
    report = await inbox_chaos(tmp_path, records=3_000, rate=300, rounds=3)

    assert report.lost == 0
    assert report.repeated <= report.bound
    assert (report.killed, report.terminated, report.broker_killed) == (3, 3, 1)
    assert not any(report.exit_codes), "every worker that was asked to stop left with 0"
    assert report.slowest_stop_s < 15
