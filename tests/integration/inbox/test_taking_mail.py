"""Every mail is taken, kept byte for byte and shown, however odd it is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from email.utils import format_datetime

import aiosmtplib
import pytest

from tests.integration.inbox.running_inbox import MAIL, SENDER, RunningInbox


async def test_a_mail_is_kept_byte_for_byte(inbox: RunningInbox) -> None:
    reply = await inbox.send()

    mail = inbox.client.wait_for_mail("lan@example.vn")
    assert reply == f"2.0.0 Ok: queued as {mail.id}"
    assert inbox.client.raw(mail.id) == MAIL
    assert (mail.mail_from, mail.rcpt_to, mail.size) == (SENDER, ("lan@example.vn",), len(MAIL))


async def test_a_vietnamese_letter_is_shown_decoded(inbox: RunningInbox) -> None:
    letter = EmailMessage()
    letter["Subject"] = "Mã xác nhận của bạn · 7K3Q"
    letter["Date"] = format_datetime(datetime.now(UTC) - timedelta(minutes=12))
    letter["Auto-Submitted"] = "auto-generated"
    letter["X-Kip-Lane"] = "otp"
    letter.set_content("Mã của bạn: 482 913\n", cte="quoted-printable")
    letter.add_alternative("<p>Mã của bạn: <b>482 913</b></p>\n", subtype="html", cte="base64")

    await inbox.send(letter.as_bytes())

    mail = inbox.client.wait_for_mail("lan@example.vn")
    assert mail.subject == "Mã xác nhận của bạn · 7K3Q"
    assert mail.text == "Mã của bạn: 482 913\n"
    assert mail.html == "<p>Mã của bạn: <b>482 913</b></p>\n"
    assert mail.headers["Auto-Submitted"] == "auto-generated"
    assert mail.headers["X-Kip-Lane"] == "otp"
    assert 720 <= (mail.age_on_arrival_s or 0) < 780
    assert mail.received_at.tzinfo is not None


async def test_one_mail_to_two_people_is_one_mail_found_by_both(inbox: RunningInbox) -> None:
    await inbox.send(MAIL, "lan@example.vn", "minh@example.vn")

    for address in ("lan@example.vn", "MINH@example.vn"):
        assert [mail.rcpt_to for mail in inbox.client.messages(address)] == [("lan@example.vn", "minh@example.vn")]


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"\r\n", id="empty"),
        pytest.param(b"no headers at all\r\n", id="no headers"),
        pytest.param(
            b"Subject: \xff\xfe\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\nM\xc3\xa3\r\n", id="lies"
        ),
        pytest.param(bytes(range(256)).replace(b"\r", b"").replace(b"\n", b"") + b"\r\n", id="all bytes"),
        pytest.param(b"x" * 300_000 + b"\r\n.\r\n." + b"y" * 70_000 + b"\r\n", id="endless lines"),
        pytest.param(b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n" * 500, id="parts in parts"),
    ],
)
async def test_a_malformed_mail_is_kept_and_shown(inbox: RunningInbox, raw: bytes) -> None:
    await inbox.send(raw)

    mail = inbox.client.wait_for_mail("lan@example.vn")
    assert inbox.client.raw(mail.id) == raw
    assert [each.id for each in inbox.client.messages()] == [mail.id]


async def test_an_address_beyond_ascii_is_kept(inbox: RunningInbox) -> None:
    async with await inbox.connect() as client:
        await client.sendmail(SENDER, ["người@ví-dụ.vn"], MAIL, mail_options=["SMTPUTF8", "BODY=8BITMIME"])

    assert inbox.client.wait_for_mail("người@ví-dụ.vn").rcpt_to == ("người@ví-dụ.vn",)


async def test_one_connection_carries_many_mails(inbox: RunningInbox) -> None:
    connections = inbox.client.stats().connections

    async with await inbox.connect() as client:
        for _ in range(5):
            await client.sendmail(SENDER, ["lan@example.vn"], MAIL)

    assert len(inbox.client.messages()) == 5
    assert inbox.client.stats().connections == connections + 1


async def test_a_mail_beyond_the_size_limit_is_refused_and_the_connection_goes_on(inbox: RunningInbox) -> None:
    async with await inbox.connect() as client:
        await client.ehlo()
        await client.mail(SENDER)  # does not announce the size
        await client.rcpt("lan@example.vn")
        with pytest.raises(aiosmtplib.SMTPDataError) as refusal:
            await client.data(b"x" * 100 + b"\r\n" + b"y" * 6_000_000 + b"\r\n")
        await client.sendmail(SENDER, ["minh@example.vn"], MAIL)

    assert refusal.value.code == 552
    assert [mail.rcpt_to for mail in inbox.client.messages()] == [("minh@example.vn",)]


async def talk(inbox: RunningInbox, *lines: bytes) -> bytes:
    """Write all lines at once, then QUIT, and return everything the inbox says."""
    async with inbox.wire() as wire:
        await wire.say(b"\r\n".join([b"EHLO test", *lines, b"QUIT"]))
        return await wire.reader.read()


async def test_commands_sent_in_one_go_are_answered_in_order(inbox: RunningInbox) -> None:
    said = await talk(inbox, b"MAIL FROM:<>", b"RCPT TO:<lan@example.vn>", b"DATA", b"Subject: hi", b"", b"..", b".")

    assert [line[:3] for line in said.splitlines()[-5:]] == [b"250", b"250", b"354", b"250", b"221"]
    mail = inbox.client.wait_for_mail("lan@example.vn")
    assert inbox.client.raw(mail.id) == b"Subject: hi\r\n\r\n.\r\n"
    assert mail.mail_from == ""


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (b".", b""),
        (b"\r\n.", b"\r\n"),
        (b"..\r\n...\r\n.", b".\r\n..\r\n"),
        (b".unstuffed\r\na.\r\nb\n.\n\r.\r\n.", b"unstuffed\r\na.\r\nb\n.\n\r.\r\n"),
        (
            b"." + b"x" * 70_000 + b".\r\n..\r\n" + b"y" * 65_533 + b"\r\n.",
            b"x" * 70_000 + b".\r\n.\r\n" + b"y" * 65_533 + b"\r\n",
        ),
    ],
)
async def test_only_a_dot_between_two_line_ends_ends_a_mail(inbox: RunningInbox, sent: bytes, kept: bytes) -> None:
    await talk(inbox, b"MAIL FROM:<a@b.vn>", b"RCPT TO:<lan@example.vn>", b"DATA", sent)

    [mail] = inbox.client.messages()
    assert inbox.client.raw(mail.id) == kept


async def test_commands_out_of_order_are_refused(inbox: RunningInbox) -> None:
    said = await talk(
        inbox, b"DATA", b"RCPT TO:<lan@example.vn>", b"MAIL FROM:<a@b.vn>", b"DATA", b"\xff\xfe", b"LUNCH"
    )

    assert [line[:3] for line in said.splitlines()[-7:]] == [b"503", b"503", b"250", b"503", b"500", b"500", b"221"]


async def test_a_client_that_leaves_in_mid_body_leaves_no_mail(inbox: RunningInbox) -> None:
    stats = inbox.client.stats()

    async with inbox.wire() as wire:
        await wire.say(b"EHLO test\r\nMAIL FROM:<a@b.vn>\r\nRCPT TO:<lan@example.vn>\r\nDATA\r\nSubject: half")
        await wire.reader.readuntil(b"354")
    await inbox.send(MAIL, "minh@example.vn")

    assert [mail.rcpt_to for mail in inbox.client.messages()] == [("minh@example.vn",)]
    assert inbox.client.stats().accepted == stats.accepted + 1
