"""A store in which somebody else is faster."""

from __future__ import annotations

from collections.abc import Sequence

from services.otp.ports import OutboxEntry
from services.otp.rules.announcement import Announcement
from services.otp.rules.challenge import Challenge
from services.otp.rules.code_fate import Milestone
from services.otp.rules.subject import Subject
from tests.fakes.otp import InMemoryChallengeStore


class Overtaken(InMemoryChallengeStore):
    """Loses races when a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.won = 0
        """Commits that still go in before races are lost."""
        self.lost = 0
        """Races that are lost then."""

    async def commit(
        self,
        shard: int,
        *,
        challenge: Challenge | None = None,
        subject: Subject | None = None,
        announcements: Sequence[Announcement] = (),
        milestones: Sequence[Milestone] = (),
    ) -> list[OutboxEntry] | None:
        """Implements `ChallengeStore`."""
        if self.won > 0:
            self.won -= 1
        elif self.lost > 0:
            self.lost -= 1
            self.calls.append("commit")
            return None
        return await super().commit(
            shard, challenge=challenge, subject=subject, announcements=announcements, milestones=milestones
        )
