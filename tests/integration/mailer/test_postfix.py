"""Through a real Postfix: what leaves the gateway is what lies in the mailbox behind the relay."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from email import policy
from email.parser import BytesParser

import pytest

from deploy.dev import postfix_relay
from deploy.dev.postfix_relay import PostfixRelay
from services.chassis.clock import system_clock
from services.mailer.outbound.smtp_gateway import Relay
from services.mailer.rules.outcome import HandedOver, Refused
from tests.conditions import eventually
from tests.integration.inbox.running_inbox import RunningInbox
from tests.integration.mailer.smtp_wire import SmtpWire, Steps, letter, smtp_wire
from tests.servers.require import require

RULES = "check_recipient_access inline:{{gone@example.vn=550 5.1.1 no such person}}, permit_mynetworks, reject"
ADDED = {"Return-Path", "Received", "Delivered-To"}  # by any relay


@pytest.fixture(scope="module")
def postfix(shared_inbox: RunningInbox) -> Iterator[PostfixRelay]:
    require(postfix_relay.why_missing())
    relay = PostfixRelay(f"127.0.0.1:{shared_inbox.smtp_port}", settings={"smtpd_recipient_restrictions": RULES})
    relay.start()
    yield relay
    relay.remove()


def through(postfix: PostfixRelay) -> Relay:
    return Relay("relay-1", postfix.address, None)


async def test_a_letter_arrives_behind_the_relay_as_it_left(inbox: RunningInbox, postfix: PostfixRelay) -> None:
    sent = letter()
    async with smtp_wire(inbox, relay=through(postfix)) as smtp:
        answer = await smtp.gateway.send(sent, Steps())
    mail = await asyncio.to_thread(inbox.client.wait_for_mail, sent.recipient, timeout_s=20)

    assert isinstance(answer, HandedOver)
    raw = inbox.client.raw(mail.id)
    left, arrived = (octets.partition(b"\r\n\r\n") for octets in (sent.octets, raw))
    assert arrived[2] == left[2], "the body, octet for octet"
    parse = BytesParser(policy=policy.compat32).parsebytes
    assert [pair for pair in parse(raw).items() if pair[0] not in ADDED] == parse(sent.octets).items()
    assert mail.message_id == "<challenge-1.1@kip.example>"
    assert (mail.mail_from, mail.rcpt_to) == (sent.sender, (sent.recipient,))


async def test_the_queue_id_that_is_told_is_the_one_in_the_log_of_the_relay(
    inbox: RunningInbox, postfix: PostfixRelay
) -> None:
    async with smtp_wire(inbox, relay=through(postfix)) as smtp:
        answer = await smtp.gateway.send(letter(7), Steps())

    assert isinstance(answer, HandedOver)
    assert answer.relay_id
    await eventually(
        lambda: f"{answer.relay_id}: message-id=<challenge-7.1@kip.example>" in postfix.log_text(), within_s=20
    )
    await eventually(lambda: f"{answer.relay_id}: removed" in postfix.log_text(), within_s=20, what="its delivery")


async def test_a_recipient_that_the_relay_does_not_know_is_refused(inbox: RunningInbox, postfix: PostfixRelay) -> None:
    before = system_clock()
    async with smtp_wire(inbox, relay=through(postfix)) as smtp:
        answer = await smtp.gateway.send(letter(to="gone@example.vn"), Steps())

    assert isinstance(answer, Refused)
    assert answer.at >= before
    assert (answer.reply_code, answer.status) == (550, "5.1.1")


async def test_many_letters_share_connections_and_none_is_lost(inbox: RunningInbox, postfix: PostfixRelay) -> None:
    people = [f"lan+{number}@example.vn" for number in range(30)]

    async def send(smtp: SmtpWire, number: int) -> bool:
        return isinstance(await smtp.gateway.send(letter(number, people[number]), Steps()), HandedOver)

    async with smtp_wire(inbox, relay=through(postfix)) as smtp:
        results = await asyncio.gather(*(send(smtp, number) for number in range(len(people))))

    assert all(results)
    await eventually(
        lambda: sorted(mail.rcpt_to[0] for mail in inbox.client.messages(limit=100)) == sorted(people), within_s=30
    )
