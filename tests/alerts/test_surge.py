"""The surge, on the real stack: who gets in, what is told and in which order, and that the relay never idles.

`make demo-surge` shows the same as a table and a picture; what is promised of each profile: `tests.surge.judge`.
"""

from __future__ import annotations

import pytest

from tests.surge.judge import broken, figures_of
from tests.surge.play import played
from tests.surge.profiles import LONG, SHORT, UNGUARDED, Profile

pytestmark = pytest.mark.timeout(600)


async def kept(profile: Profile) -> None:
    seen = await played(profile)
    told = figures_of(seen)
    print(told, f"of everyone {told.of_everyone:.1%}, of the admitted {told.of_the_admitted:.1%}")
    assert broken(seen, told) == []


async def test_a_surge_that_the_queue_can_serve_lets_everybody_in_with_one_mail_each() -> None:
    await kept(SHORT)


async def test_a_surge_that_no_queue_can_serve_refuses_some_and_serves_whom_it_lets_in() -> None:
    await kept(LONG)


async def test_without_admission_and_joins_codes_die_in_the_same_surge_and_it_is_told() -> None:
    await kept(UNGUARDED)
