"""Citizens who press a button one after another while things break, each until somebody answers.

Each keeps pressing the same button (the same idempotency key) while the answer is "not now", as a portal would do for
them. So what the crowd was promised is exactly what must be in the mailbox at the end.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Self, TypeVar

import grpc

from tests.conditions import wait_until
from tests.e2e.portal import Refusal, refusal_of

T = TypeVar("T")

HANDS = 4  # who press at the same time
PAUSE_S = 0.1  # between two presses of one hand: the crowd must last longer than a process takes to die
ANSWER_WITHIN_S = 90.0  # for one citizen, over all presses
NOT_NOW = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)


class Crowd(Generic[T]):
    """A context manager: pressing when entered, done when left.

    Args:
        press: the button of citizen 0, 1, …; the same one for each press of a citizen.
        citizens: how many there are.
    """

    def __init__(self, press: Callable[[int], T], citizens: int) -> None:
        self._press = press
        self._citizens = citizens
        self._turn = threading.Lock()
        self._leave = threading.Event()
        self._threads = ThreadPoolExecutor(HANDS)
        self._futures: list[Future[None]] = []
        self.answers: list[T] = []
        """What was promised so far."""
        self.refusals: list[Refusal] = []
        """What was told instead, so far."""
        self.in_hand = 0
        """Calls that wait for their answer now."""

    def __enter__(self) -> Self:
        self._futures = [self._threads.submit(self._one, number) for number in range(self._citizens)]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self._leave.set()
        self._threads.shutdown(cancel_futures=kind is not None)
        if kind is None:
            for future in self._futures:
                future.result()

    @property
    def still_presses(self) -> bool:
        """Whether somebody has no answer yet."""
        return len(self.answers) < self._citizens

    def wait_for_answers(self, more: int) -> None:
        """Return when `more` citizens have been answered from now on."""
        enough = len(self.answers) + more
        assert enough < self._citizens, "the crowd is too small for this"
        wait_until(lambda: len(self.answers) >= enough, within_s=ANSWER_WITHIN_S, what=f"{more} more answers")

    def wait_for_refusal(self) -> Refusal:
        """Return the next refusal from now on."""
        told = len(self.refusals)
        wait_until(lambda: len(self.refusals) > told, within_s=ANSWER_WITHIN_S, what="a refusal")
        return self.refusals[told]

    def _one(self, number: int) -> None:
        give_up_at = time.monotonic() + ANSWER_WITHIN_S
        while not self._leave.wait(PAUSE_S):
            self._count(1)
            try:
                self.answers.append(self._press(number))
            except grpc.RpcError as error:
                refusal = refusal_of(error)
                if refusal.status not in NOT_NOW or time.monotonic() > give_up_at:
                    raise
                self.refusals.append(refusal)
            else:
                return
            finally:
                self._count(-1)

    def _count(self, calls: int) -> None:
        with self._turn:
            self.in_hand += calls
