"""Sampling the mailer's queue: what a failed sample leaves, when the client is opened anew, and what the rate is of."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from kafka import TopicPartition, errors
from kafka.admin import OffsetSpec
from kafka.structs import OffsetAndMetadata, OffsetAndTimestamp
from structlog.testing import capture_logs

from services.otp.outbound.kafka_queue import AdminReader, Place
from services.otp.ports import Position
from services.otp.rules.outlook import Offsets, Outlook
from tests.conditions import eventually
from tests.unit.otp.queue_office import TOPIC, office

AWAY = errors.KafkaConnectionError("away")
OTHER = "notices"


async def test_before_the_first_sample_nothing_is_known() -> None:
    async with office() as it:
        it.clock.pass_by(timedelta(seconds=3))

        assert it.queue.outlook(Position(0, 10), it.clock()) == Outlook()
        assert it.number("otp_queue_sample_age_seconds") == 3


async def test_without_a_position_nothing_is_known() -> None:
    async with office() as it:
        await it.sample(10, 10)

        assert it.queue.outlook(None, it.clock()) == Outlook()
        assert it.outlook(10) == (0, 0)


async def test_the_time_of_departure_is_a_whole_second_of_the_askers_clock() -> None:
    async with office() as it:
        await it.sample(10, 10)
        elsewhere = it.clock() + timedelta(minutes=7, milliseconds=300)

        told = it.queue.outlook(Position(0, 10), elsewhere)

        assert told == Outlook(0, it.clock() + timedelta(minutes=7, seconds=1))


async def test_a_sample_that_fails_leaves_the_one_before_which_grows_old() -> None:
    async with office() as it:
        await it.sample(10, 20)
        it.broker.failure = AWAY
        it.clock.pass_by(timedelta(seconds=15))

        with pytest.raises(errors.KafkaConnectionError):
            await it.queue.sample()

        assert it.outlook(15)[0] == 5
        assert it.number("otp_queue_sample_age_seconds") == 15
        assert it.number("otp_queue_sample_failures_total") == 1
        it.clock.pass_by(timedelta(milliseconds=1))
        assert it.outlook(15) == (None, None)


async def test_a_sample_is_as_old_as_the_question_however_late_the_answer() -> None:
    async with office() as it:
        it.broker.asked = lambda: it.clock.pass_by(timedelta(seconds=2))

        await it.queue.sample()

        assert it.number("otp_queue_sample_age_seconds") == 2


async def test_a_client_that_works_is_used_again_and_one_that_failed_is_thrown_away() -> None:
    async with office() as it:
        for _ in range(3):
            await it.queue.sample()
        assert (it.broker.opened, it.broker.closed) == (1, 0)

        it.broker.failure = AWAY
        with pytest.raises(errors.KafkaConnectionError):
            await it.queue.sample()
        it.broker.failure = None
        await it.queue.sample()

        assert (it.broker.opened, it.broker.closed) == (2, 1)
    assert it.broker.closed == 2


@pytest.mark.parametrize("failure", [AWAY, OSError("reset"), ZeroDivisionError("a bug of ours")], ids=repr)
async def test_nothing_ends_the_sampling_and_after_trouble_the_pauses_grow(failure: Exception) -> None:
    async with office() as it:
        it.broker.failure = failure
        pauses: list[float] = []

        async def pause(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 15:
                it.broker.failure = None
            await asyncio.sleep(0)

        with capture_logs() as logs:
            sampling = asyncio.create_task(it.queue.sample_for_ever(pause))
            try:
                await eventually(lambda: len(pauses) > 20, what="it has failed 15 times, and works again")
            finally:
                sampling.cancel()

        assert it.outlook(10) == (0, 0)
        assert max(pauses[:3]) < max(pauses[3:15]) <= 5
        assert set(pauses[15:]) == {1.0}
        assert it.number("otp_queue_sample_failures_total") == 15
        tracebacks = [log for log in logs if log.get("exc_info")]
        assert len(tracebacks) == (15 if isinstance(failure, ZeroDivisionError) else 0)


async def test_the_rate_is_learnt_in_a_backlog_and_tells_when_a_letter_leaves() -> None:
    async with office() as it:
        await it.surge(each=4)

        assert it.outlook(44 + 400) == (400, 100)


async def test_one_of_three_that_hear_of_hand_overs_reckons_with_three_times_as_many() -> None:
    async with office(share=3.0) as it:
        await it.surge(each=4)

        assert it.outlook(44 + 1_200) == (1_200, 100)


async def test_who_hears_of_no_hand_overs_learns_nothing_and_keeps_what_it_knew() -> None:
    async with office() as it:
        it.share = 0.0
        await it.surge(each=4)
        assert it.outlook(44 + 400) == (400, None)

        it.share = 1.0
        await it.sample(9_999, 9_999)
        await it.surge(each=4)
        it.share = 0.0
        await it.sample(48, 9_999)
        assert it.outlook(48 + 400) == (400, 100)


async def test_the_rate_is_kept_while_idle() -> None:
    async with office() as it:
        await it.surge(each=4)
        for _ in range(100):
            await it.sample(9_999, 9_999, handed_over=1)

        await it.sample(9_999, 99_999)

        assert it.outlook(9_999 + 400) == (400, 100)


async def test_hand_overs_of_an_idle_second_do_not_count_for_a_busy_one() -> None:
    async with office() as it:
        for _ in range(30):
            await it.sample(0, 0, handed_over=100)

        await it.surge(each=4)

        assert it.outlook(44 + 400) == (400, 100)


async def test_news_of_hand_overs_long_ago_teaches_nothing() -> None:
    async with office() as it:
        for _ in range(1_000):
            it.queue.handed_over(it.clock() - timedelta(seconds=30, milliseconds=1))
        await it.surge(each=4)
        for _ in range(10):
            it.queue.handed_over(it.clock() - timedelta(seconds=31))
        await it.sample(48, 9_999, handed_over=4)

        assert it.outlook(48 + 400) == (400, 100)


class ScriptedAdmin:
    """Stands in for kafka-python's admin client: offsets where work resumes, where logs begin and where they end."""

    def __init__(
        self,
        committed: Mapping[TopicPartition, int],
        ends: Mapping[TopicPartition, int],
        begins: Mapping[TopicPartition, int] | None = None,
    ) -> None:
        self._committed = committed
        self._told = {OffsetSpec.LATEST: ends, OffsetSpec.EARLIEST: begins or {}}
        self.asked: list[Any] = []

    def list_group_offsets(self, groups: list[str]) -> dict[str, dict[TopicPartition, OffsetAndMetadata]]:
        self.asked += groups
        told = {place: OffsetAndMetadata(offset, "", -1) for place, offset in self._committed.items()}
        return dict.fromkeys(groups, told)

    def describe_topics(self, topics: list[str]) -> list[dict[str, Any]]:
        told = self._told[OffsetSpec.LATEST]
        return [
            {
                "name": topic,
                "partitions": [{"partition_index": place.partition} for place in told if place.topic == topic],
            }
            for topic in topics
        ]

    def list_partition_offsets(
        self, specs: Mapping[TopicPartition, OffsetSpec], timeout_ms: int
    ) -> dict[TopicPartition, OffsetAndTimestamp]:
        assert timeout_ms > 0
        self.asked += [(which, place) for place, which in specs.items()]
        return {place: OffsetAndTimestamp(self._told[which][place], -1, None) for place, which in specs.items()}


