"""A guesser: types wrong codes of one subject, one after the other, in as many challenges as that takes."""

from __future__ import annotations

from datetime import timedelta

from services.otp.actions.issue import Issued, QuotaExceeded
from services.otp.rules.subject import Subject
from services.otp.rules.verdict import Locked, Verdict, Wrong
from tests.unit.otp.desk import Desk


class Guesser:
    """Waits whenever it is told to, and so never longer than anybody has to."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self._page: Issued | None = None
        self._asked = 0

    async def asks(self) -> Issued:
        """Return a new page on a code that has arrived."""
        while True:
            self._asked += 1
            try:
                issued = await self.desk.ask(f"guess-{self._asked}")
            except QuotaExceeded as refusal:
                self.desk.clock.pass_by(refusal.retry_after or timedelta(0))
                continue
            self._page = issued
            await self.desk.hand_over(issued, self.desk.stored(issued).newest.number)
            return issued

    async def fails(self, times: int = 1) -> None:
        """Type wrong codes until that many were compared; the last one just now."""
        for _ in range(times):
            while not isinstance(verdict := await self._types_wrong(), Wrong):
                if isinstance(verdict, Locked) and await self._has_attempts():
                    self.desk.clock.now = verdict.retry_at
                else:
                    await self.asks()

    async def types_right(self) -> Verdict:
        """Type the newest code of the page."""
        page = self._page or await self.asks()
        return await self.desk.type_in(page.handle, self.desk.code_of(page, self.desk.stored(page).newest.number))

    async def record(self) -> Subject:
        """Return what is remembered of the subject."""
        page = self._page or await self.asks()
        shard = self.desk.store.shard_of(page.challenge.id)
        assert shard is not None
        found = (await self.desk.store.load(shard, subject_key=self.desk.stored(page).subject_key)).subject
        assert found is not None
        return found

    async def _types_wrong(self) -> Verdict:
        page = self._page or await self.asks()
        return await self.desk.type_in(page.handle, self.desk.wrong_code(page))

    async def _has_attempts(self) -> bool:
        seen = await self.desk.get("portal", self._page.handle) if self._page else None
        return seen is not None and seen.attempts_left > 0
