"""The mailer over real Kafka, Redis and SMTP: killed or stopped in the middle of a body, without a ledger, fed rubbish.

The broker is this module's own: the mailer's groups have one place each on a broker, and other tests write notices too.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from kip.mailer.v1 import mail_events_pb2

from deploy.dev.inbox.client import Summary
from deploy.dev.kafka_broker import KafkaBroker
from deploy.dev.valkey_server import ValkeyServer
from tests.conditions import wait_until
from tests.conftest import Server
from tests.integration.inbox.running_inbox import RunningInbox
from tests.integration.mailer.mailer_process import MailerProcess
from tests.integration.mailer.owner_hands import CODE_REQUESTED, CODE_WANTED, OwnerHands, Person, owner_hands, people

SLOTS = 4
GRACE_S = 10
ARRIVES_S = 60
SLOW_S = 10  # how long a slow relay holds the slots: far longer than a wish needs, shorter than the mailer's patience

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def owner(broker: KafkaBroker) -> Iterator[OwnerHands]:
    with owner_hands(broker.address) as hands:
        yield hands


def mailer_in(folder: Path, broker: KafkaBroker, redis: str, inbox: RunningInbox) -> MailerProcess:
    return MailerProcess(
        folder,
        brokers=broker.address,
        redis=redis,
        relay=f"127.0.0.1:{inbox.smtp_port}",
        settings={
            "MAILER_SLOTS_OTP": str(SLOTS),
            "MAILER_SLOTS_NOTICE": "2",
            "MAILER_DRAIN_GRACE": f"PT{GRACE_S}S",
            "MAILER_RETRY_DELAYS_OTP": "PT1S",
            "MAILER_RETRY_DELAYS_NOTICE": "PT1S",
        },
    )


@pytest.fixture
def mailer(tmp_path: Path, broker: KafkaBroker, redis_server: Server, inbox: RunningInbox) -> Iterator[MailerProcess]:
    """The service, running."""
    process = mailer_in(tmp_path, broker, redis_server.address, inbox)
    process.start()
    yield process
    inbox.client.set_behaviour()
    process.stop()  # with a good-bye to its groups: the next test need not wait until they miss it


def copies(inbox: RunningInbox, persons: list[Person]) -> dict[str, list[Summary]]:
    """Return every mail by the mark of its reader."""
    mails = inbox.client.messages(limit=500)
    return {person.mark: [mail for mail in mails if mail.rcpt_to == (person.email,)] for person in persons}


def wishes_heeded(mailer: MailerProcess) -> float:
    """Return how many wishes are in the ledger.

    Of every kind: a ledger that answers after its 50 ms has merged the wish all the same, and says "stale" next time.
    """
    return sum(mailer.value("mailer_wishes_total", kind=kind) for kind in ("extended", "withdrawn", "stale"))


def nothing_private_in(log: str, persons: list[Person]) -> None:
    """See that a log that was written holds no address and no code."""
    assert '"event"' in log
    assert "@example.vn" not in log
    assert not [person.code for person in persons if person.code in log]


def test_each_lane_mails_what_it_is_asked_for(mailer: MailerProcess, owner: OwnerHands, inbox: RunningInbox) -> None:
    citizen, applicant = people(2)
    inbox.client.set_behaviour({"stage": "rcpt", "action": "reply", "code": 451, "text": "4.7.1 later", "times": 2})

    owner.order_code(citizen)
    owner.order_notice(applicant)
    owner.wait_for_hand_over([citizen, applicant])

    code = inbox.client.wait_for_mail(citizen.email, timeout_s=ARRIVES_S)
    notice = inbox.client.wait_for_mail(applicant.email, timeout_s=ARRIVES_S)
    assert citizen.code in (code.text or "")
    assert code.message_id == f"<{citizen.mark}.1@kip.example>"
    assert "K01-261125-7F3K2M" in (notice.subject or "")
    for lane in ("otp", "notice"):
        assert mailer.value("mailer_emails_total", lane=lane, outcome="handed_over") == 1
    assert mailer.stop() == 0
    lines = [json.loads(line) for line in mailer.log_text().splitlines()]
    assert {line["service"] for line in lines} == {"mailer"}
    assert not [line for line in lines if "451" in line.get("why", "")], "a relay that says later is no trouble of ours"
    deferrals = [*owner.deferrals(citizen), *owner.deferrals(applicant)]
    assert [each.deferred.status for each in deferrals] == ["4.7.1"] * 2
    nothing_private_in(mailer.log_text(), [citizen, applicant])


def test_killed_in_the_middle_of_a_body_every_letter_arrives_and_repeats_are_the_same_bytes(
    mailer: MailerProcess, owner: OwnerHands, inbox: RunningInbox
) -> None:
    crowd = people(24)
    # The relay keeps each mail, and its 250 back: the worst moment to die in.
    inbox.client.set_behaviour({"stage": "reply", "action": "delay", "delay_s": 0.4, "store": True})
    for person in crowd:
        owner.order_code(person)
    wait_until(lambda: inbox.client.stats().accepted >= SLOTS, within_s=ARRIVES_S, what="some mails with their 250")
    inbox.client.set_behaviour({"stage": "reply", "action": "delay", "delay_s": SLOW_S, "store": True})
    wait_until(lambda: _without_250(inbox) == SLOTS, within_s=ARRIVES_S, what="every slot without its 250")
    missed = mailer.value("mailer_ledger_errors_total", lane="otp")  # 0, but on a machine that is busy with others

    mailer.kill()
    inbox.client.set_behaviour()
    assert not mailer.is_running
    assert any(not mails for mails in copies(inbox, crowd).values()), "it died before it was done"
    mailer.start()
    owner.wait_for_hand_over(crowd)

    missed += mailer.value("mailer_ledger_errors_total", lane="otp")
    mails = copies(inbox, crowd)
    repeats = sum(map(len, mails.values())) - len(crowd)
    assert all(mails.values()), "every letter arrived"
    assert 1 <= repeats <= SLOTS + missed, "only what was in hand came twice"
    for person in crowd:
        raws = {inbox.client.raw(mail.id) for mail in mails[person.mark]}
        assert len(raws) == 1, "the same bytes"
        assert person.code in (inbox.client.mail(mails[person.mark][0].id).text or "")
    nothing_private_in(mailer.log_text(), crowd)


def _without_250(inbox: RunningInbox) -> int:
    stats = inbox.client.stats()
    return stats.stored - stats.accepted


def test_stopped_in_the_middle_of_a_body_it_waits_for_the_reply_and_nothing_comes_twice(
    mailer: MailerProcess, owner: OwnerHands, inbox: RunningInbox
) -> None:
    crowd = people(SLOTS)
    inbox.client.set_behaviour({"stage": "reply", "action": "delay", "delay_s": 2, "store": True})
    for person in crowd:
        owner.order_code(person)
    wait_until(lambda: inbox.client.newest_id() > 0 and _without_250(inbox) > 0, within_s=ARRIVES_S, what="a body")

    assert mailer.stop() == 0
    inbox.client.set_behaviour()
    mailer.start()
    owner.wait_for_hand_over(crowd)
    [last] = people(1)
    owner.order_code(last)
    owner.wait_for_hand_over([last])

    mails = copies(inbox, [*crowd, last])
    assert {len(mails[person.mark]) for person in [*crowd, last]} == {1}
    nothing_private_in(mailer.log_text(), crowd)


def test_a_lane_takes_no_more_while_another_is_drained(
    mailer: MailerProcess, owner: OwnerHands, inbox: RunningInbox
) -> None:
    applicant, citizen = people(2)
    inbox.client.set_behaviour({"to": applicant.email, "stage": "reply", "action": "delay", "delay_s": 4})
    owner.order_notice(applicant)
    wait_until(lambda: inbox.client.times_used() == [1], within_s=ARRIVES_S, what="a notice in the middle of its body")

    with ThreadPoolExecutor(1) as meanwhile:
        stopped = meanwhile.submit(mailer.stop)
        wait_until(lambda: "process_stopping" in mailer.log_text(), within_s=ARRIVES_S)
        owner.order_code(citizen)
        assert stopped.result() == 0

    assert {mark: len(mails) for mark, mails in copies(inbox, [applicant, citizen]).items()} == {
        applicant.mark: 1,
        citizen.mark: 0,
    }
    mailer.start()
    owner.wait_for_hand_over([applicant, citizen])
    assert {len(mails) for mails in copies(inbox, [applicant, citizen]).values()} == {1}


def test_records_that_are_no_orders_become_dead_letters_and_the_partition_goes_on(
    mailer: MailerProcess, owner: OwnerHands, inbox: RunningInbox
) -> None:
    [person] = people(1)
    key = person.mark.encode()
    rubbish = [b"", b"\xff\xff\xff", b"not an order", b"\x0a\x01x"]
    for value in rubbish:
        owner.write(CODE_REQUESTED, key, value)
    owner.order_code(person, key=key)

    owner.wait_for_hand_over([person])

    wait_until(lambda: len(owner.dead_letters()) >= len(rubbish), within_s=ARRIVES_S, what="dead letters")
    dead = owner.dead_letters()
    assert {(each.topic, each.key) for each in dead} == {(f"{CODE_REQUESTED}.dead", key)}
    assert sorted(each.value or b"" for each in dead) == sorted(rubbish)
    for each in dead:
        headers = {name: text.decode() for name, text in each.headers}
        assert (headers["dead-topic"], headers["ce_id"]) == (CODE_REQUESTED, "x")
        assert headers["dead-partition"].isdecimal()
        assert headers["dead-offset"].isdecimal()
        assert headers["dead-reason"].startswith("otp.code-requested.v1: not an order: ")
    assert len(copies(inbox, [person])[person.mark]) == 1
    assert mailer.value("inbox_records_total", topic=CODE_REQUESTED, outcome="dead_lettered") == len(rubbish)


def test_a_letter_that_is_withdrawn_while_its_relay_defers_it_is_never_sent(
    mailer: MailerProcess, owner: OwnerHands, inbox: RunningInbox
) -> None:
    withdrawn, wanted = people(2)
    inbox.client.set_behaviour({"stage": "rcpt", "action": "reply", "code": 451})
    owner.order_code(withdrawn)
    owner.order_code(wanted)
    wait_until(lambda: inbox.client.times_used()[0] >= 4, within_s=ARRIVES_S, what="letters that are tried again")
    assert owner.fates() == {}

    owner.want_code(withdrawn, withdrawn=True)

    assert owner.wait_for_drop(withdrawn) == mail_events_pb2.Dropped(
        reason=mail_events_pb2.DROP_REASON_WITHDRAWN, exposed=False
    )
    inbox.client.set_behaviour()
    owner.wait_for_hand_over([wanted])
    assert {mark: len(mails) for mark, mails in copies(inbox, [withdrawn, wanted]).items()} == {
        withdrawn.mark: 0,
        wanted.mark: 1,
    }
    assert mailer.value("mailer_wishes_total", kind="withdrawn") == 1
    assert mailer.value("mailer_emails_total", lane="otp", outcome="dropped") == 1


def test_a_wish_overtakes_a_letter_that_waits_for_a_slow_relay(
    mailer: MailerProcess, owner: OwnerHands, inbox: RunningInbox
) -> None:
    *before, last = people(SLOTS + 1)
    slow = {"stage": "rcpt", "action": "delay", "delay_s": SLOW_S, "times": 1}
    inbox.client.set_behaviour(*({**slow, "to": person.email} for person in before))
    for person in before:
        owner.order_code(person)
    wait_until(lambda: inbox.client.times_used() == [1] * SLOTS, within_s=ARRIVES_S, what="every slot in use")
    owner.order_code(last)

    owner.want_code(last, withdrawn=True)
    wait_until(lambda: wishes_heeded(mailer) >= 1, within_s=SLOW_S, what="the wish")

    assert owner.wait_for_drop(last).reason == mail_events_pb2.DROP_REASON_WITHDRAWN
    owner.wait_for_hand_over(before)
    assert copies(inbox, [last])[last.mark] == []


def test_a_letter_past_its_deadline_is_sent_if_it_was_wanted_for_longer_before_it_came(
    mailer: MailerProcess, owner: OwnerHands, inbox: RunningInbox
) -> None:
    late, awaited = people(2)
    now = datetime.now(UTC)
    deadline = Timestamp()
    deadline.FromDatetime(now - timedelta(seconds=1))
    owner.want_code(awaited, until=now + timedelta(minutes=5))
    wait_until(lambda: wishes_heeded(mailer) >= 1, within_s=ARRIVES_S, what="the wish")

    owner.order_code(late, deadline=deadline)
    owner.order_code(awaited, deadline=deadline)

    owner.wait_for_hand_over([awaited])
    assert owner.wait_for_drop(late).reason == mail_events_pb2.DROP_REASON_DEADLINE
    assert {mark: len(mails) for mark, mails in copies(inbox, [late, awaited]).items()} == {
        late.mark: 0,
        awaited.mark: 1,
    }


def test_a_record_that_is_no_wish_becomes_a_dead_letter_and_the_next_is_heeded(
    mailer: MailerProcess, owner: OwnerHands
) -> None:
    [person] = people(1)
    owner.write(CODE_WANTED, person.mark.encode(), b"not a wish")
    owner.want_code(person, withdrawn=True)

    wait_until(lambda: wishes_heeded(mailer) >= 1, within_s=ARRIVES_S, what="the wish")
    [dead] = wait_until(owner.dead_letters, within_s=ARRIVES_S, what="a dead letter")
    assert (dead.topic, dead.value) == (f"{CODE_WANTED}.dead", b"not a wish")
    assert mailer.value("inbox_records_total", topic=CODE_WANTED, outcome="handled") == 1


def test_without_its_ledger_codes_go_on_and_notices_wait(
    tmp_path: Path, broker: KafkaBroker, owner: OwnerHands, inbox: RunningInbox
) -> None:
    citizen, applicant = people(2)
    redis = ValkeyServer(tmp_path / "redis")
    redis.start()
    mailer = mailer_in(tmp_path, broker, redis.address, inbox)
    mailer.start()
    try:
        redis.stop()
        owner.order_notice(applicant)
        wait_until(
            lambda: mailer.value("mailer_ledger_errors_total", lane="notice") >= 2, within_s=ARRIVES_S, what="tries"
        )
        owner.order_code(citizen)
        owner.wait_for_hand_over([citizen])
        assert applicant.mark not in owner.fates()
        assert [mail.rcpt_to for mail in inbox.client.messages()] == [(citizen.email,)]

        redis.start()
        owner.wait_for_hand_over([applicant])
        assert mailer.stop() == 0
    finally:
        mailer.kill()
        redis.stop()


def test_a_service_may_start_before_everything_that_it_needs(
    tmp_path: Path, owner: OwnerHands, broker: KafkaBroker, inbox: RunningInbox
) -> None:
    [person] = people(1)
    redis = ValkeyServer(tmp_path / "redis")
    redis.port("redis")  # chosen now, started later
    mailer = mailer_in(tmp_path, broker, redis.address, inbox)
    owner.order_code(person)
    mailer.start()
    try:
        owner.wait_for_hand_over([person])
        redis.start()
        assert mailer.stop() == 0
    finally:
        mailer.kill()
        redis.stop()


@pytest.mark.parametrize(
    ("file", "text", "told"),
    [
        ("seal-code.json", "{}", "seal-code.json is not a key ring"),
        ("code.json", None, "code.json cannot be read"),
        ("ca.pem", "no certificate", "ca.pem holds no certificate"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_at_the_start_without_a_traceback(
    tmp_path: Path, file: str, text: str | None, told: str
) -> None:
    mailer = MailerProcess(tmp_path, brokers="127.0.0.1:1", redis="127.0.0.1:1", relay="127.0.0.1:1")
    mailer.prepare()
    (tmp_path / file).unlink(missing_ok=True)
    if text is not None:
        (tmp_path / file).write_text(text)
    tls = {"MAILER_RELAY_STARTTLS": "true", "MAILER_RELAY_CA_FILE": str(tmp_path / "ca.pem")} if "ca" in file else {}

    ended = subprocess.run(
        mailer.command(),
        env=mailer.environment() | tls,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ended.returncode == 2
    assert ended.stderr.startswith("Cannot start: ")
    assert told in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
