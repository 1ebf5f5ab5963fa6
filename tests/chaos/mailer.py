"""Chaos for the mailer: two processes that are killed and stopped while letters flow, and a broker that is killed.

Afterwards every mail that the relay took is counted, by its Message-ID and by its octets. A letter may come twice only
if a process was killed while that letter was in `handing_over`: its body had begun, and no outcome was noted. So right
after each kill those letters are counted in Redis, and the mails beyond one per letter must not be more. A ledger that
missed its 50 ms (a busy machine) may cost as many mails more, so that is counted too. The same run without a ledger
must break the bound (then the relay says how many bodies had no reply); otherwise the bound would prove nothing.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kip.mailer.v1 import mail_events_pb2
from redis import Redis

from deploy.create_topics import create_topics, laptop
from deploy.dev.kafka_broker import KafkaBroker
from deploy.dev.valkey_server import ValkeyServer
from tests.conditions import wait_until
from tests.integration.mailer.mailer_process import NOBODY, MailerProcess
from tests.integration.mailer.owner_hands import CODE_REQUESTED, Person, code_order, people
from tests.servers.relay_process import RelayProcess

DELIVERY = "mail.delivery.otp.v1"
GROUP = "mailer-otp"
PROCESSES = 2
SLOTS = 8
PAUSE_S = 0.1  # from a whole body to its 250: long enough that a kill finds letters in between
SLOW_EVERY, SLOW_S = 20, 3.0  # a slow one holds up the acknowledgement of those behind it, which then come again
AWAY_S = 5.0  # how long the broker stays away: longer than any client's first look for it
PROGRESS_S = 180.0
AT_ONCE = 200  # letters in one question to Redis, which must not keep the ledger from answering in 50 ms


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of what."""

    letters: int = 6_000
    rate: float = 60
    """Letters per second that are ordered."""
    rounds: int = 4
    """In each of them one process is killed and the other stopped."""
    broker_killed: bool = True
    """In the middle round, after the kill."""
    ledger: bool = True


@dataclass(slots=True)
class MailerReport:
    """What a run saw."""

    letters: int
    ledger: bool
    lost: int = 0
    """Letters that are not in the mailbox."""
    beyond: int = 0
    """Mails beyond one per letter."""
    handing_over: int = 0
    """Letters whose body had begun and had no outcome, right after each kill, added up."""
    outside: int = 0
    """Mails beyond one per letter, of letters that were in `handing_over` at no kill."""
    ledger_missed: int = 0
    """Calls that the ledger did not answer in time, as far as a process could tell before it was killed."""
    different: int = 0
    """Letters whose mails were not the same octets."""
    untold: int = 0
    """Letters that no delivery event says were handed over."""
    redelivered: int = 0
    """Records that Kafka brought again and whose outcome was announced again."""
    dead_letters: int = 0
    killed: int = 0
    terminated: int = 0
    broker_killed: int = 0
    exit_codes: list[int] = field(default_factory=list)
    slowest_stop_s: float = 0
    seconds: float = 0

    @property
    def most_beyond(self) -> int:
        """How many may come twice: what was in `handing_over` at a kill, and what the ledger missed."""
        return self.handing_over + self.ledger_missed

    @property
    def is_bounded(self) -> bool:
        """Whether no more came twice."""
        return self.beyond <= self.most_beyond

    @property
    def is_explained(self) -> bool:
        """Whether only those came twice that were in `handing_over`, and no more were than there are slots."""
        slots = self.killed * PROCESSES * SLOTS
        return self.outside <= self.ledger_missed and self.handing_over <= slots + self.ledger_missed

    @property
    def is_good(self) -> bool:
        """Whether every promise was kept."""
        broken = (self.lost, self.different, self.untold, self.dead_letters, *self.exit_codes)
        return self.is_bounded and self.is_explained and not any(broken)


