"""Any bytes can be read as a mail, and good ones are read right."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from email.message import EmailMessage

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.dev.inbox.reading import read_headers, read_mail

NOON = datetime(2026, 11, 25, 12, 0, 0, 250_000, tzinfo=UTC)


def test_vietnamese_headers_and_both_parts_are_decoded() -> None:
    message = EmailMessage()
    message["Subject"] = "Mã xác nhận của bạn, gửi đến một người có tên rất dài để tiêu đề phải xuống dòng · 7K3Q"
    message["From"] = "Cổng dịch vụ công <no-reply@otp.kip.test>"
    message.set_content("Mã của bạn: 482 913\n")
    message.add_alternative("<p>Mã của bạn: <b>482 913</b></p>\n", subtype="html")

    headers, content = read_mail(message.as_bytes())

    assert headers.find("subject") == message["Subject"]
    assert headers.find("From") == "Cổng dịch vụ công <no-reply@otp.kip.test>"
    assert content.text == "Mã của bạn: 482 913\n"
    assert content.html == "<p>Mã của bạn: <b>482 913</b></p>\n"


def test_only_the_headers_that_matter_are_chosen_and_twins_are_joined() -> None:
    raw = b"received: by x\r\nSUBJECT: hi\r\nx-kip-lane: otp\r\nMessage-ID: <a>\r\nMessage-ID: <b>\r\n\r\nbody"

    chosen = read_headers(raw).that_matter()

    assert chosen == {"Subject": "hi", "x-kip-lane": "otp", "Message-ID": "<a>, <b>"}


@pytest.mark.parametrize(
    ("date", "age_s"),
    [
        (b"Wed, 25 Nov 2026 12:00:00 +0000", 0.25),
        (b"Wed, 25 Nov 2026 18:58:00 +0700", 120.25),
        (b"Wed, 25 Nov 2026 11:00:00 -0000", 3600.25),
        (b"Wed, 25 Nov 2026 13:00:00 +0000", 0.0),  # sent in the future: a clock is wrong
        (b"yesterday, I think", None),
        (b"Wed, 25 Nov 2026 12:00:00 +999999999999", None),
        (b"Wed, 99 Nov 99999 12:00:00 +0000", None),
        (b"", None),
    ],
)
def test_the_age_on_arrival_is_known_where_the_date_is(date: bytes, age_s: float | None) -> None:
    headers = read_headers(b"Date: " + date + b"\r\n\r\n")

    assert headers.age_s(NOON) == age_s


def test_a_mail_without_date_has_no_age() -> None:
    assert read_headers(b"Subject: hi\r\n\r\n").age_s(NOON) is None


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"no headers at all", "no headers at all"),
        (b"Content-Type: text/plain; charset=us-ascii\r\n\r\nM\xc3\xa3", "Mã"),
        (b"Content-Type: text/plain; charset=klingon-8\r\n\r\nM\xc3\xa3", "Mã"),
        (b"Content-Type: text/plain; charset=base64\r\n\r\nM\xc3\xa3", "Mã"),
        (b"Content-Type: text/plain; charset=utf-8\r\n\r\n\xff\xfe", "\ufffd\ufffd"),
        (b"Content-Type: text/plain\r\nContent-Transfer-Encoding: base64\r\n\r\n!!not base64!!", "!!not base64!!"),
        (b"Content-Type: multipart/alternative\r\n\r\nno boundary", None),
        (b"Content-Type: text/html\r\n\r\n<p>hi", None),
    ],
)
def test_a_body_that_lies_is_still_shown(raw: bytes, text: str | None) -> None:
    _, content = read_mail(raw)

    assert content.text == text


def test_an_attached_text_is_not_taken_for_the_letter() -> None:
    message = EmailMessage()
    message.add_attachment("not the letter", filename="list.txt")

    _, content = read_mail(message.as_bytes())

    assert content.text is None


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (b"=?utf-8?q?M=C3=A3?= plain =?utf-8?b?bmjhuq1u?=", "Mã plain nhận"),
        (b"M\xc3\xa3 s\xe1\xbb\x91", "Mã số"),
        (b"M\xc3\xa3 =?utf-8?q?s=E1=BB=91?=", "Mã số"),
        (b"=?utf-8?b?A?=", "=?utf-8?b?A?="),
        (b"=?nonsense?q?M=C3=A3?=", "Mã"),
        (b"\xff", "\ufffd"),
        (b"one\r\n two", "one two"),
    ],
)
def test_a_subject_is_shown_however_it_is_encoded(value: bytes, shown: str) -> None:
    assert read_headers(b"Subject: " + value + b"\r\n\r\n").find("Subject") == shown


@pytest.mark.parametrize(
    "layer", ["Content-Type: message/rfc822\r\n\r\n", 'Content-Type: multipart/mixed; boundary="{0}"\r\n\r\n--{0}\r\n']
)
def test_mails_inside_mails_without_end_are_shown_by_their_headers(layer: str) -> None:
    layers = "".join(layer.format(depth) for depth in range(2000))

    headers, content = read_mail(f"Subject: deep\r\n{layers}".encode())

    assert headers.find("Subject") == "deep"
    assert content.text is None


FRAGMENTS = [
    b"\r\n",
    b"\r\n\r\n",
    b"Content-Type: ",
    b"multipart/mixed; boundary=",
    b"text/html; charset=",
    b"message/rfc822",
    b"Content-Transfer-Encoding: base64",
    b"Content-Transfer-Encoding: x-uuencode",
    b"Content-Disposition: ",
    b"charset*=''%ff",
    b'"',
    b"--b",
    b"=?utf-8?b?",
    b"?=",
    b"Date: ",
    b"Subject: ",
    b"\xff\x00",
    b";=",
]


@given(st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.binary(max_size=8)), max_size=40).map(b"".join))
def test_no_bytes_whatsoever_break_the_reader(raw: bytes) -> None:
    headers, content = read_mail(raw)

    json.dumps([headers.lines, headers.that_matter(), content.text, content.html], ensure_ascii=False).encode()
    headers.age_s(NOON)
