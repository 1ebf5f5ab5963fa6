"""The mails that arrived, in order, and a way to wait for the next one.

Ids count up by one for each mail and never start again, neither after `forget_all` nor after a restart on the same
directory: whoever has seen mail 41 asks for what came after 41. Only the newest `capacity` mails are kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Mail:
    """One mail as it came over the wire: its envelope and its bytes."""

    id: int
    received_at: datetime
    mail_from: str
    rcpt_to: tuple[str, ...]
    raw: bytes

    def is_for(self, address: str) -> bool:
        """Tell whether the envelope names this address; upper and lower case are the same."""
        return address.casefold() in (recipient.casefold() for recipient in self.rcpt_to)


class MailArchive(Protocol):
    """Where mails outlive the process."""

    def load(self) -> tuple[list[Mail], int]:
        """Return the mails kept, oldest first, and the highest id ever given."""

    def add(self, mail: Mail) -> None:
        """Write a mail so that a killed process finds it again. Blocks. Raises: OSError."""

    def remove(self, ids: list[int]) -> None:
        """Forget these mails; their ids stay taken. Raises: OSError."""


class Mailbox:
    """All mails in memory, each written to the archive before anyone hears of it."""

    def __init__(self, archive: MailArchive, capacity: int, now: Callable[[], datetime]) -> None:
        self._archive = archive
        self._capacity = capacity
        self._now = now
        mails, self.newest_id = archive.load()
        self._mails = {mail.id: mail for mail in mails}  # a dict keeps the order of arrival
        self._arrival = asyncio.Event()
        self._is_closing = False
        self._forget_beyond_capacity()

    def __len__(self) -> int:
        return len(self._mails)

    @property
    def oldest_id(self) -> int | None:
        """The id of the oldest mail still kept."""
        return next(iter(self._mails), None)

    def keep(self, mail_from: str, rcpt_to: tuple[str, ...], raw: bytes) -> Mail:
        """Write a mail to the archive, list it and wake whoever waits.

        Raises:
            OSError: it could not be written, and is not listed.
        """
        mail = Mail(self.newest_id + 1, self._now(), mail_from, rcpt_to, raw)
        self._archive.add(mail)
        self.newest_id = mail.id
        self._mails[mail.id] = mail
        self._forget_beyond_capacity()
        self._arrival.set()
        self._arrival = asyncio.Event()
        return mail

    def find(self, mail_id: int) -> Mail | None:
        """Return the mail with this id if it is still kept."""
        return self._mails.get(mail_id)

    def newest(self, *, to: str = "", after: int = 0, before: int | None = None, limit: int) -> list[Mail]:
        """Return at most `limit` mails, newest first, with ids between `after` and `before` (both left out)."""
        mails = (mail for mail in self._newest_first(after) if before is None or mail.id < before)
        return list(islice((mail for mail in mails if not to or mail.is_for(to)), limit))

    async def wait_for(self, *, to: str = "", after: int = 0, timeout_s: float) -> Mail | None:
        """Return the oldest mail after `after`, at once or when it comes; None when time is up or the inbox stops.

        The oldest, so that whoever goes on from the id returned skips none.
        """
        deadline = asyncio.get_running_loop().time() + timeout_s
        try:
            async with asyncio.timeout_at(deadline):
                while not (mail := self._find_oldest(to, after)) and not self._is_closing:
                    after = self.newest_id  # what was looked through once is not looked through again
                    await self._arrival.wait()
                return mail
        except TimeoutError:
            return None

    def stop_waiting(self) -> None:
        """Let everyone who waits go without a mail, now and from now on."""
        self._is_closing = True
        self._arrival.set()

    def forget_all(self) -> int:
        """Forget every mail; return how many there were."""
        ids = list(self._mails)
        self._archive.remove(ids)
        self._mails.clear()
        return len(ids)

    def _newest_first(self, after: int) -> Iterator[Mail]:
        for mail in reversed(self._mails.values()):
            if mail.id <= after:
                return
            yield mail

    def _find_oldest(self, to: str, after: int) -> Mail | None:
        oldest = None
        for mail in self._newest_first(after):
            if not to or mail.is_for(to):
                oldest = mail
        return oldest

    def _forget_beyond_capacity(self) -> None:
        too_many = list(islice(self._mails, max(0, len(self._mails) - self._capacity)))
        if too_many:
            self._archive.remove(too_many)
            for mail_id in too_many:
                del self._mails[mail_id]
