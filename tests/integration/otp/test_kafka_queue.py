"""The mailer's queue on a real broker: places while it answers, nothing while it does not, and places again."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from contextlib import AsyncExitStack
from datetime import UTC, datetime

import pytest

from deploy.dev.kafka_broker import KafkaBroker
from services.otp.outbound.kafka_queue import KafkaQueue
from services.otp.ports import Position
from services.otp.rules.outlook import Outlook
from tests.conditions import eventually
from tests.integration.otp.mail_lane import PARTITIONS, MailLane, mail_lane

PATIENCE_S = 60
BLIND_WITHIN_S = 20
STEP_S = 0.1

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.usefixtures("rubbish_collected"),
    # kafka-python leaves the sockets of attempts that failed to the garbage collector.
    pytest.mark.filterwarnings("ignore:.*socket:pytest.PytestUnraisableExceptionWarning"),
]


def place_of(queue: KafkaQueue, position: Position) -> int | None:
    return queue.outlook(position, datetime.now(UTC)).place


async def see(queue: KafkaQueue, position: Position, place: int | None, *, within_s: float = PATIENCE_S) -> None:
    await eventually(lambda: place_of(queue, position) == place, within_s=within_s, what=f"place {place} of {position}")


async def test_each_of_a_hundred_letters_has_its_place_behind_what_the_mailer_has_done(lane: MailLane) -> None:
    positions = await lane.ask_for(100)
    ends = Counter(position.partition for position in positions)
    assert set(ends) == set(range(PARTITIONS))
    done = {0: 0, 1: 3, 2: ends[2]}
    await lane.commit(done)

    async with lane.sampled() as queue:
        await see(queue, Position(0, 0), 0)

        places = {position: place_of(queue, position) for position in positions}

    assert places == {each: max(0, each.offset - done.get(each.partition, 0)) for each in positions}


async def test_a_letter_that_was_just_asked_for_has_its_place_at_once_and_moves_up(lane: MailLane) -> None:
    await lane.commit(dict.fromkeys(range(PARTITIONS), 0))
    async with lane.sampled() as queue:
        await see(queue, Position(0, 0), 0)

        (position, *_) = sorted(await lane.ask_for(40), key=lambda each: -each.offset)

        assert place_of(queue, position) == position.offset > 0
        await lane.commit({position.partition: position.offset - 1})
        await see(queue, position, 1)
        await lane.commit({position.partition: position.offset + 1})
        await see(queue, position, 0)


async def test_before_the_mailer_has_ever_run_the_first_letter_is_the_next(lane: MailLane) -> None:
    (position,) = await lane.ask_for(1)
    async with lane.sampled() as queue:
        await see(queue, position, 0)

        await lane.commit({position.partition: 1})

        await see(queue, Position(position.partition, 3), 2)
    assert lane.failures() == 0


async def test_a_backlog_that_moves_has_a_time_of_departure_and_one_that_stops_has_none(lane: MailLane) -> None:
    positions = await lane.ask_for(1_000)
    last = max(positions, key=lambda each: (each.partition == 0, each.offset))
    await lane.commit(dict.fromkeys(range(PARTITIONS), 0))
    async with lane.sampled() as queue:
        await see(queue, last, last.offset)
        done = await _mail_until_a_time_is_known(lane, queue, last)
        now = datetime.now(UTC)
        told = queue.outlook(last, now)
        assert told.place is not None
        assert told.leaves_at is not None
        assert told.leaves_at.microsecond == 0
        predicted_s = (told.leaves_at - now).total_seconds()
        rate = PARTITIONS / STEP_S  # at most: a machine that is busy with other things mails more slowly
        assert predicted_s >= 0.9 * told.place * PARTITIONS / rate

        await eventually(
            lambda: queue.outlook(last, datetime.now(UTC)).leaves_at is None, within_s=PATIENCE_S, what="no time"
        )

        assert place_of(queue, last) == last.offset - done


async def test_the_wait_of_the_next_letter_counts_what_the_producer_put_before_it_and_what_waits_in_tiers(
    lane: MailLane,
) -> None:
    positions = await lane.ask_for(1_000)
    last = max(positions, key=lambda each: (each.partition == 0, each.offset))
    waiting = Counter(position.partition for position in positions)
    await lane.commit(dict.fromkeys(range(PARTITIONS), 0))
    async with lane.sampled() as queue:
        assert queue.load("anybody").wait is None
        await see(queue, last, last.offset)
        done = await _mail_until_a_time_is_known(lane, queue, last)
        await eventually(lambda: place_of(queue, last) == last.offset - done, within_s=PATIENCE_S, what="a look")
        before = queue.load("anybody")
        rate = before.per_second
        assert rate is not None
        ahead = sum(min(waiting[before.partition], waiting[number]) - done for number in range(PARTITIONS))
        assert before.wait is not None
        assert before.wait.total_seconds() == pytest.approx(ahead / rate, rel=0.3)

        await lane.put_off(500)
        queue.unpublished(500)

        def load_s() -> float:
            load = queue.load("anybody")
            return load.wait.total_seconds() * (load.per_second or 0) if load.wait is not None else 0.0

        await eventually(lambda: load_s() >= ahead + 999, within_s=PATIENCE_S, what="what waits elsewhere counts")


async def _mail_until_a_time_is_known(lane: MailLane, queue: KafkaQueue, letter: Position) -> int:
    """Mail one letter of each partition at a time; return how many of each were mailed."""
    deadline = time.monotonic() + PATIENCE_S
    done = 0
    while queue.outlook(letter, datetime.now(UTC)).leaves_at is None:
        assert time.monotonic() < deadline, "nobody learns how fast letters leave"
        assert done < letter.offset - 1, "the letter left before its time was known"
        done += 1
        await asyncio.gather(lane.commit(dict.fromkeys(range(PARTITIONS), done)), asyncio.sleep(STEP_S))
        for _ in range(PARTITIONS):
            queue.handed_over(datetime.now(UTC))
    return done


async def test_while_the_broker_is_stopped_nothing_is_known_and_everything_when_it_is_back(
    private: KafkaBroker,
) -> None:
    async with mail_lane(private.address) as lane:
        (position,) = await lane.ask_for(1)
        await lane.commit({position.partition: 0})
        async with lane.sampled() as queue:
            await see(queue, position, 0)

            await asyncio.to_thread(private.stop)
            assert place_of(queue, position) == 0, "what is fresh is told"
            await see(queue, position, None, within_s=BLIND_WITHIN_S)
            assert queue.outlook(position, datetime.now(UTC)) == Outlook()
            assert lane.failures() > 0
            assert (lane.registry.get_sample_value("otp_queue_sample_age_seconds") or 0) > 15

            await asyncio.to_thread(private.start)
            await see(queue, position, 0)


async def test_a_broker_that_is_not_there_at_the_start_is_found_later(private: KafkaBroker) -> None:
    async with mail_lane(private.address) as lane:
        (position,) = await lane.ask_for(1)
        await lane.commit({position.partition: 0})
        await asyncio.to_thread(private.stop)

        async with lane.sampled() as queue:
            await eventually(lambda: lane.failures() > 0, within_s=PATIENCE_S, what="it has tried")
            assert queue.outlook(position, datetime.now(UTC)) == Outlook()

            await asyncio.to_thread(private.start)
            await see(queue, position, 0)


async def test_a_silent_broker_holds_up_neither_an_answer_nor_the_end(private: KafkaBroker) -> None:
    async with mail_lane(private.address) as lane:
        (position,) = await lane.ask_for(1)
        await lane.commit({position.partition: 0})
        async with AsyncExitStack() as parts:
            queue = await parts.enter_async_context(lane.sampled())
            await see(queue, position, 0)

            os.kill(private.pid, signal.SIGSTOP)  # takes connections in, and says nothing
            try:
                failed = lane.failures()
                await eventually(lambda: lane.failures() >= failed + 2, within_s=PATIENCE_S, what="it gives up twice")
                asked = time.monotonic()
                queue.outlook(position, datetime.now(UTC))
                assert time.monotonic() - asked < 0.1

                closing = time.monotonic()
                await parts.aclose()
                assert time.monotonic() - closing < 5
            finally:
                os.kill(private.pid, signal.SIGCONT)
