"""Admission by what is really measured: offsets that are sampled, hand-overs that are heard of, people who come back.

A small world beside the queue of otp: letters of twelve partitions leave in the order in which they came, unless the
mailer is stopped or every letter is put off. Its only clock is turned by seconds.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import count, pairwise

import pytest
from kafka import errors

from services.otp.actions.admit import AdmitLetter
from services.otp.outbound.kafka_queue import Place
from services.otp.rules.outlook import Offsets
from services.otp.rules.quota import LetterAsked, Limits
from tests.fakes.otp import ring
from tests.fakes.otp_quotas import InMemoryQuotas
from tests.unit.otp.queue_office import TOPIC, Office, office

PARTITIONS = 12
PER_SECOND = 4
BLIND_AFTER_S = 15
D = 168
DEADLINE = timedelta(seconds=D)
PATIENCE = 180
"""As a quarter of an hour is to fourteen minutes."""


class World:
    """One lane, and the people who ask."""

    def __init__(self, otp: Office) -> None:
        self.otp = otp
        self.admit = AdmitLetter(
            InMemoryQuotas(otp.clock), otp.queue, Limits(), index_keys=ring("i1", 3), draw=lambda low, _: low
        )
        self.queue: deque[tuple[int, int]] = deque()
        """Partition and second of each letter that waits."""
        self.written: Counter[int] = Counter()
        self.left: Counter[int] = Counter()
        self.deferred = 0
        self.waited: list[int] = []
        self.refusals: Counter[int] = Counter()
        """By partition."""
        self.first_back: list[bool] = []
        """Whether those who came back for the first time were let in."""
        self.let_in: Counter[int] = Counter()
        self.shares: list[float] = []
        self.second = 0
        self._names = count()
        self._coming: list[tuple[float, int, int, int]] = []

    async def live(self, asking: int, *, stopped: bool = False, put_off: bool = False, blind: bool = False) -> None:
        """Live through a second in which so many come for the first time."""
        self.second += 1
        leaving = [] if stopped else [self.queue.popleft() for _ in range(min(PER_SECOND, len(self.queue)))]
        for partition, since in leaving:
            self.left[partition] += 1
            self.waited.append(self.second - since)
        self.deferred += len(leaving) if put_off else 0
        if blind:
            self.otp.broker.failure = errors.KafkaConnectionError()
            with pytest.raises(errors.KafkaConnectionError):
                await self._sample(0)
        else:
            self.otp.broker.failure = None
            await self._sample(0 if put_off else len(leaving))
        for _ in range(asking):
            await self._ask(next(self._names), self.second, tries=0)
        while self._coming and self._coming[0][0] <= self.second:
            _, name, came, tries = heapq.heappop(self._coming)
            await self._ask(name, came, tries=tries)
        self.shares.append(self.admit.refusing(DEADLINE, self.otp.clock())[0])

    def add(self, partition: int, letters: int) -> None:
        """Let so many letters wait in a partition."""
        self.queue.extend([(partition, self.second)] * letters)
        self.written[partition] += letters

    def skew(self) -> None:
        """Let ten times as many letters wait in one partition as in each other one."""
        for _ in range(30):
            for partition in range(PARTITIONS):
                self.add(partition, 10 if partition == 0 else 1)

    async def ask_in(self, partition: int, who: str) -> None:
        """Let somebody ask whose letter would stand there."""
        ids = (f"c{who}-{number}" for number in count())
        await self._settle(next(each for each in ids if self.otp.queue.load(each).partition == partition), who)

    @property
    def turns(self) -> int:
        """How often refusing began or was over."""
        return sum((one > 0.05) is not (other > 0.05) for one, other in pairwise(self.shares))

    async def _sample(self, handed_over: int) -> None:
        places = {
            Place(TOPIC, number): Offsets(self.left[number], self.written[number]) for number in range(PARTITIONS)
        }
        self.otp.others = places | {Place("tier", 0): Offsets(0, self.deferred)}
        await self.otp.sample(self.left[0], self.written[0], handed_over=handed_over)

    async def _ask(self, name: int, came: int, *, tries: int) -> None:
        ids = [f"c{name}-{tries}-{number}" for number in range(2)]
        refused = await self._settle(min(ids, key=lambda each: self.otp.queue.load(each).told_wait), f"citizen-{name}")
        if tries == 1:
            self.first_back.append(refused is None)
        if refused is not None and (back := self.second + refused.total_seconds()) <= came + PATIENCE:
            heapq.heappush(self._coming, (back, name, came, tries + 1))

    async def _settle(self, challenge_id: str, who: str) -> timedelta | None:
        """Return how long they are to stay away."""
        letter = LetterAsked(challenge_id, who, "lan@example.vn", challenge_id, DEADLINE)
        refused = await self.admit(self.otp.clock()).settle(letter)
        partition = self.otp.queue.load(challenge_id).partition
        if refused is not None:
            self.refusals[partition] += 1
            return refused.retry_after
        self.let_in[partition] += 1
        self.add(partition, 1)
        return None


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    async with office() as otp:
        yield World(otp)


async def test_idle_and_when_a_crowd_comes_after_a_calm_nobody_is_refused() -> None:
    async with world() as it:
        for second in range(300):
            await it.live(int(second % 25 == 0))
        for _ in range(D // 12):
            await it.live(3 * PER_SECOND)

        assert set(it.shares) == {0.0}
        assert it.let_in.total() == 12 + D // 12 * 3 * PER_SECOND


async def test_in_a_surge_that_no_queue_can_serve_admission_begins_once_and_whoever_is_let_in_is_served() -> None:
    async with world() as it:
        for _ in range(2 * D):
            await it.live(3 * PER_SECOND)
        served = len(it.waited)
        for _ in range(2 * D):
            await it.live(0)

        assert it.refusals.total() > 0
        assert max(it.waited) < D
        assert served >= 0.95 * PER_SECOND * 2 * D
        assert it.turns <= 4
        assert it.shares[-1] < 0.01
        assert sum(it.first_back) >= 0.5 * len(it.first_back)


async def test_in_a_surge_of_five_minutes_that_the_queue_can_serve_nobody_is_refused() -> None:
    async with world() as it:
        for _ in range(D * 5 // 14):
            await it.live(3 * PER_SECOND)
        for _ in range(D):
            await it.live(1)

        assert it.refusals.total() == 0
        assert 0.6 * D < max(it.waited) < 0.75 * D


async def test_a_consumer_that_stops_ends_admission_for_as_long_as_it_stands() -> None:
    async with world() as it:
        for _ in range(D // 4):
            await it.live(2 * PER_SECOND)
        for _ in range(D):
            await it.live(1, stopped=True)  # so few that the queue stays short
        let_in = it.let_in.total()
        for _ in range(D // 4):
            await it.live(1, stopped=True)
        meanwhile = it.let_in.total() - let_in
        for _ in range(2 * D):
            await it.live(PER_SECOND // 2)

        assert meanwhile == 0
        assert it.shares[-1] < 0.01
        assert it.turns <= 2


async def test_when_every_letter_is_put_off_admission_ends_and_is_back_when_letters_leave_again() -> None:
    async with world() as it:
        for _ in range(D // 4):
            await it.live(2 * PER_SECOND)
        for _ in range(D):
            await it.live(PER_SECOND, put_off=True)
        share = it.shares[-1]
        it.deferred = 0
        for _ in range(2 * D):
            await it.live(PER_SECOND // 2)

        assert share > 0.9
        assert it.shares[-1] < 0.01
        assert it.turns <= 2


async def test_blind_for_a_while_in_a_surge_everybody_is_let_in_and_with_sight_it_refuses_again() -> None:
    async with world() as it:
        for _ in range(D):
            await it.live(3 * PER_SECOND)
        seeing = it.refusals.total()
        for _ in range(BLIND_AFTER_S + 5):
            await it.live(3 * PER_SECOND, blind=True)
        blind = it.shares[-1]
        for _ in range(D // 2):
            await it.live(3 * PER_SECOND)
        seeing_again = it.shares[-1]
        for _ in range(2 * D):
            await it.live(0)

        assert seeing > 0
        assert blind < 0.5
        assert seeing_again > 0.5
        assert it.turns <= 6
        assert max(it.waited) < 1.2 * D  # five seconds blind, in which everybody who asks is let in


async def test_of_partitions_ten_to_one_the_long_one_refuses_and_the_short_ones_do_not() -> None:
    async with world() as it:
        it.skew()
        for _ in range(30):
            await it.live(0)
            for partition in (0, 1):
                await it.ask_in(partition, f"citizen-{it.second}")

        assert it.refusals[0] > 0.5 * 30
        assert (it.refusals[1], it.let_in[1]) == (0, 30)


async def test_of_partitions_ten_to_one_people_are_put_where_they_need_not_wait_so_long() -> None:
    async with world() as it:
        it.skew()
        for _ in range(30):
            await it.live(PER_SECOND)

        assert it.refusals.total() <= 0.02 * it.let_in.total()
        assert it.let_in[0] <= 0.02 * it.let_in.total()
