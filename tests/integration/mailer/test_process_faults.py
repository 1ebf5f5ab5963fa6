"""The mailer in the worst moments of a letter: stopped in mid-body, and with a broker that goes at the wrong time.

Each moment is made by the scripted relay, which holds a letter there and writes down every body that it got.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from deploy.dev.kafka_broker import KafkaBroker
from tests.conditions import wait_until
from tests.conftest import Server
from tests.integration.mailer.mailer_process import MailerProcess
from tests.integration.mailer.owner_hands import OwnerHands, Person, owner_hands, people
from tests.servers.relay_process import RelayProcess

GRACE_S = 3
ARRIVES_S = 60

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def relays(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    relays = RelayProcess(tmp_path_factory.mktemp("relay"))
    relays.start()
    yield relays
    relays.stop()


class Moment:
    """A mailer before a relay of its own."""

    def __init__(self, folder: Path, broker: KafkaBroker, redis: str, relays: RelayProcess, **script: Any) -> None:
        self._relays = relays
        self._relay = relays.open(**script)
        self._redis = Redis.from_url(f"redis://{redis}/0")
        self.broker = broker
        self.mailer = MailerProcess(
            folder,
            brokers=broker.address,
            redis=redis,
            relay=f"127.0.0.1:{self._relay}",
            settings={"MAILER_DRAIN_GRACE": f"PT{GRACE_S}S"},
        )

    @property
    def bodies(self) -> list[int]:
        """Octets of every body that was begun."""
        return [octets for each in self._relays.record(self._relay).conversations for octets in each.bodies]

    def mails(self, person: Person) -> dict[str, int]:
        """Return how often the relay got the whole mail, by the hash of its octets."""
        return self._relays.record(self._relay).mails.get(f"<{person.mark}.1@kip.example>", {})

    def in_ledger(self, person: Person, what: str) -> bool:
        """Say whether the ledger has `began` or `outcome` of the letter."""
        return bool(self._redis.hexists(f"mailer:{{{person.mark}.1}}", what))

    def missed(self) -> float:
        """Return how often the ledger did not answer in time: 0, but on a machine that is busy with others."""
        return self.mailer.value("mailer_ledger_errors_total", lane="otp")

    def kill_broker(self) -> None:
        """Kill it, and see that it is gone."""
        self.broker.kill()
        assert not self.broker.is_running
        assert not self.broker.is_ready()

    def close(self) -> None:
        """Stop what still runs; the groups hear a good-bye, so that the next test need not wait."""
        if not self.broker.is_running:
            self.broker.start()
        self.mailer.stop()
        self._redis.close()


@pytest.fixture
def moment(
    request: pytest.FixtureRequest, tmp_path: Path, broker: KafkaBroker, redis_server: Server, relays: RelayProcess
) -> Iterator[Moment]:
    """The script of the relay is the test's parameter."""
    moment = Moment(tmp_path, broker, redis_server.address, relays, **request.param)
    moment.mailer.start()
    yield moment
    moment.close()


@pytest.fixture
def owner(broker: KafkaBroker) -> Iterator[OwnerHands]:
    with owner_hands(broker.address) as hands:
        yield hands


@pytest.mark.parametrize("moment", [{"stage": "body", "then": "hang"}], indirect=True)
def test_stopped_before_a_relay_that_hangs_in_mid_body_it_leaves_in_time_and_the_same_bytes_go_out_again(
    moment: Moment, owner: OwnerHands
) -> None:
    [person] = people(1)
    owner.order_code(person)
    wait_until(lambda: moment.bodies, within_s=ARRIVES_S, what="half a body")
    missed = moment.missed()

    assert moment.mailer.stop() == 0

    assert '"records_given_up"' in moment.mailer.log_text()
    assert moment.mails(person) == {}, "it never had the whole of it"
    assert moment.in_ledger(person, "began") or missed
    assert not moment.in_ledger(person, "outcome")
    assert owner.fates() == {}
    moment.mailer.start()
    owner.wait_for_hand_over([person])
    assert sum(moment.mails(person).values()) == 1
    assert len(moment.bodies) == 2


@pytest.mark.parametrize("moment", [{"stage": "reply", "delay_s": 4, "say": "250 2.0.0 ok\r\n"}], indirect=True)
def test_a_broker_that_dies_between_the_250_and_the_announcement_makes_it_late_and_not_the_letter_twice(
    moment: Moment, owner: OwnerHands
) -> None:
    [person] = people(1)
    owner.order_code(person)
    wait_until(lambda: moment.mails(person), within_s=ARRIVES_S, what="a body whose 250 is on its way")
    missed = moment.missed()

    moment.kill_broker()

    wait_until(
        lambda: moment.mailer.value("mailer_smtp_attempts_total", lane="otp", result="accepted") == 1,
        within_s=ARRIVES_S,
        what="the 250, with nobody to tell",
    )
    assert not moment.broker.is_running
    missed += moment.missed()
    wait_until(lambda: moment.in_ledger(person, "outcome") or moment.missed(), within_s=ARRIVES_S, what="the note")
    assert owner.fates() == {}
    moment.broker.start()
    owner.wait_for_hand_over([person])
    wait_until(
        lambda: moment.mailer.value("mailer_emails_total", lane="otp", outcome="handed_over") >= 1,
        within_s=ARRIVES_S,
        what="the letter is counted",
    )
    assert sum(moment.mails(person).values()) <= 1 + missed
    assert len(moment.mails(person)) == 1


@pytest.mark.parametrize("moment", [{"pause_s": 1.5}], indirect=True)
def test_a_broker_that_restarts_during_a_drain_costs_no_letter_and_no_repeat(moment: Moment, owner: OwnerHands) -> None:
    crowd = people(4)
    for person in crowd:
        owner.order_code(person)
    wait_until(lambda: all(map(moment.mails, crowd)), within_s=ARRIVES_S, what="letters in hand")
    missed = moment.missed()

    with ThreadPoolExecutor(1) as meanwhile:
        stopped = meanwhile.submit(moment.mailer.stop)
        wait_until(lambda: '"process_stopping"' in moment.mailer.log_text(), within_s=ARRIVES_S, what="the drain")
        moment.kill_broker()
        assert not stopped.done(), "it drained when the broker died"
        moment.broker.start()
        assert stopped.result() == 0

    moment.mailer.start()
    owner.wait_for_hand_over(crowd)
    missed += moment.missed()
    assert sum(sum(moment.mails(person).values()) for person in crowd) <= len(crowd) + missed
    assert all(len(moment.mails(person)) == 1 for person in crowd)
