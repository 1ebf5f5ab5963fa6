"""A wish on its way into the ledger: what it changes, how long it is kept, what happens without a ledger."""

from __future__ import annotations

from datetime import timedelta

import pytest

from services.mailer.actions.heed import HeedWish
from services.mailer.ports import TryAgain
from services.mailer.rules.wish import News, Wish
from tests.fakes.clock import NOON, FakeClock
from tests.fakes.mailer import InMemoryLedger

LETTER = "challenge-1.1"
MINUTE, DAY, SECOND = timedelta(minutes=1), timedelta(days=1), timedelta(seconds=1)
LATER = Wish(NOON + 20 * MINUTE)
WITHDRAWN = Wish(withdrawn=True)


class Road:
    """The verb over twins."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.ledger = InMemoryLedger(self.clock)
        self.heed = HeedWish(self.ledger, clock=self.clock)


async def test_a_wish_is_in_the_ledger_and_what_it_changed_is_told() -> None:
    road = Road()

    news = [await road.heed(LETTER, wish) for wish in (LATER, LATER, WITHDRAWN, LATER)]

    assert news == [News.EXTENDED, News.STALE, News.WITHDRAWN, News.STALE]
    assert await road.ledger.wish(LETTER) == Wish(LATER.wanted_until, withdrawn=True)
    assert await road.ledger.wish("challenge-1.2") == Wish()


@pytest.mark.parametrize(
    ("wish", "kept"),
    [(LATER, 20 * MINUTE + DAY), (Wish(NOON - DAY), DAY), (WITHDRAWN, DAY)],
    ids=["until later", "until it came", "withdrawn"],
)
async def test_a_wish_is_kept_for_a_day_beyond_its_time(wish: Wish, kept: timedelta) -> None:
    road = Road()
    await road.heed(LETTER, wish)

    road.clock.now = NOON + kept - SECOND
    assert await road.ledger.wish(LETTER) == wish
    road.clock.pass_by(SECOND)
    assert await road.ledger.wish(LETTER) == Wish()


async def test_a_wish_waits_for_the_ledger() -> None:
    road = Road()
    road.ledger.away = True

    with pytest.raises(TryAgain, match="ledger is away"):
        await road.heed(LETTER, WITHDRAWN)

    road.ledger.away = False
    assert await road.heed(LETTER, WITHDRAWN) is News.WITHDRAWN
