"""Which offsets may be acknowledged: the arithmetic of `ordered_inbox`, without a broker.

For each partition the records in hand stand in a queue in the order of their offsets. A record that settles is marked;
the marked head of the queue, and only that, may be acknowledged. So an acknowledged offset implies that every lower one
has settled, whatever the order in which they did. One epoch is one assignment: a slot of an earlier one never yields an
acknowledgement.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class Slot:
    """One record in hand."""

    partition: int
    offset: int
    epoch: int
    carried: Any = None
    settled: bool = False


class OffsetTracker:
    """Which records of the current assignment are in hand, and which may be acknowledged now."""

    def __init__(self, window: int) -> None:
        """Start with nothing assigned; `window` ≥ 1 is counted in offsets."""
        self._window = window
        self._in_hand: dict[int, deque[Slot]] = {}
        self.epoch = 0
        """Grows with each assignment; what was taken in an earlier one is nobody's business any more."""

    def has_room(self, partition: int, offset: int) -> bool:
        """Say whether taking `offset` keeps the partition within its window."""
        slots = self._in_hand.get(partition)
        return not slots or offset - slots[0].offset < self._window

    def take(self, partition: int, offset: int, carried: Any = None) -> Slot:
        """Note that a record is in hand; offsets of a partition come in rising order."""
        slot = Slot(partition, offset, self.epoch, carried)
        self._in_hand.setdefault(partition, deque()).append(slot)
        return slot

    def settle(self, slot: Slot) -> list[Slot]:
        """Note that a record has settled; return those whose turn to be acknowledged has come, in order."""
        slot.settled = True
        if slot.epoch != self.epoch:
            return []
        slots = self._in_hand[slot.partition]
        ready = []
        while slots and slots[0].settled:
            ready.append(slots.popleft())
        return ready

    def give_up(self) -> list[Slot]:
        """Begin a new epoch with nothing in hand; return what was, none of it to be acknowledged."""
        left = [slot for slots in self._in_hand.values() for slot in slots]
        self._in_hand.clear()
        self.epoch += 1
        return left

    def __len__(self) -> int:
        """Count the records in hand that are not acknowledged."""
        return sum(len(slots) for slots in self._in_hand.values())
