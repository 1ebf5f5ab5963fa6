"""Which partitions of an inbox are paused, what is held back in each, and whose turn is next.

A paused partition (`poison_limiter` says when) is left alone: its records are neither handled nor dead-lettered nor
acknowledged, and no more of them are fetched. Those that were fetched already are **held**, in the order of their
offsets; so are records in hand at that moment that turn out bad. One at a time is tried while half-open: the oldest. If
it is handled, all that is held goes on in order, and fetching when nothing is held any more. If it is bad it becomes a
dead letter, and the next one will be tried: so a fault of a sender, which no release of ours can mend, is passed at a
known pace, and one of ours costs a dead letter each half minute, which `kip-dead` puts back.

What is held is nowhere but in the topic: nothing was acknowledged, so after a crash, a stop or a rebalance whoever owns
the partition reads it again. A pause is remembered over a rebalance that brings the partition back, because each
rollout makes several, and forgotten with the process, because the next one may be mended.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import time
from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client import Gauge

from services.chassis.dead_letter import DeadKind
from services.chassis.offset_tracker import Slot
from services.chassis.poison_limiter import Limits, PoisonLimiter


class PartitionPauses:
    """The pauses of one inbox.

    Args:
        limits: when to pause, how often to try.
        paused: shows how many partitions are.
        changed: set by the inbox after anything that could make a held record's turn come.
        log: says which partition, and why.
        now: seconds.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        paused: Gauge,
        changed: asyncio.Event,
        log: Any,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits
        self._paused = paused
        self._changed = changed
        self._log = log
        self._now = now
        self._limiters: dict[int, PoisonLimiter] = {}
        self._held: dict[int, list[tuple[int, Slot]]] = {}
        self._tried: dict[int, Slot] = {}
        paused.set(0)

    def holds(self, partition: int) -> bool:
        """Say whether a record of the partition that comes now must wait for its turn."""
        return self.has_held(partition) or self._limiter(partition).is_paused

    def has_held(self, partition: int) -> bool:
        """Say whether records of the partition are held, so that no more of them need be fetched."""
        return partition in self._held

    def hold(self, slot: Slot) -> None:
        """Keep a record until its turn."""
        heapq.heappush(self._held.setdefault(slot.partition, []), (slot.offset, slot))

    def may_settle(self, slot: Slot, died_of: DeadKind | None) -> bool:
        """Judge a record that was handled (`None`) or can never be; when the answer is no, it is to be held.

        What was in hand when its partition was paused and then was handled, was handled.
        """
        limiter = self._limiter(slot.partition)
        if self._tried.get(slot.partition) is slot:
            del self._tried[slot.partition]
            if limiter.tried(handled=died_of is None, now=self._now()):
                self._show()
                self._log.warning("partition_runs_again", partition=slot.partition, offset=slot.offset)
            return True
        if limiter.is_paused:
            return died_of is None
        if limiter.note(fault=died_of is not None and died_of.is_deploy_fault, now=self._now()):
            self._show()
            self._log.error(
                "partition_paused",
                partition=slot.partition,
                offset=slot.offset,
                kind=died_of,
                faults=limiter.faults,
                among=self._limits.last,
            )
        return True

    async def turn(self, ready: Callable[[Slot], bool]) -> Slot:
        """Return the next held record whose turn has come and that is `ready`; it stays held until `begin`."""
        while True:
            due, wait = self._look(ready)
            if due is not None:
                return due
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._changed.wait()

    def begin(self, slot: Slot) -> bool:
        """Let go of a record that `turn` returned; return false when it is not its turn any more."""
        if self._turn_of(slot.partition) is not slot:
            return False
        held = self._held[slot.partition]
        heapq.heappop(held)
        if not held:
            del self._held[slot.partition]
        if self._limiter(slot.partition).is_paused:
            self._tried[slot.partition] = slot
            self._log.warning("partition_half_open", partition=slot.partition, offset=slot.offset)
        return True

    def give_up(self) -> None:
        """Forget what is held: it is not ours any more, or will be fetched again."""
        self._held.clear()
        self._tried.clear()
        self._paused.set(0)

    def keep(self, partitions: Iterable[int]) -> None:
        """Remember the pauses of the partitions that are ours from here on, and of no other."""
        self._limiters = {partition: self._limiter(partition) for partition in partitions}
        self._show()

    def _look(self, ready: Callable[[Slot], bool]) -> tuple[Slot | None, float | None]:
        """Return whose turn it is, or how many seconds to wait for the next one to be tried (`None` = no such)."""
        waits = []
        for partition, held in self._held.items():
            slot = self._turn_of(partition)
            if slot is not None and ready(slot):
                return slot, None
            if held and partition not in self._tried and (wait := self._limiter(partition).wait(self._now())):
                waits.append(wait)
        return None, min(waits, default=None)

    def _turn_of(self, partition: int) -> Slot | None:
        held = self._held.get(partition)
        if not held or partition in self._tried or self._limiter(partition).wait(self._now()) > 0:
            return None
        return held[0][1]

    def _limiter(self, partition: int) -> PoisonLimiter:
        return self._limiters.setdefault(partition, PoisonLimiter(self._limits))

    def _show(self) -> None:
        self._paused.set(sum(limiter.is_paused for limiter in self._limiters.values()))