class MailerChaos:
    """One run over servers of its own."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self._plan = plan
        self._broker = KafkaBroker(folder / "kafka")
        self._redis = ValkeyServer(folder / "redis")
        self._relays = RelayProcess(folder)
        self._folder = folder
        self._people = people(plan.letters)
        self._ordered: list[Person] = []
        self._settled: set[str] = set()
        self._in_hand: set[str] = set()
        self._report = MailerReport(plan.letters, plan.ledger)

    def __call__(self) -> MailerReport:
        """Run it to the end."""
        started = time.monotonic()
        servers = (self._broker, self._redis, self._relays)
        with ThreadPoolExecutor(len(servers)) as together:
            try:
                list(together.map(lambda server: server.start(), servers))
                create_topics(laptop(self._broker.address))
                self._relay = self._relays.open(pause_s=PAUSE_S, slow_every=SLOW_EVERY, slow_s=SLOW_S)
                self._live_through()
                self._count_events()
            finally:
                list(together.map(lambda server: server.stop(), servers))
        self._report.seconds = round(time.monotonic() - started, 1)
        return self._report

    def _live_through(self) -> None:
        mailers = [self._mailer(f"mailer-{number}") for number in range(PROCESSES)]
        ordering = threading.Thread(target=self._order_all, daemon=True)
        try:
            with ThreadPoolExecutor(PROCESSES) as together:
                list(together.map(lambda mailer: mailer.start(), mailers))
            ordering.start()
            for turn in range(self._plan.rounds):
                self._disrupt(turn, mailers[turn % 2], mailers[1 - turn % 2])
            self._wait_for(self._plan.letters)
            ordering.join(PROGRESS_S)
            wait_until(self._is_acknowledged, within_s=PROGRESS_S, what="every record acknowledged")
        finally:
            for mailer in mailers:
                self._stop(mailer)
        self._count_mails()

    def _disrupt(self, turn: int, victim: MailerProcess, other: MailerProcess) -> None:
        parts = 2 * self._plan.rounds + 1  # the disruptions lie evenly over the run
        self._wait_for(self._plan.letters * (2 * turn + 1) // parts)
        self._kill(victim)
        if self._plan.broker_killed and turn == self._plan.rounds // 2:
            self._kill_broker()
        victim.start()
        self._wait_for(self._plan.letters * (2 * turn + 2) // parts)
        self._stop(other)
        self._report.terminated += 1
        other.start()

    def _kill(self, mailer: MailerProcess) -> None:
        with suppress(AssertionError):  # a kill that finds nothing in between is one, too
            wait_until(self._handing_over, within_s=5)
        missed = self._missed(mailer)
        pid = mailer.pid
        mailer.kill()
        self._report.handing_over += self._count_in_hand()
        self._report.ledger_missed += missed
        assert not Path(f"/proc/{pid}").exists(), "the process is gone"
        self._report.killed += 1

    def _kill_broker(self) -> None:
        pid = self._broker.pid
        self._broker.kill()
        assert not Path(f"/proc/{pid}").exists(), "the broker is gone"
        assert not self._broker.is_ready(), "the broker is away"
        self._report.broker_killed += 1
        time.sleep(AWAY_S)
        self._broker.start()

    def _stop(self, mailer: MailerProcess) -> None:
        if not mailer.is_running:
            return
        self._report.ledger_missed += self._missed(mailer)
        asked = time.monotonic()
        self._report.exit_codes.append(mailer.stop())
        self._report.slowest_stop_s = max(self._report.slowest_stop_s, round(time.monotonic() - asked, 1))

    def _missed(self, mailer: MailerProcess) -> int:
        return int(mailer.value("mailer_ledger_errors_total", lane="otp")) if self._plan.ledger else 0

    def _mailer(self, name: str) -> MailerProcess:
        return MailerProcess(
            self._folder,
            brokers=self._broker.address,
            redis=self._redis.address if self._plan.ledger else NOBODY,
            relay=f"127.0.0.1:{self._relay}",
            settings={"MAILER_SLOTS_OTP": str(SLOTS)},
            name=name,
        )

    def _order_all(self) -> None:
        producer = KafkaProducer(bootstrap_servers=[self._broker.address], delivery_timeout_ms=int(PROGRESS_S * 1000))
        started = time.monotonic()
        for number, person in enumerate(self._people):
            producer.send(CODE_REQUESTED, key=person.mark.encode(), value=code_order(person))
            self._ordered.append(person)
            time.sleep(max(0, started + number / self._plan.rate - time.monotonic()))
        producer.flush()
        producer.close()

    def _wait_for(self, count: int) -> None:
        wait_until(
            lambda: self._relays.count(self._relay)[0] >= count,
            within_s=PROGRESS_S,
            what=f"{count} letters in the mailbox",
        )

    def _count_in_hand(self) -> int:
        if not self._plan.ledger:
            return self._handing_over()
        now = self._unsettled()
        self._in_hand |= now
        return len(now)

    def _handing_over(self) -> int:
        """Count the letters whose body began and that have no outcome."""
        return len(self._unsettled()) if self._plan.ledger else self._relays.count(self._relay)[1]

    def _unsettled(self) -> set[str]:
        """Ask Redis for their marks. Letters that have an outcome are not asked about again."""
        between = set()
        open_marks = [person.mark for person in self._ordered if person.mark not in self._settled]
        with Redis.from_url(self._redis.url) as redis:
            for start in range(0, len(open_marks), AT_ONCE):
                marks = open_marks[start : start + AT_ONCE]
                pipeline = redis.pipeline(transaction=False)
                for mark in marks:
                    pipeline.hmget(f"mailer:{{{mark}.1}}", ["began", "outcome"])
                for mark, (began, outcome) in zip(marks, pipeline.execute(), strict=True):
                    if outcome is not None:
                        self._settled.add(mark)
                    elif began is not None:
                        between.add(mark)
        return between

    def _is_acknowledged(self) -> bool:
        with self._consumer(CODE_REQUESTED, group=GROUP) as (consumer, partitions):
            ends = consumer.end_offsets(partitions)
            return all((consumer.committed(place) or 0) >= ends[place] for place in partitions)

    def _count_mails(self) -> None:
        mails = self._relays.record(self._relay).mails
        report = self._report
        report.lost = sum(f"<{person.mark}.1@kip.example>" not in mails for person in self._people)
        beyond = {message_id: sum(copies.values()) - 1 for message_id, copies in mails.items()}
        report.beyond = sum(beyond.values())
        report.outside = report.beyond - sum(beyond.get(f"<{mark}.1@kip.example>", 0) for mark in self._in_hand)
        report.different = sum(len(copies) > 1 for copies in mails.values())

    def _count_events(self) -> None:
        told: Counter[str] = Counter()
        with self._consumer(DELIVERY) as (consumer, partitions):
            consumer.assign(partitions)
            consumer.seek_to_beginning()
            ends = consumer.end_offsets(partitions)
            while any(consumer.position(place) < ends[place] for place in partitions):
                for batch in consumer.poll(timeout_ms=500).values():
                    told.update(filter(None, map(_handed_over, batch)))
        with self._consumer(f"{CODE_REQUESTED}.dead") as (consumer, partitions):
            self._report.dead_letters = sum(consumer.end_offsets(partitions).values())
        self._report.untold = sum(not told[person.mark] for person in self._people)
        self._report.redelivered = sum(told.values()) - len(told)

    @contextmanager
    def _consumer(self, topic: str, *, group: str | None = None) -> Iterator[tuple[Any, list[TopicPartition]]]:
        consumer = KafkaConsumer(bootstrap_servers=[self._broker.address], group_id=group, enable_auto_commit=False)
        try:
            numbers = wait_until(lambda: consumer.partitions_for_topic(topic), within_s=60, what=topic)
            yield consumer, [TopicPartition(topic, number) for number in sorted(numbers)]
        finally:
            consumer.close()


def _handed_over(record: Any) -> str | None:
    event = mail_events_pb2.MailDelivery.FromString(record.value)
    return str(event.owner_id) if event.WhichOneof("fate") == "handed_over" else None
