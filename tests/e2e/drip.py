"""Citizens who come one after another, so many a second, whatever becomes of those before them."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType
from typing import Self

import grpc

from tests.e2e.portal import Citizen, Portal

HANDS = 16
LOOK_S = 0.2


class Drip:
    """A context manager: they come until it is left. `press_again` is the share of them who ask twice.

    Args:
        portal: whom they ask.
        per_second: how many come; may be changed at any time.
    """

    def __init__(self, portal: Portal, per_second: float = 0.0) -> None:
        self._portal = portal
        self._over = threading.Event()
        self._threads = ThreadPoolExecutor(HANDS)
        self._clock = threading.Thread(target=self._work)
        self.per_second = per_second
        self.press_again = 0.0

    def __enter__(self) -> Self:
        self._clock.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._clock.join()
        self._threads.shutdown(cancel_futures=True)

    def _work(self) -> None:
        owed = again = 0.0
        last = time.monotonic()
        while not self._over.wait(LOOK_S):
            now = time.monotonic()
            owed += (now - last) * self.per_second
            last = now
            while owed >= 1:
                owed -= 1
                again += self.press_again
                self._threads.submit(self._ask, 2 if again >= 1 else 1)
                again %= 1

    def _ask(self, times: int) -> None:
        citizen = Citizen("lan")
        for _ in range(times):
            with suppress(grpc.RpcError):  # otp is stopped, or waits for what is away
                self._portal.request(citizen)
