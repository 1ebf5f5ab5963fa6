"""A surge: more citizens than the relay can serve, of whom some press again; and when the first of their codes dies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.conditions import wait_until
from tests.e2e.alarms import SLOTS, Alarmed
from tests.e2e.drip import Drip

TAKES_S = 2.4  # of the relay, for each letter
CAPACITY = SLOTS / TAKES_S
PRESS_AGAIN = 0.5
PAGE, WORSE = "OtpCodesWillDie", "OtpCodesDoomed"
DIES_WITHIN_S = 300.0


@dataclass(frozen=True, slots=True)
class Surge:
    """What is going on."""

    alarmed: Alarmed
    arrived: float
    handed_over: float
    died: float
    """What was counted before it."""

    def dead(self) -> float:
        """Return how many codes died in the queue since the surge began, as their mailer counts them."""
        return _died(self.alarmed) - self.died

    def measured(self) -> float:
        """Return how many letters came for each that left, since the surge began."""
        arrived, handed_over = _counted(self.alarmed)
        return (arrived - self.arrived) / (handed_over - self.handed_over)

    def wait_for_the_page(self) -> None:
        """Wait for it, and see that it, or something worse by now, wakes somebody, and that nothing has died."""
        self.alarmed.wait_until_told(PAGE, within_s=DIES_WITHIN_S)
        assert self.dead() == 0
        wait_until(lambda: {PAGE, WORSE} & self.alarmed.paged(), what=f"{PAGE} or {WORSE} wakes somebody")

    def wait_for_the_first_death(self) -> None:
        """Wait for it: without one, nothing would have been foreseen."""
        wait_until(lambda: self.dead() > 0, within_s=DIES_WITHIN_S, what="a code that dies in the queue")


@contextmanager
def overload(alarmed: Alarmed, drip: Drip, factor: float) -> Iterator[Surge]:
    """Let `factor` times as many come as the relay can serve, until the context is left."""
    before = drip.per_second
    with alarmed.relay(action="delay", delay_s=TAKES_S):
        surge = Surge(alarmed, *_counted(alarmed), died=_died(alarmed))
        drip.per_second, drip.press_again = factor * CAPACITY, PRESS_AGAIN
        try:
            yield surge
        finally:
            drip.per_second, drip.press_again = before, 0.0


def _died(alarmed: Alarmed) -> float:
    return alarmed.counted("mailer", "mailer_emails_total", lane="otp", outcome="dropped")


def _counted(alarmed: Alarmed) -> tuple[float, float]:
    names = ("lagwatch_lane_arrivals_total", "lagwatch_lane_hand_overs_total")
    arrived, handed_over = (alarmed.counted("lagwatch", name, lane="otp") for name in names)
    return arrived, handed_over
