"""The wait of a letter that is asked for now, from samples: what admission goes by."""

from __future__ import annotations

from datetime import timedelta

from services.otp.outbound.kafka_queue import LOOK_AGAIN, Place
from services.otp.rules.admission import Load
from services.otp.rules.outlook import Offsets
from tests.unit.otp.queue_office import TOPIC, office


async def test_idle_there_is_no_wait_and_no_rate_and_nothing_is_divided_by_nothing() -> None:
    async with office() as it:
        for _ in range(5):
            await it.sample(0, 0)

        assert it.queue.load("c00") == Load(timedelta(0))


async def test_before_the_first_sample_and_after_15_s_without_one_the_wait_is_unknown() -> None:
    async with office() as it:
        assert it.queue.load("c00").wait is None
        await it.surge(each=4)
        known = it.queue.load("c00")
        it.clock.pass_by(timedelta(seconds=15))
        assert it.queue.load("c00").wait is not None

        it.clock.pass_by(LOOK_AGAIN)

        assert known.wait == timedelta(seconds=(9_999 - 44) / 4)
        assert it.queue.load("c00") == Load(None, 0, 4.0)


async def test_letters_in_tiers_and_in_the_outbox_wait_before_the_next() -> None:
    async with office() as it:
        await it.surge(each=4)
        it.others = {Place("tier", 0): Offsets(0, 300), Place("tier", 1): Offsets(50, 150)}
        it.queue.unpublished(200)

        await it.sample(48, 9_999, handed_over=4)

        assert it.queue.load("c00").wait == timedelta(seconds=(9_999 - 48 + 400 + 200) / 4)
        assert it.queue.load("c00").unpublished == 200
        assert it.outlook(48 + 400) == (400, 200)  # what is in the outbox comes after a letter that is published


async def test_when_every_letter_is_put_off_the_wait_grows_and_never_reads_nothing() -> None:
    """Both relays answer 451: the main topic empties into the tiers, and nothing is handed over."""
    async with office() as it:
        await it.surge(each=4)
        waits = []
        for second in range(60):
            it.others = {Place("tier", 0): Offsets(0, 200 * second)}
            await it.sample(min(48 + 200 * second, 9_999), 9_999 + 2 * second)
            wait = it.queue.load("c00").wait
            assert wait is not None
            waits.append(wait)

        assert min(waits) > timedelta(seconds=2_000)
        assert waits[-1] > waits[0]
        assert it.outlook(10_100)[1] is None


async def test_when_the_mailer_stops_the_wait_grows_with_the_clock_and_no_eta_is_told() -> None:
    async with office() as it:
        await it.surge(each=4)
        for _ in range(60):
            await it.sample(44, 9_999)

        stopped = it.queue.load("c00").wait
        it.clock.pass_by(timedelta(seconds=5))

        assert stopped is not None
        assert stopped > timedelta(seconds=60 + (9_999 - 44) / 4)
        assert it.queue.load("c00").wait == stopped + timedelta(seconds=5)
        assert it.outlook(400) == (356, None)


async def test_behind_a_short_partition_the_wait_is_shorter_than_behind_one_ten_times_as_long() -> None:
    async with office() as it:
        it.others = {Place(TOPIC, number): Offsets(0, 1_000) for number in range(1, 12)}
        await it.surge(each=4)
        by_partition: dict[int, timedelta] = {}
        for number in range(400):
            load = it.queue.load(f"c{number}")
            assert load.wait is not None
            by_partition[load.partition] = load.wait

        assert set(by_partition) == set(range(12))
        assert by_partition[0] == timedelta(seconds=(9_955 + 11 * 1_000) / 4)
        assert {by_partition[number] for number in range(1, 12)} == {timedelta(seconds=12 * 1_000 / 4)}


async def test_how_little_left_while_few_asked_is_no_pace_to_refuse_people_by() -> None:
    async with office() as it:
        for second in range(60):
            await it.sample(second // 30, second // 30, handed_over=second % 30 == 0)
        told = []
        for second in range(1, 9):
            await it.sample(2 + 4 * max(0, second - 4), 2 + 15 * second, handed_over=4 if second > 4 else 0)
            told.append(it.queue.load("c00"))

        assert all(load.wait is not None and load.wait <= timedelta(seconds=9) for load in told)
        assert it.outlook(100)[1] is None


async def test_a_partition_that_seems_to_stand_while_others_move_is_as_long_as_it_is() -> None:
    async with office() as it:
        it.others = {Place(TOPIC, 1): Offsets(0, 100)}
        await it.surge(60, each=4)
        by_partition = {it.queue.load(f"c{number}").partition: it.queue.load(f"c{number}").wait for number in range(99)}

        assert by_partition[1] == timedelta(seconds=(100 + 100) / 4)
