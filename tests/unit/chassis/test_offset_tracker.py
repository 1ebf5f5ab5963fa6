"""Acknowledged is always a settled prefix: stated by example, then for any history."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from services.chassis.offset_tracker import OffsetTracker, Slot

PARTITIONS = (0, 1, 2)
WINDOW = 6


def offsets(slots: list[Slot]) -> list[int]:
    return [slot.offset for slot in slots]


def test_a_record_that_settles_in_turn_is_acknowledged_at_once() -> None:
    tracker = OffsetTracker(WINDOW)
    first = tracker.take(0, 7, "carried")

    ready = tracker.settle(first)

    assert [(slot.offset, slot.carried) for slot in ready] == [(7, "carried")]
    assert len(tracker) == 0


def test_a_record_that_settles_early_waits_for_those_before_it() -> None:
    tracker = OffsetTracker(WINDOW)
    first, second, third = (tracker.take(0, offset) for offset in (1, 2, 3))

    assert tracker.settle(second) == []
    assert tracker.settle(third) == []
    assert len(tracker) == 3
    assert offsets(tracker.settle(first)) == [1, 2, 3]


def test_partitions_do_not_wait_for_each_other() -> None:
    tracker = OffsetTracker(WINDOW)
    tracker.take(0, 1)
    other = tracker.take(1, 1)

    assert offsets(tracker.settle(other)) == [1]


def test_a_record_of_an_earlier_assignment_is_never_acknowledged() -> None:
    tracker = OffsetTracker(WINDOW)
    old = tracker.take(0, 1)
    left = tracker.give_up()
    again = tracker.take(0, 1)

    assert left == [old]
    assert tracker.settle(old) == []
    assert offsets(tracker.settle(again)) == [1]


def test_the_window_is_counted_in_offsets_from_the_oldest_in_hand() -> None:
    tracker = OffsetTracker(3)
    first = tracker.take(0, 10)

    assert [tracker.has_room(0, offset) for offset in (11, 12, 13)] == [True, True, False]
    assert tracker.has_room(1, 1_000)
    tracker.settle(first)
    assert tracker.has_room(0, 13)


def test_offsets_may_have_gaps() -> None:
    tracker = OffsetTracker(WINDOW)
    first, second = tracker.take(0, 10), tracker.take(0, 14)

    tracker.settle(second)

    assert offsets(tracker.settle(first)) == [10, 14]


class Consumer(RuleBasedStateMachine):
    """A consumer that takes in rising order, settles in any order, and loses its assignment at any time."""

    taken: Bundle[Slot] = Bundle("taken")

    def __init__(self) -> None:
        super().__init__()
        self.tracker = OffsetTracker(WINDOW)
        self.next = dict.fromkeys(PARTITIONS, 0)
        self.in_hand: dict[int, list[Slot]] = {partition: [] for partition in PARTITIONS}
        self.settled: set[tuple[int, int]] = set()
        self.acknowledged: dict[int, int] = dict.fromkeys(PARTITIONS, -1)

    @rule(target=taken, partition=st.sampled_from(PARTITIONS), gap=st.integers(0, 2))
    def take(self, partition: int, gap: int) -> Any:
        """Take the next record if there is room, as the inbox does."""
        offset = self.next[partition] + gap
        hand = self.in_hand[partition]
        room = self.tracker.has_room(partition, offset)
        assert room == (not hand or offset - hand[0].offset < WINDOW)
        if not room:
            return self.spare()
        slot = self.tracker.take(partition, offset, carried=(partition, offset))
        hand.append(slot)
        self.next[partition] = offset + 1
        return slot

    def spare(self) -> Slot:
        """Return a slot of no assignment: settling it must do nothing."""
        return Slot(0, 0, epoch=-1)

    @rule(slot=consumes(taken))
    def settle(self, slot: Slot) -> None:
        """Settle any record that was ever taken, of this assignment or an earlier one."""
        ready = self.tracker.settle(slot)

        if slot.epoch == self.tracker.epoch:
            self.settled.add((slot.partition, slot.offset))
        else:
            assert ready == []
        for each in ready:
            assert each.epoch == self.tracker.epoch, "an older assignment was acknowledged"
            assert each is self.in_hand[each.partition].pop(0), "not the oldest in hand"
            assert (each.partition, each.offset) in self.settled, "acknowledged before it settled"
            assert each.offset > self.acknowledged[each.partition], "went back"
            self.acknowledged[each.partition] = each.offset

    @rule()
    def give_up(self) -> None:
        """Lose the assignment: whoever comes next starts after what was acknowledged."""
        left = self.tracker.give_up()

        assert sorted(map(id, left)) == sorted(id(slot) for hand in self.in_hand.values() for slot in hand)
        self.in_hand = {partition: [] for partition in PARTITIONS}
        self.settled.clear()
        self.next = {partition: acknowledged + 1 for partition, acknowledged in self.acknowledged.items()}

    @precondition(lambda self: any(self.in_hand.values()))
    @rule(data=st.data())
    def settle_everything(self, data: st.DataObject) -> None:
        """Settle all that is in hand, in any order: then nothing is left over."""
        waiting = [slot for hand in self.in_hand.values() for slot in hand if not slot.settled]
        for slot in data.draw(st.permutations(waiting)):
            self.settle(slot)
        assert len(self.tracker) == 0

    @invariant()
    def nothing_that_may_be_acknowledged_waits(self) -> None:
        """Only what has an unsettled record before it is held back."""
        assert len(self.tracker) == sum(map(len, self.in_hand.values()))
        assert all(not hand[0].settled for hand in self.in_hand.values() if hand)

    @invariant()
    def the_window_is_respected(self) -> None:
        """From the oldest to the newest in hand there are fewer offsets than the window."""
        assert all(hand[-1].offset - hand[0].offset < WINDOW for hand in self.in_hand.values() if hand)


TestAnyHistory = Consumer.TestCase
TestAnyHistory.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
