"""Every fault of `behaviour.py` at every stage, as a real SMTP client meets it."""

from __future__ import annotations

import time
from contextlib import suppress

import aiosmtplib
import pytest

from deploy.dev.inbox.client import InboxError, Stats
from tests.conditions import eventually
from tests.integration.inbox.running_inbox import MAIL, SENDER, RunningInbox

STAGES = ["connect", "mail", "rcpt", "data", "body", "reply"]
USUAL_CODES = {"connect": b"220", "mail": b"250", "rcpt": b"250", "data": b"354", "body": b"421", "reply": b"250"}
COMMANDS = [b"EHLO test", b"MAIL FROM:<a@b.vn>", b"RCPT TO:<lan@example.vn>", b"DATA", b"Subject: hi\r\n\r\nhi\r\n."]


def count(stats: Stats, fault: str, stage: str) -> int:
    by_stage: dict[str, int] = getattr(stats, fault)
    return by_stage[stage]


async def say(inbox: RunningInbox, commands: list[bytes]) -> bytes:
    """Send each command once the one before is answered; return all that was heard until the inbox closed."""
    heard = b""
    async with inbox.wire() as wire:
        with suppress(ConnectionError):
            for command in [*commands, b"QUIT"]:
                heard += await wire.hear()
                await wire.say(command)
            while reply := await wire.hear():
                heard += reply
    return heard


@pytest.mark.parametrize("code", [421, 450, 451, 550])
@pytest.mark.parametrize("stage", STAGES)
async def test_a_scripted_code_reaches_the_client(inbox: RunningInbox, stage: str, code: int) -> None:
    before = inbox.client.stats()
    inbox.client.set_behaviour({"stage": stage, "action": "reply", "code": code, "text": "4.7.1 later", "times": 1})

    with pytest.raises(aiosmtplib.SMTPException) as refusal:
        await inbox.send()
    reply = await inbox.send()

    cause = (
        refusal.value.recipients[0] if isinstance(refusal.value, aiosmtplib.SMTPRecipientsRefused) else refusal.value
    )
    assert isinstance(cause, aiosmtplib.SMTPResponseException)
    assert (cause.code, cause.message) == (code, "4.7.1 later")
    assert reply.startswith("2.0.0 Ok")
    assert len(inbox.client.messages()) == 1
    assert inbox.client.times_used() == [1]
    assert count(inbox.client.stats(), "refused", stage) == count(before, "refused", stage) + 1


@pytest.mark.parametrize("stage", STAGES)
async def test_a_delay_makes_the_client_wait_and_then_all_is_well(inbox: RunningInbox, stage: str) -> None:
    before = inbox.client.stats()
    inbox.client.set_behaviour({"stage": stage, "action": "delay", "delay_s": 0.3})
    started = time.monotonic()

    await inbox.send()

    assert time.monotonic() - started >= 0.3
    assert len(inbox.client.messages()) == 1
    assert count(inbox.client.stats(), "delayed", stage) == count(before, "delayed", stage) + 1


@pytest.mark.parametrize("stage", STAGES)
async def test_a_cut_breaks_the_connection_and_leaves_no_mail(inbox: RunningInbox, stage: str) -> None:
    before = inbox.client.stats()
    inbox.client.set_behaviour({"stage": stage, "action": "cut"})

    with pytest.raises((aiosmtplib.SMTPServerDisconnected, aiosmtplib.SMTPConnectError)):
        await inbox.send()

    assert inbox.client.messages() == []
    assert count(inbox.client.stats(), "cut", stage) == count(before, "cut", stage) + 1


@pytest.mark.parametrize("stage", STAGES)
async def test_half_a_line_is_all_the_client_hears(inbox: RunningInbox, stage: str) -> None:
    before = inbox.client.stats()
    inbox.client.set_behaviour({"stage": stage, "action": "half_line", "code": 451, "text": "0123456789"})

    heard = await say(inbox, COMMANDS)

    assert heard.endswith(b"451 012")
    assert inbox.client.messages() == []
    assert count(inbox.client.stats(), "half_line", stage) == count(before, "half_line", stage) + 1


@pytest.mark.parametrize("stage", STAGES)
async def test_a_double_reply_comes_in_one_piece(inbox: RunningInbox, stage: str) -> None:
    before = inbox.client.stats()
    inbox.client.set_behaviour({"stage": stage, "action": "double_reply", "text": "twice"})

    heard = await say(inbox, COMMANDS)

    assert heard.count(b"twice\r\n" + USUAL_CODES[stage] + b" twice\r\n") == 1
    assert len(inbox.client.messages()) == (stage != "body")
    assert count(inbox.client.stats(), "double_reply", stage) == count(before, "double_reply", stage) + 1


