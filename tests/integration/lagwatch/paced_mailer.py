"""A mailer that hands over as many letters a second as it is told, and the lanes that a test keeps its own books of."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from tests.integration.lagwatch.real_queues import RealQueues, real_queues

TICK_S = 0.25


@dataclass
class Books:
    """What a test knows of one topic and its group: when each letter was asked for, and which have left, when."""

    group: str
    topic: str
    created: dict[int, list[datetime]]
    """By partition, in the order of their offsets."""
    left: dict[int, list[float]] = field(init=False)
    """When each letter left, by partition; those that are there from the start."""

    def __post_init__(self) -> None:
        self.left = {partition: [] for partition in self.created}

    def waiting(self, partition: int, at: float) -> int:
        """Count the letters that waited in a partition at a time."""
        return len(self.created[partition]) - sum(1 for when in self.left.get(partition, []) if when <= at)

    def backlog(self, at: float) -> int:
        """Count the letters that waited at a time."""
        return sum(self.waiting(partition, at) for partition in self.created)

    def oldest(self, at: float) -> float:
        """Return when the letter was asked for that had waited longest."""
        heads = [
            letters[len(letters) - count].timestamp()
            for partition, letters in self.created.items()
            if (count := self.waiting(partition, at))
        ]
        return min(heads)

    def gone(self, at: float) -> int:
        """Count the letters that had left at a time."""
        return sum(1 for partition in self.left.values() for when in partition if when <= at)

    def per_second(self, at: float) -> float:
        """Return how many have left a second, from the first one on."""
        times = sorted(when for partition in self.left.values() for when in partition if when <= at)
        return (len(times) - 1) / (times[-1] - times[0])


@dataclass
class _Job:
    """One lane and its pace."""

    books: Books
    deliveries: str
    per_second: float
    looked_at: float
    credit: float = 0
    """Letters that may leave."""


class PacedMailer:
    """Works on lanes in a thread of its own; takes turns over their partitions, as slots do."""

    def __init__(self, hands: RealQueues) -> None:
        self._hands = hands
        self._jobs: dict[str, _Job] = {}
        self._lock = threading.Lock()
        self._over = threading.Event()
        self.thread = threading.Thread(target=self._work)

    def start(self, books: Books, deliveries: str, per_second: float) -> None:
        """Hand over from now on, telling it on `deliveries`; what comes into the books later too."""
        with self._lock:
            self._jobs[books.topic] = _Job(books, deliveries, per_second, time.monotonic())

    def stop(self, books: Books) -> None:
        """Hand over no more, if it does."""
        with self._lock:
            self._jobs.pop(books.topic, None)

    def end(self) -> None:
        """End the thread."""
        self._over.set()
        self.thread.join()

    def _work(self) -> None:
        while not self._over.wait(TICK_S):
            with self._lock:
                for job in self._jobs.values():
                    now = time.monotonic()
                    job.credit += (now - job.looked_at) * job.per_second
                    job.looked_at = now
                    gone = self._hand_over(job.books, int(job.credit))
                    self._hands.hand_over(job.deliveries, gone)
                    job.credit = job.credit - gone if job.books.backlog(time.time()) else 0  # nobody saves up for later

    def _hand_over(self, books: Books, due: int) -> int:
        gone = 0
        moved: set[int] = set()
        while gone < due:
            turn = [partition for partition in books.created if books.waiting(partition, time.time())]
            for partition in turn[: due - gone]:
                books.left[partition].append(time.time())
                moved.add(partition)
                gone += 1
            if not turn:
                break
        for partition in moved:
            self._hands.commit(books.group, books.topic, partition, len(books.left[partition]))
        return gone


@contextmanager
def paced_mailer(address: str) -> Iterator[PacedMailer]:
    """Yield a mailer that works, and end it."""
    with real_queues(address) as hands:
        mailer = PacedMailer(hands)
        mailer.thread.start()
        try:
            yield mailer
        finally:
            mailer.end()
