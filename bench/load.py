"""The load generator, a process of its own: `python -m bench.load`, a plan on standard input, what it saw on output.

Closed loop: each of the calls in flight is followed by the next as soon as it is answered. CPU time is read at the
first and the last moment of a phase, by the generator itself, so that neither its start nor its connecting counts.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from bench.clients import DjangoSide, OtpSide, Side, Unexpected
from bench.cpu import cpu_seconds
from bench.sampling import start_sampling
from bench.store_records import with_second_generations

T = TypeVar("T")
R = TypeVar("R")

GUESSES = 4  # at each handle: the policy allows five
WARM_UP_S = 0.5
SAMPLED_WITHIN_S = 60  # py-spy reads symbols at its end


class Plan(msgspec.Struct, frozen=True):
    """What to do."""

    side: Literal["otp", "django"]
    address: str
    token: str
    in_flight: int
    seconds: float
    """Of each phase, at most."""
    first_person: int
    """Number of the first person who asks; nobody asks twice."""
    watched: dict[str, int]
    """Name → pid whose CPU time is read, with its descendants."""
    cores: list[int]
    """The generator's own."""
    warm_up_s: float = WARM_UP_S
    code_keys: str = ""
    """Of otp: the file that codes are derived with."""
    guess_in: str = ""
    """Of otp: URL of its Redis, to give challenges a second generation and then guess; empty: verify right codes."""
    samples_in: str = ""
    """Folder for the service's stacks, sampled in each phase: `requests.txt`, `verifications.txt`; empty: none."""


class Phase(msgspec.Struct, frozen=True):
    """What came of one kind of call."""

    calls: int
    seconds: float
    cpu_s: dict[str, float]
    p50_ms: float
    p99_ms: float


class Seen(msgspec.Struct, frozen=True):
    """What came of a plan."""

    requests: Phase
    verifications: Phase
    next_person: int


class Generator:
    """Makes the calls of one plan."""

    def __init__(self, plan: Plan, side: Side) -> None:
        self._plan = plan
        self._side = side
        self._people = count(plan.first_person)

    async def run(self) -> Seen:
        """Warm up, ask for codes, then type them."""
        warm, _ = await self._calls(self._side.request, self._people, self._plan.warm_up_s)
        await self._calls(self._side.verify, iter(warm), self._plan.warm_up_s)
        requests, made = await self._phase("requests", self._side.request, self._people)
        if self._plan.guess_in:
            await with_second_generations(self._plan.guess_in, [one.name.partition(".")[0] for one in made])
            verifications, _ = await self._phase("verifications", self._side.guess, iter(made * GUESSES))
        else:
            verifications, _ = await self._phase("verifications", self._side.verify, iter(made))
        return Seen(requests, verifications, next(self._people))

    async def _phase(self, name: str, call: Callable[[T], Awaitable[R]], of: Iterator[T]) -> tuple[Phase, list[R]]:
        with self._sampled(name):
            before = {watched: cpu_seconds(pid) for watched, pid in self._watched.items()}
            started = time.perf_counter()
            answers, latencies = await self._calls(call, of, self._plan.seconds)
            seconds = time.perf_counter() - started
            cpu = {watched: cpu_seconds(pid) - before[watched] for watched, pid in self._watched.items()}
        if not latencies:
            raise Unexpected(f"there was nothing to do for the phase of {name}")
        latencies.sort()
        median, late = (latencies[int(len(latencies) * share)] * 1000 for share in (0.5, 0.99))
        return Phase(len(latencies), seconds, cpu, median, late), answers

    @property
    def _watched(self) -> dict[str, int]:
        return self._plan.watched | {"generator": os.getpid()}

    @contextmanager
    def _sampled(self, name: str) -> Iterator[None]:
        if not self._plan.samples_in:
            yield
            return
        file = Path(self._plan.samples_in) / f"{name}.txt"
        sampling = start_sampling(self._plan.watched["service"], self._plan.seconds, file)
        try:
            yield
        finally:
            sampling.wait(SAMPLED_WITHIN_S)

    async def _calls(
        self, call: Callable[[T], Awaitable[R]], of: Iterator[T], seconds: float
    ) -> tuple[list[R], list[float]]:
        answers: list[R] = []
        latencies: list[float] = []
        deadline = time.perf_counter() + seconds

        async def one_after_another() -> None:
            while (started := time.perf_counter()) < deadline:
                try:
                    what = next(of)
                except StopIteration:
                    return
                answers.append(await call(what))
                latencies.append(time.perf_counter() - started)

        async with asyncio.TaskGroup() as group:
            for _ in range(self._plan.in_flight):
                group.create_task(one_after_another())
        return answers, latencies


async def carry_out(plan: Plan) -> Seen:
    """Make the calls of a plan.

    Raises:
        ExceptionGroup: of `Unexpected` answers, refusals, broken connections; a run with any of them measured nothing.
    """
    side: Side
    if plan.side == "otp":
        side = OtpSide(plan.address, plan.token, Path(plan.code_keys))
    else:
        side = DjangoSide(plan.address, plan.token, plan.in_flight)
    try:
        return await Generator(plan, side).run()
    finally:
        await side.close()


def main() -> None:
    """Read a plan, carry it out, write what was seen."""
    plan = msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)
    os.sched_setaffinity(0, plan.cores)
    seen = asyncio.run(carry_out(plan))
    sys.stdout.buffer.write(msgspec.json.encode(seen))


if __name__ == "__main__":
    main()
