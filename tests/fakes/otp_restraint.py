"""In-memory twin of otp's `Restraint`: the test says what forbids a letter."""

from __future__ import annotations

from collections.abc import Sequence

from services.otp.ports import StoreUnavailable
from services.otp.rules.challenge import Challenge, Stall
from services.otp.rules.code_fate import Milestone
from services.otp.rules.generation import CodeFate
from services.otp.rules.policy import Purpose


class InMemoryRestraint:
    """Implements `Restraint`: each letter costs once, however often it is asked about."""

    def __init__(self, forbids: Stall | None = None) -> None:
        self.forbids = forbids
        self.is_away = False
        self.asked: list[str] = []
        """About which letters, each time."""
        self.in_time: list[str] = []
        """Whose codes came in time, each one."""

    async def __call__(self, challenge: Challenge, purpose: Purpose) -> Stall | None:
        """Implements `Restraint`."""
        assert challenge.purpose == purpose.name
        self.asked.append(f"{challenge.id}.{challenge.newest.number}")
        if self.is_away:
            raise StoreUnavailable
        return self.forbids

    def heard(self, challenge: Challenge, reached: Sequence[Milestone]) -> None:
        """Implements `Restraint`."""
        self.in_time += [challenge.id] * reached.count(CodeFate.IN_TIME)
