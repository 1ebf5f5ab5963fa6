"""What lagwatch tells of lanes on a real broker, compared with the test's own books of what it wrote and handed over.

Tolerances: a page is compared with the books as of the time that it was measured, which it tells. Between a commit and
the event that tells the same letter lie up to two turns of the mailer: so counts may be off by two turns, rates by a
fifth, and waits by a quarter and a second.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from tests.conditions import wait_until
from tests.fakes.lagwatch import Letter
from tests.integration.lagwatch.lagwatch_process import LagwatchProcess, lagwatch_running
from tests.integration.lagwatch.paced_mailer import TICK_S, Books, PacedMailer, paced_mailer
from tests.integration.lagwatch.real_queues import UNCLOSED, Broker, RealQueues, real_queues
from tests.process_pages import Samples

pytestmark = UNCLOSED

WITHIN_S = 60
LANES = ("slow", "skewed", "fresh", "deferred", "renewed", "grown")
SPEED = {"slow": 8.0, "skewed": 40.0, "deferred": 10.0}
AGE_OFF_S = 2.0
"""Time between a page, its measurement and the books, on a busy machine."""


class Lane:
    """One lane of the scene, with the test's books of it."""

    def __init__(self, name: str, suffix: str) -> None:
        self.name = f"{name}-{suffix}"
        self.group, self.topic = f"mailer-{self.name}", f"letters-{self.name}"
        self.tier_group, self.tier = f"mailer-retry-{self.name}-1m", f"mail.retry.{self.name}.1m.v1"
        self.deliveries = f"mail.delivery.{self.name}.v1"
        self.books = Books(self.group, self.topic, {0: [], 1: []})

    @property
    def queues(self) -> str:
        pairs = {self.group: self.topic, self.tier_group: self.tier, f"owner-{self.name}": self.deliveries}
        return ",".join(f"{group}={topic}" for group, topic in pairs.items())


class Scene:
    """Lanes, a mailer, and two lagwatches that look at them."""

    def __init__(
        self, hands: RealQueues, mailer: PacedMailer, lagwatch: LagwatchProcess, replica: LagwatchProcess
    ) -> None:
        self.hands = hands
        self.mailer = mailer
        self.lagwatch = lagwatch
        self.replica = replica
        self.lanes: dict[str, Lane] = {}

    def seen(self, lane: Lane, page: Samples | None = None) -> dict[str, float]:
        """Return what is shown of a lane, by the names without their prefix."""
        shown = (page or self.lagwatch.shown()).of(lane=lane.name)
        return {name.removeprefix("lagwatch_lane_"): value for name, value in shown.items()}

    def partition(self, lane: Lane, metric: str, partition: int) -> float | None:
        labels = {"group": lane.group, "topic": lane.topic, "partition": str(partition)}
        return self.lagwatch.value(f"lagwatch_group_{metric}", **labels)

    def settled(self, lane: Lane, *, learnt_s: float = 0.0) -> dict[str, float]:
        """Wait until the lane is measured, its rate learnt for so long if asked for, and return what is shown."""
        started = time.monotonic()

        def look() -> dict[str, float] | None:
            seen = self.seen(lane)
            is_learnt = not learnt_s or (time.monotonic() - started >= learnt_s and "hand_overs_per_second" in seen)
            return seen if "backlog_messages" in seen and is_learnt else None

        return wait_until(look, within_s=WITHIN_S, what=f"{lane.name} is measured") or {}


