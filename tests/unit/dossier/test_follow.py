from __future__ import annotations

from datetime import timedelta

import pytest

from services.dossier.actions.follow import Followed, FollowNotice
from services.dossier.actions.open import OpenDossier
from services.dossier.ports import ArchiveUnavailable
from services.dossier.rules.notice import Fate, News, Notice, NoticeId
from tests.fakes.dossier import NOON, CountingBell, Dice, FakeClock, InMemoryArchive, InMemoryCatalogue, filing

SECOND = timedelta(seconds=1)


class RacedArchive(InMemoryArchive):
    """Another process changes a notice between look and write."""

    def __init__(self) -> None:
        super().__init__()
        self.theirs: list[Notice] = []

    async def replace_notice(self, was: Notice, becomes: Notice) -> bool:
        if self.theirs:
            await super().replace_notice(was, self.theirs.pop())
        return await super().replace_notice(was, becomes)


async def _queued_notice(archive: InMemoryArchive) -> Notice:
    open_dossier = OpenDossier(archive, InMemoryCatalogue(), FakeClock(), CountingBell(), agency="K01", draw=Dice())
    opened = await open_dossier(filing(), caller="portal", idempotency_key="key", trace={})
    notice = opened.dossier.steps[0].notice
    assert notice is not None
    return notice


def _news(fate: Fate, seconds: float = 1) -> News:
    return News(fate, NOON + seconds * SECOND, NOON + seconds * SECOND)


async def test_news_are_joined_to_the_step() -> None:
    archive = InMemoryArchive()
    notice = await _queued_notice(archive)

    followed = await FollowNotice(archive)(notice.id, _news(Fate.HANDED_OVER))

    assert followed is Followed.MERGED
    assert await archive.find_notice(notice.id) == Notice(notice.id, NOON, Fate.HANDED_OVER, NOON + SECOND)


async def test_the_same_news_twice_are_nothing_new() -> None:
    archive = InMemoryArchive()
    notice = await _queued_notice(archive)
    follow = FollowNotice(archive)
    await follow(notice.id, _news(Fate.HANDED_OVER))

    assert await follow(notice.id, _news(Fate.HANDED_OVER)) is Followed.NOTHING_NEW


async def test_late_news_do_not_take_a_fate_back() -> None:
    archive = InMemoryArchive()
    notice = await _queued_notice(archive)
    follow = FollowNotice(archive)
    await follow(notice.id, _news(Fate.DELIVERED, 9))

    assert await follow(notice.id, _news(Fate.HANDED_OVER, 3)) is Followed.NOTHING_NEW


async def test_news_about_somebody_elses_letter_are_known_as_such() -> None:
    assert await FollowNotice(InMemoryArchive())(NoticeId("theirs"), _news(Fate.BOUNCED)) is Followed.UNKNOWN_OWNER


async def test_two_processes_with_news_at_once_keep_the_greater_fate() -> None:
    archive = RacedArchive()
    notice = await _queued_notice(archive)
    archive.theirs = [Notice(notice.id, NOON, Fate.HANDED_OVER, NOON + SECOND)]

    followed = await FollowNotice(archive)(notice.id, _news(Fate.DELIVERED, 2))

    assert followed is Followed.MERGED
    assert await archive.find_notice(notice.id) == Notice(notice.id, NOON, Fate.DELIVERED, NOON + 2 * SECOND)


async def test_who_loses_to_a_greater_fate_has_nothing_new() -> None:
    archive = RacedArchive()
    notice = await _queued_notice(archive)
    archive.theirs = [Notice(notice.id, NOON, Fate.BOUNCED, NOON + SECOND)]

    assert await FollowNotice(archive)(notice.id, _news(Fate.DELIVERED)) is Followed.NOTHING_NEW


async def test_an_archive_that_is_away_is_passed_on_so_that_the_inbox_waits() -> None:
    archive = InMemoryArchive()
    notice = await _queued_notice(archive)
    archive.away = True

    with pytest.raises(ArchiveUnavailable):
        await FollowNotice(archive)(notice.id, _news(Fate.DELIVERED))
