"""A retry storm: three times as many come as can be served, and half of the refused press again every few seconds."""

from __future__ import annotations

import random
from collections import defaultdict, deque
from datetime import timedelta

from services.otp.actions.admit import AdmitLetter
from services.otp.rules.admission import JITTER, Ramp, moved, refused_for
from services.otp.rules.quota import NO_LIMITS, LetterAsked
from tests.fakes.clock import NOON
from tests.fakes.otp import InMemoryQueue, ring
from tests.fakes.otp_quotas import InMemoryQuotas

D = timedelta(minutes=4)
PATIENCE_S = 300
SECONDS = 900


class Storm:
    """A relay that takes one letter a second, and three people a second who want one.

    Every second one comes back when told to, the others within nine seconds, whatever they were told.
    """

    def __init__(self) -> None:
        self.ramp = Ramp()
        self.queue: deque[int] = deque()
        self.waited: list[int] = []
        self.presses = 0
        self.turns = 0
        self.shares: list[float] = []
        self._back: defaultdict[int, list[tuple[int, bool]]] = defaultdict(list)
        """Second → who presses again then: when they came first, and whether they listen."""
        self._draw = random.Random(7)

    def second(self, now: int) -> None:
        """Live through one second."""
        wait = timedelta(seconds=len(self.queue))
        newcomers = [(3 * now + number, bool(number % 2)) for number in range(3)]
        for who, listens in [*self._back.pop(now, []), *newcomers]:
            self._press(who, now, wait, listens=listens)
        self.shares.append(self.ramp.share)
        if self.queue:
            self.waited.append(now - self.queue.popleft())

    def _press(self, who: int, now: int, wait: timedelta, *, listens: bool) -> None:
        self.presses += 1
        was, at = self.ramp.is_refusing, NOON + timedelta(seconds=now)
        self.ramp = moved(self.ramp, wait, D, at)
        self.turns += self.ramp.is_refusing is not was
        told = refused_for(self.ramp, f"citizen-{who}", wait, D, at)
        if told is None:
            self.queue.append(now)
            return
        told_s = round(told.total_seconds() * (1 + self._draw.uniform(0, JITTER)))
        back = now + (told_s if listens else self._draw.randint(1, 9))
        if back <= who // 3 + PATIENCE_S:
            self._back[back].append((who, listens))


def test_in_a_retry_storm_nobody_waits_too_long_the_relay_never_idles_and_admission_does_not_swing() -> None:
    storm = Storm()

    for now in range(SECONDS):
        storm.second(now)

    assert storm.presses > 20 * SECONDS, "they storm"
    assert max(storm.waited) < D.total_seconds()
    assert len(storm.waited) == SECONDS
    assert storm.turns == 1
    settled = storm.shares[SECONDS // 2 :]
    assert max(settled) - min(settled) < 0.2


async def test_what_is_told_has_a_jitter_so_that_those_who_are_refused_together_do_not_return_together() -> None:
    queue = InMemoryQueue()
    queue.waits = [2 * D]
    letter = LetterAsked("token", "subject", "lan@example.vn", "c00", D)
    drawn: list[tuple[float, float]] = []

    async def told(draw: float) -> timedelta:
        def drawing(low: float, high: float) -> float:
            drawn.append((low, high))
            return low + draw * (high - low)

        admit = AdmitLetter(InMemoryQuotas(), queue, NO_LIMITS, index_keys=ring("i1", 3), draw=drawing)
        refused = await admit(NOON).settle(letter)
        assert refused is not None
        return refused.retry_after

    least, most = await told(0), await told(1)

    assert most == least * (1 + JITTER)
    assert drawn == [(0, JITTER)] * 2
