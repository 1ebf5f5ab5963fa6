"""Join the fate of a letter to its step. The news may come twice, late or out of order: the merge does not mind."""

from __future__ import annotations

from enum import Enum, auto

from services.dossier.ports import Archive
from services.dossier.rules.notice import News, NoticeId, merge


class Followed(Enum):
    """What became of a piece of news."""

    MERGED = auto()
    NOTHING_NEW = auto()
    """A repeat, or older than what is known."""
    UNKNOWN_OWNER = auto()
    """The letter was asked for by somebody else, such as a caller of the mailer."""


class FollowNotice:
    """Takes in how letters fare."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive

    async def __call__(self, notice_id: NoticeId, news: News) -> Followed:
        """Merge the news into the notice.

        Raises:
            ArchiveUnavailable: nothing is known; take the news in again.
        """
        while True:  # a lost commit means that another piece of news went further, and a letter has few places to go
            notice = await self._archive.find_notice(notice_id)
            if notice is None:
                return Followed.UNKNOWN_OWNER
            merged = merge(notice, news)
            if merged == notice:
                return Followed.NOTHING_NEW
            if await self._archive.replace_notice(was=notice, becomes=merged):
                return Followed.MERGED
