"""`kip-dead` beside a mailer that had a bad release: listed, shown without secrets, put back once it is mended, closed.

The bad release has the wrong key under the right name, so that no seal of a code opens. The broker is this module's
own, because the mailer's groups have one place each.
"""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from kip.mailer.v1 import mail_events_pb2

from deploy.create_topics import create_topics, laptop
from deploy.dead_letters.__main__ import main as kip_dead
from deploy.dev.kafka_broker import KafkaBroker
from tests.conditions import wait_until
from tests.conftest import Server
from tests.integration.inbox.running_inbox import RunningInbox
from tests.integration.mailer.mailer_process import NOBODY, RINGS, ROOT, MailerProcess
from tests.integration.mailer.owner_hands import (
    CODE_REQUESTED,
    NOTICE_REQUESTED,
    OwnerHands,
    Person,
    owner_hands,
    people,
)

ARRIVES_S = 60
RUBBISH = b"\xff\xff lan@example.vn"
CODES, NOTICES = f"{CODE_REQUESTED}.dead", f"{NOTICE_REQUESTED}.dead"
NAME = re.compile(r"[\w.-]+\.dead@\d+:\d+")

pytestmark = pytest.mark.timeout(180)


class Release(MailerProcess):
    """The mailer, with a wrong seal key of codes until it is mended."""

    is_mended = False

    def prepare(self) -> None:
        """Write the rings."""
        super().prepare()
        if not self.is_mended:
            secret = base64.b64encode(b"another-secret".ljust(32, b"-")).decode()
            key = {"kid": RINGS["seal-code"], "secret": secret, "not_before": "2026-01-01T00:00:00Z", "until": None}
            (self.working_directory() / "seal-code.json").write_text(json.dumps({"keys": [key]}))


@dataclass
class Scene:
    """A broker, a mailer that has stopped after its bad release, and who waits in vain."""

    broker: KafkaBroker
    mailer: Release
    owner: OwnerHands
    citizen: Person
    late: Person
    buggy: Person
    stranger: Person
    """Whose notice names a template that nobody wrote."""
    silent: Person
    """Whose notice lacks its parameters."""
    names: dict[str, str] = field(default_factory=dict)
    """What `kip-dead` calls the dead letter of each, by their mark."""

    def kip_dead(self, *words: str, status: int = 0) -> str:
        """Run the command to its end, in this process, which is sooner; return all it said."""
        said = io.StringIO()
        with redirect_stdout(said), redirect_stderr(said):
            ended = kip_dead(["--brokers", self.broker.address, *words])
        assert ended == status, said.getvalue()
        assert "@example.vn" not in said.getvalue()
        return said.getvalue()

    def dead(self) -> list[Any]:
        """Return the dead letters so far; marks are none."""
        return [record for record in self.owner.dead_letters() if dict(record.headers).get("dead-kind")]


@pytest.fixture(scope="module")
def scene(
    tmp_path_factory: pytest.TempPathFactory, redis_server: Server, shared_inbox: RunningInbox
) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("release")
    broker = KafkaBroker(tmp_path_factory.mktemp("kafka"))
    broker.start()
    try:
        create_topics(laptop(broker.address))
        relay = f"127.0.0.1:{shared_inbox.smtp_port}"
        mailer = Release(folder, brokers=broker.address, redis=redis_server.address, relay=relay)
        with owner_hands(broker.address) as owner:
            citizen, late, buggy, stranger, silent = people(5)
            made = Scene(broker, mailer, owner, citizen, late, buggy, stranger, silent)
            _pour(made)
            yield made
            mailer.kill()
    finally:
        broker.stop()


def _pour(scene: Scene) -> None:
    """Order what the bad release makes six dead letters of, and stop it."""
    owner, now = scene.owner, datetime.now(UTC)
    end_of_time = Timestamp()
    end_of_time.FromDatetime(datetime(9999, 12, 31, tzinfo=UTC))
    owner.write(CODE_REQUESTED, b"rubbish", RUBBISH)
    owner.order_code(scene.citizen, expires=now + timedelta(minutes=14))
    owner.order_code(scene.late, expires=now - timedelta(seconds=1))
    # A bug that is left: there is no day after this deadline. And an address where none may stand.
    owner.order_code(scene.buggy, deadline=end_of_time, reference="lan.x@example.vn")
    owner.order_notice(scene.stranger, letter="unheard-of")
    owner.order_notice(scene.silent, parameters={})
    scene.mailer.start()
    wait_until(lambda: len(scene.dead()) >= 6, within_s=ARRIVES_S, what="six dead letters")
    wait_until(lambda: len(owner.fates()) >= 5, within_s=ARRIVES_S, what="their owners are told")
    assert scene.mailer.stop() == 0
    for record in scene.dead():
        scene.names.setdefault(record.key.decode(), f"{record.topic}@{record.partition}:{record.offset}")


def kinds_of(scene: Scene) -> dict[str, str]:
    return {record.key.decode(): dict(record.headers)["dead-kind"].decode() for record in scene.dead()}


