"""Leave alone for a while what failed several times in a row, then ask it with one call whether it is back.

*closed*: calls go through. After `FAILURES` failures without a success between them it is *open*: calls fail at once,
for `PAUSE`. Then the first call to ask goes through while all others still fail; its success closes, its failure opens
anew. Slow counts as failed, so a dependency that answers late costs a few calls their time-out and not each call.
"""

from __future__ import annotations

from datetime import timedelta

FAILURES = 5  # in a row: more than the calls of one letter, so that one hiccup is not enough
PAUSE = timedelta(seconds=1)  # how much later than its return a dependency is used again


class Breaker:
    """What is known of one dependency. Times are seconds of a clock that never goes back."""

    def __init__(self, failures: int = FAILURES, pause: timedelta = PAUSE) -> None:
        """Begin closed."""
        self._most = failures
        self._pause_s = pause.total_seconds()
        self._failures = 0
        self._silent_until_s = 0.0

    @property
    def is_open(self) -> bool:
        """True from the last of the failures until a success."""
        return self._failures >= self._most

    def lets_through(self, now_s: float) -> bool:
        """Say whether a call may be made; when it is the one that asks for all, others wait another pause for it."""
        if not self.is_open:
            return True
        if now_s < self._silent_until_s:
            return False
        self._silent_until_s = now_s + self._pause_s
        return True

    def succeeded(self) -> None:
        """Note an answer in time."""
        self._failures = 0

    def failed(self, now_s: float) -> None:
        """Note a failure, or an answer that came too late."""
        self._failures += 1
        self._silent_until_s = now_s + self._pause_s
