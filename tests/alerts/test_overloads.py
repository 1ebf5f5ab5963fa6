"""However steep a surge is, "codes will die" pages before the first one dies: measured, at three of them.

Nothing refuses anybody here, so each of them goes on until codes die. Times are compressed as `tests.e2e.alarms` says;
the deadline is that of a login, divided like the rules.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.e2e.alarms import HURRY, alarmed_stack
from tests.e2e.drip import Drip
from tests.e2e.overload import overload

pytestmark = pytest.mark.timeout(400)

DEADLINE_S = 540 // HURRY
LEADS = {1.5: 3.0, 2.0: 2.0, 3.0: 1.5}
"""The first death comes so many deadlines after the onset, where the relay takes 1 / factor of what comes."""


@pytest.mark.parametrize("factor", LEADS)
def test_the_page_comes_before_the_first_death(tmp_path: Path, factor: float) -> None:
    with (
        alarmed_stack(tmp_path, deadline_s=DEADLINE_S) as alarmed,
        alarmed.running.portal() as portal,
        Drip(portal) as drip,
        overload(alarmed, drip, factor) as surge,
    ):
        onset = time.monotonic()
        surge.wait_for_the_page()
        paged_s = time.monotonic() - onset
        surge.wait_for_the_first_death()
        died_s = time.monotonic() - onset
        measured = surge.measured()
        if factor == min(LEADS):  # the longest: it takes a while until a mailer is said to be too small
            alarmed.wait_until_told("OtpEmailCapacityTight")

    print(f"\n{measured:.2f} times the relay's capacity: paged after {paged_s:.1f} s, first death after {died_s:.1f} s")
    assert factor * 0.8 <= measured <= factor * 1.3
    assert died_s > LEADS[factor] * DEADLINE_S * 0.7
    assert died_s - paged_s > DEADLINE_S / 4
