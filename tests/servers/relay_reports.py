"""Delivery status notifications as relays write them, and as nobody should."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import format_datetime

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)  # that of the fake clocks
HUMAN = "This is the mail system at host relay.test.\r\n\r\n    Your message could not be delivered."


def report(
    action: str = "failed",
    *,
    envelope_id: str = "",
    status: str = "5.1.1",
    groups: Sequence[str] = (),
    head: str = "",
    human: str = HUMAN,
) -> bytes:
    """Return a notification of Postfix's form, dated at noon; `groups` instead of the one about the recipient."""
    about_mail = "Reporting-MTA: dns; relay.test\r\n" + (
        f"Original-Envelope-Id: {envelope_id}\r\n" if envelope_id else ""
    )
    about = (
        "Final-Recipient: rfc822; lan@example.vn\r\n"
        f"Action: {action}\r\nStatus: {status}\r\nDiagnostic-Code: smtp; 550 no such user\r\n"
    )
    fields = "\r\n".join([about_mail, *(groups or [about])])
    text = (
        f"{head}Date: {format_datetime(NOON)}\r\n"
        "From: MAILER-DAEMON@relay.test\r\nTo: khong-tra-loi@kip.example\r\n"
        "Subject: Delivery status\r\nAuto-Submitted: auto-replied\r\nMIME-Version: 1.0\r\n"
        'Content-Type: multipart/report; report-type=delivery-status; boundary="b"\r\n\r\n'
        f"--b\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n{human}\r\n\r\n"
        f"--b\r\nContent-Type: message/delivery-status\r\n\r\n{fields}\r\n"
        "--b\r\nContent-Type: text/rfc822-headers\r\n\r\nSubject: [7F3K]\r\n\r\n--b--\r\n"
    )
    return text.encode("utf-8", "surrogateescape")
