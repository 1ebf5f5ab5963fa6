"""A partition full of deploy faults on a real broker: paused, tried, recovered, given back; and nothing is lost."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from kafka import KafkaAdminClient, TopicPartition

from deploy.create_topics import laptop
from services.chassis.dead_letter import DeadKind
from services.chassis.kafka_producer import Producer, producing
from services.chassis.poison_limiter import Limits
from services.chassis.record_fate import Poison, Record
from tests.conditions import eventually
from tests.integration.chassis.inbox_suite import AROUND_AN_INBOX, Server
from tests.integration.chassis.test_ordered_inbox import PATIENCE_S, PUBLISH_WITHIN, Post, Reader

NEVER = timedelta(hours=1)
MANY, PADDING = 2_000, b" " + b"x" * 2_000  # together several times what is fetched at once
STOP_WITHIN_S = 20  # far below the grace that the tests give, which a stop that waits for what is held would use up

pytestmark = AROUND_AN_INBOX


class Release(Reader):
    """A handler that has no template for what is bad, until it is mended."""

    def __init__(self, *, mended: bool = False, takes_s: float = 0) -> None:
        super().__init__()
        self.mended = mended
        self.takes_s = takes_s

    async def __call__(self, record: Record) -> None:
        """Handle it, or call it dead."""
        await asyncio.sleep(self.takes_s)
        if record.value.startswith(b"bad") and not self.mended:
            raise Poison("no letter is called 'bad'", DeadKind.UNKNOWN_TEMPLATE)
        self.handled.append(record)

    def firsts(self, partition: int = 0) -> list[bytes]:
        """Return what was handled of a partition in that order; a repeat counts where it came first."""
        return list(dict.fromkeys(record.value for record in self.handled if record.partition == partition))


@pytest.fixture
async def producer(kafka: Server) -> AsyncIterator[Producer]:
    async with producing(laptop(kafka.address), "test") as producer:
        await eventually(lambda: producer.connected, within_s=PATIENCE_S, what="a broker was seen")
        yield producer


@pytest.fixture
async def post(kafka: Server, producer: Producer) -> Post:
    """A topic of one partition."""
    made = Post(kafka.address, producer)
    await made.create()
    return made


async def write(producer: Producer, post: Post, *values: bytes, key: bytes = b"key") -> int:
    """Write in order and not one by one; return the partition."""
    first, *rest = (producer.write(post.topic, key, value, [], within=PUBLISH_WITHIN) for value in values)
    place = await first  # alone: from here on the topic is known, and nothing that is sent overtakes
    await asyncio.gather(*rest)
    return place.partition


def paused(post: Post) -> float | None:
    return post.registry.get_sample_value("inbox_partitions_paused", {"topic": post.topic})


def in_hand(post: Post) -> float:
    return post.registry.get_sample_value("inbox_records_in_hand", {"topic": post.topic}) or 0


async def is_paused(post: Post) -> None:
    await eventually(lambda: paused(post) == 1, within_s=PATIENCE_S, what="the partition is paused")


async def buried(post: Post) -> set[bytes]:
    return {dead.value for dead in await asyncio.to_thread(post.dead_letters)}


async def committed(post: Post, offset: int) -> None:
    """Wait until partition 0 is acknowledged up to there."""
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while (reached := await asyncio.to_thread(post.committed)) < offset:
        assert asyncio.get_running_loop().time() < deadline, f"only {reached} of {offset} are acknowledged"
    assert reached == offset


@pytest.mark.parametrize("concurrency", [1, 64])
async def test_of_300_bad_among_400_the_partition_is_paused_then_tried_and_recovers(
    post: Post, producer: Producer, concurrency: int
) -> None:
    # The first one that is tried is bad, the second good.
    records = [b"%s %d" % (b"good" if number % 4 == 1 else b"bad", number) for number in range(400)]
    release = Release(takes_s=0.005 if concurrency > 1 else 0)  # long enough to have others in hand at the pause
    await write(producer, post, *records)

    # With many in hand, many that turn out bad are held, and tried one by one.
    limits = Limits(half_open_every=timedelta(seconds=1.5 if concurrency == 1 else 0.2))
    async with post.read_by(release, concurrency=concurrency, limits=limits):
        await is_paused(post)
        poured = post.count("dead_lettered") or 0
        assert 100 <= poured <= 150
        assert post.health.ready, "a pause is paged, not restarted away"

        await eventually(lambda: len(release.firsts()) == 100, within_s=PATIENCE_S, what="every good record")
        await committed(post, 400)
        assert paused(post) == 0

    bad = [record for record in records if record.startswith(b"bad")]
    good = [record for record in records if record.startswith(b"good")]
    assert len(bad) == 300
    if concurrency == 1:
        assert release.firsts() == good, "in order"
    assert sorted(release.firsts()) == sorted(good)
    assert await buried(post) == set(bad)


async def test_what_waits_is_neither_handled_nor_buried_nor_acknowledged_and_goes_through_a_mended_release(
    post: Post, producer: Producer
) -> None:
    bad_release, mended = Release(), Release(mended=True)
    words = [b"bad"] * 200 + [b"good", b"bad"] * 350
    records = [b"%s %d" % (word, number) + PADDING for number, word in enumerate(words)]
    await write(producer, post, *records)

    async with post.read_by(
        bad_release,
        concurrency=1,  # so that nothing else is in hand at the pause, which could still be handled
        limits=Limits(last=200, half_open_every=NEVER),
        drain_grace=timedelta(minutes=2),
    ) as inbox:
        await is_paused(post)
        await committed(post, 200)
        assert 0 < in_hand(post) < 700, "what waits is not all fetched"
        async with asyncio.timeout(STOP_WITHIN_S):  # it holds hundreds of records, and waits for none
            inbox.stop()
            await eventually(lambda: not inbox.consuming, within_s=STOP_WITHIN_S, what="the stop")

    assert bad_release.handled == []
    assert await buried(post) == set(records[:200])
    await committed(post, 200)
    async with post.read_by(mended, concurrency=1):
        await eventually(lambda: len(mended.firsts()) == 700, within_s=PATIENCE_S, what="all that waited")
        await committed(post, 900)
    assert mended.firsts() == records[200:]


async def test_other_partitions_go_on_beside_a_paused_one_that_has_more_than_the_window(
    kafka: Server, producer: Producer
) -> None:
    post = Post(kafka.address, producer)
    await post.create(partitions=2)
    keys: dict[int, bytes] = {}
    for number in range(20):
        key = b"key %d" % number
        keys[await write(producer, post, b"good at first", key=key)] = key
    release = Release()
    limits = Limits(last=20, half_open_every=NEVER)

    async with post.read_by(release, window=20, concurrency=4, limits=limits):
        await write(producer, post, *(b"bad %d" % number + PADDING for number in range(MANY)), key=keys[0])
        await is_paused(post)
        for turn in range(5):
            good = [b"good %d.%d" % (turn, number) for number in range(20)]
            await write(producer, post, *good, key=keys[1])
            await eventually(lambda: set(good) <= set(release.firsts(1)), within_s=PATIENCE_S, what="the other one")  # noqa: B023
        assert paused(post) == 1
        assert 20 < in_hand(post) < MANY * 3 / 4, "it is not fetched without end"
    assert len(await buried(post)) <= 20


async def test_a_rebalance_beside_a_paused_partition_loses_nothing_wherever_it_goes(
    kafka: Server, producer: Producer
) -> None:
    first_post, second_post = Post(kafka.address, producer), Post(kafka.address, producer)
    await first_post.create(partitions=2)
    second_post.topic, second_post.group = first_post.topic, first_post.group
    records = [b"bad %d" % number for number in range(100)]
    for number, record in enumerate(records):
        partition = await write(producer, first_post, record, key=b"key %d" % (number % 2))
        assert partition in {0, 1}
    first, second = Release(), Release()
    limits = Limits(last=20, half_open_every=timedelta(seconds=0.5))

    async with first_post.read_by(first, limits=limits) as one:
        await eventually(lambda: (paused(first_post) or 0) >= 1, within_s=PATIENCE_S, what="a pause")
        async with second_post.read_by(second, limits=limits) as other:
            await eventually(
                lambda: other.assigned and one.assigned | other.assigned == {0, 1}, within_s=PATIENCE_S, what="a share"
            )
            assert not one.assigned & other.assigned
            first.mended = second.mended = True
            await eventually(lambda: _settled(first_post) == 100, within_s=PATIENCE_S, what="all are acknowledged")
            await eventually(lambda: not (paused(first_post) or paused(second_post)), within_s=PATIENCE_S)

    handled = collections.Counter(record.value for release in (first, second) for record in release.handled)
    assert handled.keys() | await buried(first_post) == set(records)
    assert handled, "a mended release handles what waited"


def _settled(post: Post) -> int:
    admin = KafkaAdminClient(bootstrap_servers=[post.brokers])
    try:
        offsets = admin.list_group_offsets([post.group])[post.group]
        return sum(max(0, offsets[TopicPartition(post.topic, number)].offset) for number in (0, 1) if offsets)
    finally:
        admin.close()