def test_partitions_of_the_topic_are_read_and_the_ends_last() -> None:
    first, second, foreign = TopicPartition(TOPIC, 0), TopicPartition(TOPIC, 7), TopicPartition(OTHER, 1)
    admin = ScriptedAdmin({first: 3, foreign: 4, second: 5}, {first: 9, second: 5})

    assert AdminReader(admin, {TOPIC: "mailer"}).read() == {
        Place(TOPIC, 0): Offsets(3, 9),
        Place(TOPIC, 7): Offsets(5, 5),
    }
    assert admin.asked == ["mailer", (OffsetSpec.LATEST, first), (OffsetSpec.LATEST, second)]


def test_where_nothing_was_committed_the_mailer_begins_at_the_beginning() -> None:
    first, second, third = (TopicPartition(TOPIC, number) for number in range(3))
    admin = ScriptedAdmin({first: 3, second: -1}, {first: 9, second: 5, third: 4}, {second: 2, third: 0})

    read = AdminReader(admin, {TOPIC: "mailer"}).read()

    assert read == {
        Place(TOPIC, 0): Offsets(3, 9),
        Place(TOPIC, 1): Offsets(2, 5),
        Place(TOPIC, 2): Offsets(0, 4),
    }
    assert [which for which, _ in admin.asked[1:]] == [OffsetSpec.EARLIEST] * 2 + [OffsetSpec.LATEST] * 3


def test_a_commit_that_lies_beyond_the_end_tells_nothing() -> None:
    first, second = (TopicPartition(TOPIC, number) for number in range(2))
    admin = ScriptedAdmin({first: 8, second: 2}, {first: 5, second: 2})

    assert AdminReader(admin, {TOPIC: "mailer"}).read() == {Place(TOPIC, 1): Offsets(2, 2)}


def test_topics_are_read_each_for_its_group_in_one_go() -> None:
    main, tier, foreign = TopicPartition(TOPIC, 0), TopicPartition(OTHER, 0), TopicPartition("third", 0)
    admin = ScriptedAdmin({main: 3, tier: 4, foreign: 1}, {main: 9, tier: 5})

    read = AdminReader(admin, {TOPIC: "mailer", OTHER: "retry"}).read()

    assert read == {Place(TOPIC, 0): Offsets(3, 9), Place(OTHER, 0): Offsets(4, 5)}
    assert admin.asked[:2] == ["mailer", "retry"]