def test_each_kind_of_poison_is_a_dead_letter_of_its_kind_and_its_owner_is_told(scene: Scene) -> None:
    told = scene.owner.fates()

    assert kinds_of(scene) == {
        "rubbish": "undecodable",
        scene.citizen.mark: "seal-broken",
        scene.late.mark: "seal-broken",
        scene.buggy.mark: "handler-failed",
        scene.stranger.mark: "unknown-template",
        scene.silent.mark: "missing-parameter",
    }
    assert "rubbish" not in told, "it does not say whose it is"
    assert all("dropped" in told[person.mark] for person in (scene.citizen, scene.buggy, scene.stranger, scene.silent))


def test_list_counts_by_topic_kind_and_reason_and_names_each(scene: Scene) -> None:
    listed = scene.kip_dead("list")
    codes = scene.kip_dead("list", "--topic", CODE_REQUESTED, "--limit", "1")

    assert f"{CODES}: " in listed
    assert f"{NOTICES}: " in listed
    assert f"undecodable: {CODE_REQUESTED}: not an order" in listed
    assert "unknown-template: no letter is called 'unheard-of'; known: code" in listed
    assert re.search(r"missing-parameter: letter dossier-advanced: '\w+' is undefined", listed)
    assert "handler-failed: the handler failed 5 times with OverflowError" in listed
    assert set(scene.names.values()) <= set(NAME.findall(listed))
    assert NOTICES not in codes
    assert len(NAME.findall(codes)) == 1
    assert "No dead letter is like that." in scene.kip_dead("list", "--reason", "nobody ever said this")
    assert "No dead letter is like that." in scene.kip_dead("list", "--since", "2099-01-01T00:00:00Z")


def test_as_a_process_it_says_only_what_it_means(scene: Scene) -> None:
    words = ["--brokers", scene.broker.address, "list", "--kind", "seal-broken"]
    environment = {"PYTHONPATH": f"{ROOT / 'protos'}:{ROOT}"}

    ended = subprocess.run(
        [sys.executable, "-m", "deploy.dead_letters", *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )

    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith(f"{CODES}: ")


def test_without_a_broker_it_says_so_and_ends() -> None:
    said = io.StringIO()
    with redirect_stderr(said):
        ended = kip_dead(["--brokers", NOBODY, "list"])

    assert ended == 1
    assert said.getvalue().startswith(f"Kafka does not answer at {NOBODY} (")


def test_show_tells_where_when_and_why_and_nothing_that_is_sealed_or_personal(scene: Scene) -> None:
    shown = scene.kip_dead("show", scene.names[scene.citizen.mark])
    rubbish = scene.kip_dead("show", scene.names["rubbish"])
    buggy = scene.kip_dead("show", scene.names[scene.buggy.mark])

    assert re.search(rf"where: {re.escape(CODE_REQUESTED)}, partition \d+, offset \d+, group mailer-otp", shown)
    assert "reason: the sealed part does not open" in shown
    assert f"challenge_id: {scene.citizen.mark}" in shown
    assert re.search(r"sealed: sealed with key s1, \d+ octets", shown)
    assert "context_sha256: 32 octets" in shown
    assert "Lan" not in shown
    assert f"event: {len(RUBBISH)} octets that do not decode" in rubbish
    assert "reference: ***@***" in buggy


def test_what_cannot_be_done_is_told_with_what_to_do(scene: Scene) -> None:
    assert "kip-dead list" in scene.kip_dead("show", f"{CODES}@0:9999", status=1)
    assert "Say --yes; nothing was done." in scene.kip_dead("redrive", scene.names[scene.citizen.mark], status=1)


def test_after_the_mended_release_what_is_put_back_is_mailed_once_and_what_is_closed_stays(
    scene: Scene, inbox: RunningInbox
) -> None:
    scene.mailer.is_mended = True
    scene.mailer.start()

    assert "1 dead letter closed." in scene.kip_dead("drop", scene.names["rubbish"], "--yes")
    put_back = scene.kip_dead("redrive", "--all", "--yes", status=1)

    assert "4 dead letters put back." in put_back
    assert "1 dead letter refused: past the time when somebody needed it." in put_back
    assert scene.names["rubbish"] not in put_back
    mail = inbox.client.wait_for_mail(scene.citizen.email, timeout_s=ARRIVES_S)
    assert scene.citizen.code in (mail.text or "")
    wait_until(lambda: "handed_over" in scene.owner.fates()[scene.citizen.mark], within_s=ARRIVES_S)

    again = wait_until(lambda: _second_deaths(scene), within_s=ARRIVES_S, what="what no release can mend dies again")
    assert again == {scene.buggy.mark, scene.stranger.mark, scene.silent.mark}
    assert "for the 2. time" in scene.kip_dead("list")

    late = scene.kip_dead("redrive", "--kind", "seal-broken", "--even-expired", "--yes")
    assert "1 dead letter put back." in late, "what was put back is not put back twice"
    inbox.client.wait_for_mail(scene.late.email, timeout_s=ARRIVES_S)
    assert "1 dropped" in scene.kip_dead("list", "--topic", CODES)
    assert scene.owner.wait_for_fate(scene.citizen, "dropped").dropped == mail_events_pb2.Dropped(
        reason=mail_events_pb2.DROP_REASON_DEAD_LETTERED, exposed=True
    )


def _second_deaths(scene: Scene) -> set[str]:
    twice = [record for record in scene.dead() if dict(record.headers)["dead-times"] == b"2"]
    for record in twice:
        assert len(record.headers) == len(dict(record.headers)), "nothing is stacked"
    marks = {record.key.decode() for record in twice}
    return marks if len(marks) >= 3 else set()
