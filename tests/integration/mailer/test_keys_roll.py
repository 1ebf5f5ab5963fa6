"""Keys that are rolled in the wrong order, under load: otp uses new ones before the mailer has them."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from redis import Redis

from deploy.dev.kafka_broker import KafkaBroker
from tests.conditions import wait_until
from tests.conftest import Server
from tests.integration.inbox.running_inbox import RunningInbox
from tests.integration.mailer.mailer_process import RINGS, MailerProcess
from tests.integration.mailer.owner_hands import OwnerHands, Person, owner_hands, people

NEW = {"code": "c2", "seal-code": "s2"}
EACH = 12  # letters of a kind at a time; a mailer that waits in place holds 64
ARRIVES_S = 90

pytestmark = pytest.mark.timeout(240)


class Crowd:
    """People of three kinds, who ask in turns."""

    def __init__(self, count: int) -> None:
        self.old, self.new_seal, self.new_code = people(count), people(count), people(count)

    def order(self, owner: OwnerHands) -> None:
        """Ask for everybody's code."""
        for old, new_seal, new_code in zip(self.old, self.new_seal, self.new_code, strict=True):
            owner.order_code(old)
            owner.order_code(new_seal, seal_kid=NEW["seal-code"])
            owner.order_code(new_code, code_kid=NEW["code"])

    @property
    def ahead(self) -> list[Person]:
        """Whose letters need a key that the mailer lacks."""
        return [*self.new_seal, *self.new_code]


def met(redis: str, persons: list[Person]) -> bool:
    """Say whether the mailer took up each of their letters, as its ledger has it."""
    with Redis.from_url(f"redis://{redis}/0") as ledger:
        return bool(ledger.exists(*(f"mailer:{{{person.mark}.1}}" for person in persons)) == len(persons))


def test_letters_that_need_a_key_which_is_not_here_yet_wait_for_it_and_arrive(
    tmp_path: Path, broker: KafkaBroker, redis_server: Server, inbox: RunningInbox
) -> None:
    before, meanwhile = Crowd(EACH), Crowd(EACH)
    mailer = MailerProcess(
        tmp_path, brokers=broker.address, redis=redis_server.address, relay=f"127.0.0.1:{inbox.smtp_port}"
    )
    stored = inbox.client.stats().stored
    mailer.start()
    try:
        with owner_hands(broker.address) as owner:
            before.order(owner)
            owner.wait_for_hand_over(before.old, within_s=ARRIVES_S)
            wait_until(
                lambda: met(redis_server.address, before.ahead), within_s=ARRIVES_S, what="letters without their key"
            )
            fates = owner.fates()
            assert all(fates.get(person.mark, set()) <= {"deferred"} for person in before.ahead)
            assert inbox.client.stats().stored == len(before.old) + stored

            assert mailer.stop() == 0
            meanwhile.order(owner)
            mailer.kids = {ring: [kid, *([NEW[ring]] if ring in NEW else [])] for ring, kid in RINGS.items()}
            mailer.start()
            everybody = [*before.old, *before.ahead, *meanwhile.old, *meanwhile.ahead]
            owner.wait_for_hand_over(everybody, within_s=ARRIVES_S)

            assert owner.dead_letters() == []
            missed = mailer.value("mailer_ledger_errors_total", lane="otp")
    finally:
        mailer.kill()
    mails = inbox.client.messages(limit=500)
    assert {mail.rcpt_to for mail in mails} == {(person.email,) for person in everybody}
    assert len(mails) <= len(everybody) + missed
    for person in itertools.chain(before.new_code, meanwhile.new_code):
        [mail, *_] = [mail for mail in mails if mail.rcpt_to == (person.email,)]
        assert person.code_by(NEW["code"]) in (inbox.client.mail(mail.id).text or "")
