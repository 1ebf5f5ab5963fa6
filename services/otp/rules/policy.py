"""What a purpose promises: how long its codes live, how long people wait, how often they may ask.

One purpose is one row of the policy file. `deadline` (D in the design) is what the queue may use of the patience; the
rest is kept for the relay, the inbox and typing. What standards allow of these numbers: `standards`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import StrEnum

from services.otp.rules.hotline import Hotline
from services.otp.rules.quota import NO_LIMITS, Limits

GRACE = timedelta(seconds=45)
"""After the deadline, before a letter that nobody has heard of is presumed dropped: an event may be on its way."""
MAX_HANDLES = 4
"""Handles of one challenge: one person rarely has more open pages than that."""
MAX_LIVE = 2
"""Codes of one challenge that can be right at the same time: each doubles the chance of a guess."""
SUBJECT_ROW = 10
"""Failures in a row of one subject and purpose before the first lock: as many as one challenge usually allows."""
LOCK_FIRST = timedelta(seconds=30)
"""The first lock; locks grow from here. NIST SP 800-63B rev 3 §5.2.2 proposes waits from 30 s up to 1 h."""
LOCK_LONGEST = timedelta(hours=1)
"""No lock that grew is longer: who remembers the right way after a while is not sent away for a day."""
ROW_LIMIT = 100
"""Failures in a row that NIST SP 800-63B-4 §3.2.2 allows at most; at 2 live codes of 6 digits, 2 in 10 000 to guess."""
LOCK_AT_LIMIT = timedelta(hours=24)
"""The lock at `ROW_LIMIT`, unless somebody with that right lifts it: of no use to a guesser, yet it ends."""
REISSUES = 2
"""Letters that the machine makes by itself per challenge: a third would be late for the same reason as the others."""
WANTED_STEP = timedelta(seconds=30)
"""An extension of how long a letter is wanted is published from this on: a page that looks each 2 s sends no flood."""


class AdviceKind(StrEnum):
    """What a citizen should do now."""

    WAIT = "wait"
    CHECK_SPAM = "check_spam"
    TYPE_IT = "type_it"
    OTHER_CHANNEL = "other_channel"
    CALL = "call"
    ASK_AGAIN = "ask_again"


@dataclass(frozen=True, slots=True)
class Purpose:
    """One row of the policy."""

    name: str
    digits: int
    """Length of the code, 4–10; fewer than 6 only beyond the standards."""
    life: timedelta
    """How long a code is good after the relay took it."""
    max_life: timedelta
    """Never good longer than this after its body began to leave."""
    patience: timedelta
    """How long a letter is still wanted after it was last asked for."""
    reserve: timedelta
    """Kept of the patience for relay, inbox and typing."""
    prompt: timedelta
    """Within this people should have their letter handed over: the promptness objective."""
    slow: timedelta
    """A predicted wait above this is paged, long before the deadline."""
    challenge_life: timedelta
    """The end of everything about the challenge, from its first request."""
    cooldowns: tuple[timedelta, ...]
    """The pause after the first letter, after the second …; the last one repeats. At least one, never shrinking."""
    attempts_per_handle: int
    attempts: int
    """Of the whole challenge, over all handles."""
    code_in_subject: bool
    """The code may stand in the subject line, where a locked phone shows it."""
    enumeration_safe: bool
    """Callers are shown nothing after the hand-over that would tell a decoy from a real letter."""
    spam_after: timedelta
    """How long after the hand-over the advice becomes "look in the spam folder"."""
    default_locale: str
    alternatives: tuple[str, ...]
    """What else there is when mail does not work, such as `hotline`."""
    hotline: Hotline | None
    """Who can be phoned; `None` when nobody can."""
    advice: Mapping[AdviceKind, Mapping[str, str]]
    """Words for each advice, by language."""

    @property
    def deadline(self) -> timedelta:
        """How long a letter may wait in our queue."""
        return self.patience - self.reserve

    def with_half_the_attempts(self) -> Purpose:
        """Return it with half the attempts, at least one."""
        return replace(
            self,
            attempts_per_handle=-(-self.attempts_per_handle // 2),
            attempts=-(-self.attempts // 2),
        )

    def cooldown_after(self, letters: int) -> timedelta:
        """Return the pause after the n-th letter of a challenge, n ≥ 1, before another may be asked for.

        Raises:
            ValueError: there was no letter.
        """
        if letters < 1:
            raise ValueError("a cooldown follows a letter")
        return self.cooldowns[min(letters, len(self.cooldowns)) - 1]


@dataclass(slots=True)
class Strictness:
    """Whether attempts are halved now; one for the process, and whoever watches failed guesses turns it."""

    is_on: bool = False


@dataclass(frozen=True, slots=True)
class Policy:
    """Every purpose, by name, and the limits that all of them share."""

    purposes: Mapping[str, Purpose]
    limits: Limits = NO_LIMITS
    strictness: Strictness = field(default_factory=Strictness, compare=False)

    def find(self, name: str) -> Purpose | None:
        """Return the purpose of that name, as strict as everything is now."""
        purpose = self.purposes.get(name)
        return purpose.with_half_the_attempts() if purpose and self.strictness.is_on else purpose