class Witness:
    """Looks at the page all the time: where letters wait nothing may read 0, nor be told as no number."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._over = threading.Event()
        self.waiting: set[str] = set()
        """Lanes in which letters wait, that are older than what counts as young."""
        self.looks = 0
        self.wrong: list[str] = []
        self.thread = threading.Thread(target=self._work)

    def _work(self) -> None:
        while not self._over.wait(0.3):
            waiting = set(self.waiting)
            page = self._scene.lagwatch.shown()
            for name in waiting & self.waiting:
                seen = self._scene.seen(self._scene.lanes[name], page)
                for metric in ("backlog_messages", "age_seconds", "predicted_wait_seconds"):
                    self.looks += 1
                    if not 0 < seen.get(metric, 0) < float("inf"):
                        self.wrong.append(f"{name}: {metric} is {seen.get(metric)}")

    def end(self) -> None:
        self._over.set()
        self.thread.join()


def letters(count: int, *, oldest_s: float) -> list[datetime]:
    """Return when letters were asked for, the oldest so many seconds ago, ten a second."""
    first = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=oldest_s)
    return [first + timedelta(seconds=number / 10) for number in range(count)]


def ask(scene: Scene, lane: Lane, partition: int, asked: list[datetime]) -> None:
    """Write letters, and into the books."""
    scene.hands.append(lane.topic, partition, *asked)
    lane.books.created.setdefault(partition, []).extend(asked)


@pytest.fixture(scope="module")
def scene(kafka: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    suffix, folder = uuid.uuid4().hex[:8], tmp_path_factory.mktemp("lagwatch")
    lanes = {name: Lane(name, suffix) for name in LANES}
    queues, names = ",".join(lane.queues for lane in lanes.values()), ",".join(lane.name for lane in lanes.values())
    with (
        real_queues(kafka.address) as hands,
        paced_mailer(kafka.address) as mailer,
        lagwatch_running(kafka.address, queues, folder / "first.log", lanes=names) as first,
        lagwatch_running(kafka.address, queues, folder / "second.log", lanes=names) as second,
    ):
        scene = Scene(hands, mailer, first, second)
        scene.lanes = lanes
        for name, lane in lanes.items():
            hands.create(lane.topic, partitions=2)
            hands.create(lane.tier)
            hands.create(lane.deliveries)
            if name != "fresh":
                for partition in (0, 1):
                    hands.commit(lane.group, lane.topic, partition, 0)
                hands.commit(lane.tier_group, lane.tier, 0, 0)
        wait_until(first.is_ready, within_s=WITHIN_S, what="everything was measured once")
        # The mailer first: one that begins after its letters came is slower than its pace, for who looks from outside.
        for name in ("slow", "skewed"):
            mailer.start(lanes[name].books, lanes[name].deliveries, SPEED[name])
        ask(scene, lanes["slow"], 0, letters(400, oldest_s=90))
        ask(scene, lanes["slow"], 1, letters(400, oldest_s=60))
        ask(scene, lanes["skewed"], 1, letters(300, oldest_s=90))
        ask(scene, lanes["skewed"], 0, letters(3000, oldest_s=600))
        yield scene


@pytest.fixture(scope="module")
def witness(scene: Scene) -> Iterator[Witness]:
    witness = Witness(scene)
    witness.thread.start()
    yield witness
    witness.end()


def two_turns(name: str) -> float:
    return 2 * max(TICK_S * SPEED[name], 2) + 2


def test_a_slow_consumer_is_told_as_the_books_have_it(scene: Scene, witness: Witness) -> None:
    lane = scene.lanes["slow"]
    scene.settled(lane, learnt_s=6)
    witness.waiting.add("slow")

    seen = scene.seen(lane)

    at = seen["last_success_timestamp_seconds"]
    backlog, rate = lane.books.backlog(at), lane.books.per_second(at)
    assert rate == pytest.approx(SPEED["slow"], rel=0.2), "the mailer of this test keeps its pace"
    assert seen["backlog_messages"] == pytest.approx(backlog, abs=two_turns("slow"))
    assert seen["hand_overs_per_second"] == pytest.approx(rate, rel=0.2)
    assert seen["predicted_wait_seconds"] == pytest.approx(backlog / rate, rel=0.25, abs=1)
    assert seen["age_seconds"] == pytest.approx(time.time() - lane.books.oldest(at), abs=AGE_OFF_S)
    assert scene.partition(lane, "lag_messages", 0) == pytest.approx(lane.books.waiting(0, at), abs=two_turns("slow"))
    scene.mailer.stop(lane.books)  # here: it takes its time to stand still


def test_a_letter_at_the_end_of_the_short_one_of_two_skewed_partitions_leaves_when_it_was_told_to(
    scene: Scene, witness: Witness
) -> None:
    lane = scene.lanes["skewed"]
    scene.settled(lane, learnt_s=1)
    witness.waiting.add("skewed")

    ask(scene, lane, 1, [datetime.now(UTC)])
    asked_at = time.time()
    marked = len(lane.books.created[1])
    wait_until(lambda: (scene.seen(lane)["last_success_timestamp_seconds"]) > asked_at, within_s=WITHIN_S)
    seen, told_s = scene.seen(lane), scene.partition(lane, "predicted_wait_seconds", 1)
    told_at = seen["last_success_timestamp_seconds"]
    assert told_s is not None
    long, short = lane.books.waiting(0, told_at), lane.books.waiting(1, told_at)

    assert long > 5 * short > 0
    assert seen["predicted_wait_seconds"] == pytest.approx((long + short) / SPEED["skewed"], rel=0.25)
    assert told_s == pytest.approx(2 * short / SPEED["skewed"], rel=0.25, abs=1)
    wait_until(lambda: len(lane.books.left[1]) >= marked, within_s=WITHIN_S, what="the letter has left")
    assert lane.books.left[1][marked - 1] - told_at == pytest.approx(told_s, rel=0.25, abs=1.5)
    scene.mailer.stop(lane.books)


def test_a_stopped_consumer_waits_the_age_of_its_oldest_and_the_backlog(scene: Scene, witness: Witness) -> None:
    lane = scene.lanes["slow"]
    rate = lane.books.per_second(time.time())
    scene.mailer.stop(lane.books)
    backlog, oldest = lane.books.backlog(time.time()), lane.books.oldest(time.time())

    def expected() -> float:
        return time.time() - oldest + backlog / rate

    def told() -> float:
        return scene.seen(lane)["predicted_wait_seconds"]

    def stands_still() -> bool:
        page = scene.seen(lane)
        moving = page["backlog_messages"] / page["hand_overs_per_second"]
        return page["predicted_wait_seconds"] > moving + 0.9 * page["age_seconds"]

    wait_until(stands_still, within_s=WITHIN_S, what="the age of the oldest comes on top")
    seen = scene.seen(lane)
    assert seen["backlog_messages"] == backlog
    assert seen["age_seconds"] == pytest.approx(time.time() - oldest, abs=AGE_OFF_S)
    assert seen["predicted_wait_seconds"] == pytest.approx(expected(), rel=0.2)
    wait_until(lambda: told() > seen["predicted_wait_seconds"], within_s=WITHIN_S, what="it grows with the clock")
    assert witness.wrong == []


def test_a_consumer_that_has_just_started_has_everything_in_front_of_it(scene: Scene, witness: Witness) -> None:
    lane = scene.lanes["fresh"]
    asked = letters(20, oldest_s=40)
    ask(scene, lane, 0, asked)
    wait_until(lambda: scene.settled(lane)["backlog_messages"] == 20, within_s=WITHIN_S, what="all of it waits")
    witness.waiting.add("fresh")
    counted = scene.lagwatch.failures("group_unknown")
    wait_until(lambda: scene.lagwatch.failures("group_unknown") > counted, within_s=WITHIN_S)
    assert scene.lagwatch.value("lagwatch_group_last_success_timestamp_seconds", **_labels(lane)) is None

    scene.hands.join(lane.group, lane.topic)
    seen = scene.seen(lane)
    assert seen["age_seconds"] == pytest.approx(time.time() - asked[0].timestamp(), abs=AGE_OFF_S)
    assert seen["predicted_wait_seconds"] == pytest.approx(seen["age_seconds"], abs=AGE_OFF_S)
    wait_until(
        lambda: scene.lagwatch.value("lagwatch_group_last_success_timestamp_seconds", **_labels(lane)),
        within_s=WITHIN_S,
        what="a group that is there is measured without a doubt",
    )


def _labels(lane: Lane) -> dict[str, str]:
    return {"group": lane.group, "topic": lane.topic}


def test_letters_in_tiers_wait_while_the_main_topic_is_empty(scene: Scene, witness: Witness) -> None:
    lane, now = scene.lanes["deferred"], datetime.now(UTC)
    asked = [now - timedelta(seconds=count) for count in (200, 400, *[100] * 198)]
    waited_from = time.time()
    for each in asked:  # the oldest is not the first of its tier
        scene.hands.defer(lane.tier, 0, now - timedelta(seconds=70), Letter(each, now - timedelta(seconds=10)))
    wait_until(lambda: scene.seen(lane)["backlog_messages"] == 200, within_s=WITHIN_S, what="all of them wait")
    witness.waiting.add("deferred")
    seen = scene.seen(lane)
    assert scene.partition(lane, "lag_messages", 0) == 0
    assert seen["age_seconds"] == pytest.approx(time.time() - asked[1].timestamp(), abs=AGE_OFF_S)
    assert seen["predicted_wait_seconds"] == pytest.approx(seen["age_seconds"], abs=AGE_OFF_S)
    books = Books(lane.tier_group, lane.tier, {0: asked})

    scene.mailer.start(books, lane.deliveries, SPEED["deferred"])
    scene.settled(lane, learnt_s=6)

    seen = scene.seen(lane)
    at = seen["last_success_timestamp_seconds"]
    assert books.backlog(at) > 0
    assert seen["backlog_messages"] == pytest.approx(books.backlog(at), abs=two_turns("deferred"))
    # They were due before the mailer came: whether that was a pause or a standstill depends on how long it was.
    shortest, longest = (
        books.backlog(at) / rate for rate in (books.per_second(at), books.gone(at) / (at - waited_from))
    )
    assert 0.75 * shortest - 1 <= seen["predicted_wait_seconds"] <= 1.25 * longest + 1
    scene.mailer.stop(books)


def test_a_topic_made_anew_is_told_from_its_first_letter(scene: Scene, witness: Witness) -> None:
    lane = scene.lanes["renewed"]
    ask(scene, lane, 0, letters(9, oldest_s=300))
    scene.hands.commit(lane.group, lane.topic, 0, 5)
    wait_until(lambda: scene.settled(lane)["backlog_messages"] == 4, within_s=WITHIN_S)
    counted = scene.lagwatch.failures("topic_unknown")
    scene.hands.delete(lane.topic)
    wait_until(lambda: scene.lagwatch.failures("topic_unknown") > counted, within_s=WITHIN_S)
    assert scene.seen(lane)["backlog_messages"] == 4, "old values stay"

    scene.hands.create(lane.topic, partitions=1)
    asked = letters(3, oldest_s=50)
    scene.hands.append(lane.topic, 0, *asked)

    wait_until(lambda: scene.seen(lane).get("backlog_messages") == 3, within_s=WITHIN_S, what="what is new waits")
    witness.waiting.add("renewed")
    seen = scene.seen(lane)
    assert seen["age_seconds"] == pytest.approx(time.time() - asked[0].timestamp(), abs=AGE_OFF_S)
    assert seen["predicted_wait_seconds"] == pytest.approx(seen["age_seconds"], abs=AGE_OFF_S)
    assert scene.partition(lane, "lag_messages", 1) is None


def test_partitions_that_are_added_are_measured_with_the_others(scene: Scene, witness: Witness) -> None:
    lane = scene.lanes["grown"]
    ask(scene, lane, 0, letters(2, oldest_s=30))
    wait_until(lambda: scene.settled(lane)["backlog_messages"] == 2, within_s=WITHIN_S)
    witness.waiting.add("grown")

    scene.hands.grow(lane.topic, 4)
    asked = letters(5, oldest_s=70)
    ask(scene, lane, 3, asked)

    wait_until(lambda: scene.seen(lane)["backlog_messages"] == 7, within_s=WITHIN_S, what="the new one counts")
    assert scene.partition(lane, "lag_messages", 3) == 5
    assert scene.partition(lane, "lag_messages", 2) == 0
    assert scene.seen(lane)["age_seconds"] == pytest.approx(time.time() - asked[0].timestamp(), abs=AGE_OFF_S)
    assert scene.seen(lane)["arrivals_total"] == 7


def test_a_second_replica_tells_the_same_and_disturbs_nobody(scene: Scene) -> None:
    for name in ("slow", "fresh", "renewed", "grown"):
        lane = scene.lanes[name]
        first, second = (scene.seen(lane, watch.shown()) for watch in (scene.lagwatch, scene.replica))
        assert first["backlog_messages"] == second["backlog_messages"]
        assert first["age_seconds"] == pytest.approx(second["age_seconds"], abs=AGE_OFF_S)
        told_s = second["predicted_wait_seconds"]
        assert first["predicted_wait_seconds"] == pytest.approx(told_s, rel=0.1, abs=AGE_OFF_S)
    assert scene.lagwatch.value("lagwatch_group_members", group=scene.lanes["fresh"].group) == 1
    assert scene.lagwatch.value("lagwatch_group_members", group=scene.lanes["slow"].group) == 0


def test_nothing_read_0_while_letters_waited(witness: Witness) -> None:
    assert witness.looks > 50
    assert witness.wrong == []
