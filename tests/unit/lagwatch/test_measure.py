"""The stories of one measurement, on a broker in memory."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from services.chassis.lag import Queue
from services.lagwatch.actions.measure import MeasureQueues
from services.lagwatch.ports import Reason
from tests.fakes.lagwatch import BoardOfLists, InMemoryQueues

NOW = datetime(2026, 11, 25, 8, 0, tzinfo=UTC)
LETTERS = Queue("mailer", "letters")
EVENTS = Queue("otp", "events")


def clock() -> datetime:
    return NOW


def measuring(broker: InMemoryQueues, board: BoardOfLists) -> MeasureQueues:
    return MeasureQueues([LETTERS, EVENTS], [], broker, board, clock)


def two_topics() -> InMemoryQueues:
    broker = InMemoryQueues()
    broker.create("letters", partitions=2)
    broker.create("events")
    for topic, partition in (("letters", 0), ("letters", 1), ("events", 0)):
        broker.commit("mailer" if topic == "letters" else "otp", topic, partition, 0)
    return broker


async def test_every_partition_of_every_queue_is_shown() -> None:
    broker, board = two_topics(), BoardOfLists()
    broker.append("letters", 0, NOW - timedelta(seconds=9), NOW - timedelta(seconds=5))
    broker.commit("mailer", "letters", 0, 1)
    broker.join("mailer", "letters")

    failures = await measuring(broker, board)()

    letters = board.latest(LETTERS)
    assert failures == frozenset()
    assert [part.messages for part in letters.partitions] == [1, 0]
    assert letters.partitions[0].oldest_at == NOW - timedelta(seconds=5)
    assert (letters.members, letters.measured_at, letters.is_complete) == (1, NOW, True)
    assert board.latest(EVENTS).members == 0


async def test_a_broker_that_is_away_is_a_reason_and_shows_nothing_new() -> None:
    broker, board = two_topics(), BoardOfLists()
    broker.broken = Reason.BROKER_AWAY

    failures = await measuring(broker, board)()

    assert failures == {Reason.BROKER_AWAY}
    assert board.shown == []


async def test_a_topic_that_does_not_exist_does_not_hide_the_others() -> None:
    broker, board = two_topics(), BoardOfLists()
    broker.delete("letters")

    failures = await measuring(broker, board)()

    assert failures == {Reason.TOPIC_UNKNOWN}
    assert [lag.queue for lag in board.shown] == [EVENTS]


async def test_a_partition_without_a_leader_does_not_hide_its_neighbours() -> None:
    broker, board = two_topics(), BoardOfLists()
    broker.leaderless.add(("letters", 0))
    broker.append("letters", 1, NOW)

    failures = await measuring(broker, board)()

    letters = board.latest(LETTERS)
    assert failures == {Reason.PARTITION_UNREADABLE}
    assert [part.partition for part in letters.partitions] == [1]
    assert letters.unmeasured == frozenset({0})
    assert not letters.is_complete


async def test_an_age_that_cannot_be_read_is_a_reason_and_the_lag_is_shown_all_the_same() -> None:
    broker, board = two_topics(), BoardOfLists()
    broker.append("letters", 0, NOW)
    broker.unreadable_heads.add(("letters", 0))

    failures = await measuring(broker, board)()

    assert failures == {Reason.AGE_UNKNOWN}
    assert board.latest(LETTERS).partitions[0].messages == 1


async def test_an_age_that_cannot_be_read_again_is_the_one_known_before_while_the_group_stands_still() -> None:
    broker, board = two_topics(), BoardOfLists()
    broker.append("letters", 0, NOW - timedelta(seconds=9))
    measure = measuring(broker, board)
    await measure()
    broker.unreadable_heads.add(("letters", 0))

    failures = await measure()

    assert failures == frozenset()
    assert board.latest(LETTERS).partitions[0].oldest_at == NOW - timedelta(seconds=9)


async def test_a_topic_made_anew_has_no_past() -> None:
    broker, board = two_topics(), BoardOfLists()
    broker.append("letters", 0, NOW - timedelta(seconds=9))
    measure = measuring(broker, board)
    await measure()
    broker.delete("letters")
    broker.create("letters")
    broker.append("letters", 0, NOW)
    broker.unreadable_heads.add(("letters", 0))

    await measure()

    assert board.latest(LETTERS).partitions[0].is_age_unknown


async def test_a_group_that_never_read_is_told_and_everything_waits_for_it() -> None:
    broker, board = InMemoryQueues(), BoardOfLists()
    broker.create("letters")
    broker.append("letters", 0, NOW - timedelta(seconds=9))

    failures = await MeasureQueues([LETTERS], [], broker, board, clock)()

    letters = board.latest(LETTERS)
    assert failures == {Reason.GROUP_UNKNOWN}
    assert (letters.partitions[0].messages, letters.is_complete, letters.is_doubtful) == (1, True, True)


@pytest.mark.parametrize("committed", [1, 9], ids=["deleted unread", "of another log"])
async def test_a_commit_that_the_log_does_not_hold_is_told_and_what_it_holds_waits(committed: int) -> None:
    broker, board = two_topics(), BoardOfLists()
    broker.append("letters", 0, *[NOW] * 5)
    broker.cut("letters", 0, before=3)
    broker.commit("mailer", "letters", 0, committed)

    failures = await measuring(broker, board)()

    assert failures == {Reason.OFFSET_OUT_OF_RANGE}
    assert board.latest(LETTERS).partitions[0].messages == 2
    assert board.latest(LETTERS).is_doubtful


async def test_what_was_measured_is_as_old_as_the_question_not_as_the_answer() -> None:
    broker, board = two_topics(), BoardOfLists()
    times = iter([NOW, NOW + timedelta(seconds=3)])

    await MeasureQueues([EVENTS], [], broker, board, lambda: next(times))()

    assert board.latest(EVENTS).measured_at == NOW
