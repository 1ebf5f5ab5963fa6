"""What is remembered of a subject and purpose: its latest challenges, and how often in a row a wrong code was typed.

Guess limits belong to the subject and not to a challenge, or every new challenge would bring new guesses. From the
tenth failure in a row on, each is followed by a lock, `LOCK_FIRST` doubled each time up to `LOCK_LONGEST`; from the
hundredth on by `LOCK_AT_LIMIT` (NIST SP 800-63B §5.2.2: at most 100 failures in a row), which `UnlockSubject` may end.
Only a success forgets the row, or `ROW_KEPT` without any guess.

The lock is a function of the row and of when the last entry was counted. An entry counts as a failure before it is
compared; a right one is taken back out. So what is in flight at the same time is bounded by the row too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from services.otp.rules.challenge import Challenge
from services.otp.rules.policy import LOCK_AT_LIMIT, LOCK_FIRST, LOCK_LONGEST, ROW_LIMIT, SUBJECT_ROW

MAX_WISHES = 4
"""Challenges of one subject that can be joined: one person rarely asks for more different things at once."""
ROW_KEPT = timedelta(days=30)
"""After the last failure; a guesser who waits this long for each row of 99 gets about a thousand guesses a year."""
LONG_OVER = datetime(1970, 1, 1, tzinfo=UTC)
"""The end of a record that remembers nothing."""


@dataclass(frozen=True, slots=True)
class Wished:
    """A challenge of the subject, and the wish that made it."""

    same_wish: str
    challenge_id: str
    kept_until: datetime


@dataclass(frozen=True, slots=True)
class Subject:
    """One record of the store; `version` grows by one with each commit."""

    key: str
    version: int
    wishes: tuple[Wished, ...] = ()
    """Oldest first."""
    failures: int = 0
    """In a row; entries that are being compared count."""
    counted_at: datetime | None = None
    """When the last of them was counted."""

    @property
    def kept_until(self) -> datetime:
        """Until when its record is kept."""
        ends = [wished.kept_until for wished in self.wishes]
        if self.failures and self.counted_at:
            ends.append(self.counted_at + ROW_KEPT)
        return max(ends, default=LONG_OVER)  # without wishes when it was lost before the challenge was

    @property
    def latest_id(self) -> str | None:
        """The challenge made last."""
        return self.wishes[-1].challenge_id if self.wishes else None

    def challenge_of(self, same_wish: str) -> str | None:
        """Return the newest challenge that such a wish made."""
        found = [wished.challenge_id for wished in self.wishes if wished.same_wish == same_wish]
        return found[-1] if found else None

    def locked_until(self, now: datetime) -> datetime | None:
        """Return when entries are compared again, or `None` when they are now."""
        if self.counted_at is None or self.failures < SUBJECT_ROW:
            return None
        until = self.counted_at + lock_after(self.failures)
        return until if now < until else None

    def with_challenge(self, challenge: Challenge) -> Subject:
        """Return it, one version on, with a new latest challenge."""
        others = [wished for wished in self.wishes if wished.challenge_id != challenge.id]
        wished = Wished(challenge.same_wish, challenge.id, challenge.kept_until)
        return replace(self, version=self.version + 1, wishes=(*others, wished)[-MAX_WISHES:])

    def with_failure(self, now: datetime) -> Subject:
        """Return it, one version on, with one more failure in a row."""
        return replace(self, version=self.version + 1, failures=self.failures + 1, counted_at=now)

    def without_failure(self, counted_at: datetime, before: datetime | None) -> Subject:
        """Return it, one version on, with a failure taken back that was none.

        Args:
            counted_at: when that entry was counted.
            before: `counted_at` of the record then; the lock that the entry began ends, unless others count meanwhile.
        """
        restored = before if self.counted_at == counted_at else self.counted_at
        return replace(self, version=self.version + 1, failures=max(self.failures - 1, 0), counted_at=restored)

    def forgiven(self) -> Subject:
        """Return it, one version on, without its row of failures."""
        return replace(self, version=self.version + 1, failures=0, counted_at=None)


def lock_after(failures: int) -> timedelta:
    """Return how long nothing is compared after that many failures in a row."""
    if failures < SUBJECT_ROW:
        return timedelta(0)
    if failures >= ROW_LIMIT:
        return LOCK_AT_LIMIT
    doublings = min(failures - SUBJECT_ROW, 16)  # 30 s doubled 16 times is far beyond the longest
    return min(LOCK_FIRST * (1 << doublings), LOCK_LONGEST)


def subject_parts(purpose: str, subject: str) -> tuple[str, str, str]:
    """Return what the HMAC that names a subject's record is made over."""
    return ("subject", purpose, subject)