async def test_after_a_double_reply_the_client_takes_an_old_answer_for_the_new_one(inbox: RunningInbox) -> None:
    inbox.client.set_behaviour({"stage": "mail", "action": "double_reply", "code": 450, "text": "twice", "times": 1})
    client = await inbox.connect()
    await client.ehlo()

    with pytest.raises(aiosmtplib.SMTPSenderRefused):
        await client.mail(SENDER)
    with pytest.raises(aiosmtplib.SMTPResponseException, match="450, 'twice'"):
        await client.rset()

    client.close()


@pytest.mark.parametrize("action", ["cut", "half_line"])
async def test_with_store_the_mail_is_kept_although_the_client_never_hears_so(inbox: RunningInbox, action: str) -> None:
    before = inbox.client.stats()
    inbox.client.set_behaviour({"stage": "reply", "action": action, "store": True, "times": 1})

    with pytest.raises(aiosmtplib.SMTPServerDisconnected):
        await inbox.send()

    assert len(inbox.client.messages("lan@example.vn")) == 1
    after = inbox.client.stats()
    assert (after.stored, after.accepted) == (before.stored + 1, before.accepted)


async def test_with_store_a_refused_mail_is_kept_once(inbox: RunningInbox) -> None:
    inbox.client.set_behaviour(
        {"stage": "reply", "action": "delay", "delay_s": 0.05, "store": True},
        {"stage": "reply", "action": "reply", "code": 451, "store": True},
    )

    with pytest.raises(aiosmtplib.SMTPDataError):
        await inbox.send()

    assert len(inbox.client.messages("lan@example.vn")) == 1


async def test_a_client_that_gives_up_waiting_finds_its_mail_kept_only_with_store(inbox: RunningInbox) -> None:
    delay = {"stage": "reply", "action": "delay", "delay_s": 600}
    inbox.client.set_behaviour({**delay, "to": "lan@*", "store": True}, {**delay, "to": "minh@*"})

    for address, used in ((b"lan@example.vn", [1, 0]), (b"minh@example.vn", [1, 1])):
        async with inbox.wire() as wire:
            await wire.say(b"EHLO test\r\nMAIL FROM:<a@b.vn>\r\nRCPT TO:<" + address + b">\r\nDATA\r\nSubject: hi\r\n.")
            await eventually(lambda: inbox.client.times_used() == used, what="it waits")  # noqa: B023  called here

    await eventually(lambda: inbox.client.stats().open_connections == 0, what="the waiting conversations end")
    assert [mail.rcpt_to for mail in inbox.client.messages()] == [("lan@example.vn",)]


async def test_a_421_ends_the_connection_and_a_450_does_not(inbox: RunningInbox) -> None:
    inbox.client.set_behaviour(
        {"to": "lan@*", "stage": "rcpt", "action": "reply", "code": 450},
        {"to": "minh@*", "stage": "rcpt", "action": "reply", "code": 421},
    )
    client = await inbox.connect()
    await client.ehlo()
    await client.mail(SENDER)

    with pytest.raises(aiosmtplib.SMTPRecipientRefused):
        await client.rcpt("lan@example.vn")
    accepted = await client.rcpt("thu@example.vn")
    with pytest.raises(aiosmtplib.SMTPRecipientRefused):
        await client.rcpt("minh@example.vn")

    assert accepted.code == 250
    await eventually(lambda: inbox.client.stats().open_connections == 0, what="the inbox closed after its 421")
    client.close()


async def test_one_bad_recipient_does_not_keep_the_mail_from_the_others(inbox: RunningInbox) -> None:
    inbox.client.set_behaviour(
        {"to": "gone@*", "stage": "rcpt", "action": "reply", "code": 550, "text": "5.1.1 unknown"}
    )

    await inbox.send(MAIL, "gone@example.vn", "lan@example.vn")

    assert [mail.rcpt_to for mail in inbox.client.messages()] == [("lan@example.vn",)]


async def test_bad_rules_are_refused_and_the_old_ones_stay(inbox: RunningInbox) -> None:
    inbox.client.set_behaviour({"stage": "mail", "action": "cut", "times": 3})

    with pytest.raises(InboxError, match=r'400: .*"field": "1\.delay_s", "why": ".*needs delay_s'):
        inbox.client.set_behaviour({"stage": "mail", "action": "cut"}, {"stage": "mail", "action": "delay"})

    assert inbox.client.times_used() == [0]
