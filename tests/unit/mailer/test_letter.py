"""The bytes of a letter: the same for the same order, readable by any mail program, and nobody's to inject into."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from email import policy
from email.message import EmailMessage
from email.parser import BytesParser
from email.utils import parsedate_to_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.mailer.rules.letter import LOCALES, Message, Order, Rendered, Sender, compose
from tests.fakes.mailer import PRIVATE, WORDS, code_order, notice_order

SENDER = Sender("Cổng dịch vụ công", "khong-tra-loi@kip.example")
ORDER = code_order()

texts = st.text(max_size=120)
whole_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=120)


def composed(
    order: Order = ORDER,
    *,
    to: str = PRIVATE.email,
    words: Mapping[str, Rendered] = WORDS,
    sender: Sender = SENDER,
) -> Message:
    return compose(order, to, words, sender)


def parsed(message: Message) -> EmailMessage:
    mail = BytesParser(policy=policy.default).parsebytes(message.octets)
    assert isinstance(mail, EmailMessage)
    return mail


def part(mail: EmailMessage, kind: str) -> str:
    body = mail.get_body((kind,))
    assert body is not None
    content = body.get_content()
    assert isinstance(content, str)
    return content


def lines(text: str) -> list[str]:
    """Return the lines as a mailbox shows them: line ends of any kind are one kind, and there are none at the end."""
    return text.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n").split("\n")


def test_the_same_order_gives_the_same_bytes() -> None:
    assert composed() == composed(code_order())


@pytest.mark.parametrize(
    "other",
    [
        replace(ORDER, owner_id="challenge-2"),
        replace(ORDER, generation=2),
        replace(ORDER, locale="en"),
        replace(ORDER, asked_at=ORDER.asked_at + timedelta(seconds=1)),
    ],
)
def test_another_order_gives_other_bytes(other: Order) -> None:
    assert composed(other).octets != composed().octets


def test_a_later_deadline_is_no_other_letter() -> None:
    later = replace(ORDER, deadline=ORDER.deadline + timedelta(minutes=1))

    assert composed(later) == composed()


def test_the_envelope_is_the_constant_sender_and_the_one_recipient() -> None:
    message = composed()

    assert (message.letter_id, message.sender, message.recipient) == (
        "challenge-1.1",
        SENDER.address,
        PRIVATE.email,
    )


def test_the_headers_say_who_what_when_and_until_when() -> None:
    mail = parsed(composed())

    assert mail["From"].addresses[0].addr_spec == SENDER.address
    assert mail["From"].addresses[0].display_name == SENDER.name
    assert [address.addr_spec for address in mail["To"].addresses] == [PRIVATE.email]
    assert mail["Subject"] == WORDS["vi"].subject
    assert mail["Message-ID"] == "<challenge-1.1@kip.example>"
    assert parsedate_to_datetime(mail["Date"]) == ORDER.asked_at
    assert parsedate_to_datetime(mail["Expires"]) == ORDER.useless_at
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail["X-Kip-Letter"] == "challenge-1.1"
    assert mail["Content-Language"] == "vi, en"
    assert mail["MIME-Version"] == "1.0"
    assert len(mail.keys()) == len(set(mail.keys())) == 12
    assert not mail.defects


@pytest.mark.parametrize("locale", LOCALES)
def test_both_languages_are_in_both_parts_the_wished_one_first(locale: str) -> None:
    (other,) = set(LOCALES) - {locale}

    mail = parsed(composed(replace(ORDER, locale=locale)))

    assert mail["Subject"] == WORDS[locale].subject
    text = part(mail, "plain")
    assert text.index(WORDS[locale].text.strip()) < text.index(WORDS[other].text.strip())
    html = part(mail, "html")
    assert f'<html lang="{locale}">' in html
    assert html.index(WORDS[locale].html) < html.index(WORDS[other].html)
    assert re.search(f'<td lang="{locale}".*<td lang="{other}"', html, re.DOTALL)


def test_a_mail_has_two_parts_and_the_better_one_stands_last() -> None:
    mail = parsed(composed())

    assert mail.get_content_type() == "multipart/alternative"
    parts = list(mail.iter_parts())
    assert [each.get_content_type() for each in parts] == ["text/plain", "text/html"]
    assert {each["Content-Transfer-Encoding"] for each in parts} == {"quoted-printable"}
    assert {each.get_content_charset() for each in parts} == {"utf-8"}
    assert not any(each.defects for each in parts)


@given(vi=texts, en=texts, html=texts, subject=texts, name=st.text(max_size=60))
def test_any_words_are_lines_that_every_relay_takes_unchanged(
    vi: str, en: str, html: str, subject: str, name: str
) -> None:
    words = {"vi": Rendered(subject, vi, html), "en": Rendered("en", en, html)}

    octets = composed(words=words, sender=replace(SENDER, name=name)).octets

    assert octets.isascii()
    assert b"\0" not in octets
    assert octets.endswith(b"--\r\n")
    assert octets.count(b"\r") == octets.count(b"\n") == octets.count(b"\r\n")
    head, _, body = octets.partition(b"\r\n\r\n")
    assert max(map(len, head.split(b"\r\n"))) <= 400
    assert max(map(len, body.split(b"\r\n"))) <= 78
    assert max(map(len, re.findall(rb"=\?\S+\?=", head)), default=0) <= 75  # RFC 2047 §2: an encoded word


@given(vi=whole_texts, en=whole_texts, html=whole_texts)
def test_any_words_are_read_back_as_they_were_written(vi: str, en: str, html: str) -> None:
    words = {"vi": Rendered("s", vi, html), "en": Rendered("s", en, html)}

    mail = parsed(composed(words=words))

    assert lines(part(mail, "plain")) == lines(f"{vi.strip()}\n\n{'─' * 24}\n\n{en.strip()}")
    assert "\n".join(lines(html)) in "\n".join(lines(part(mail, "html")))


@given(subject=st.text(st.characters(exclude_categories=["C"]), max_size=120))
def test_any_subject_is_folded_and_read_back(subject: str) -> None:
    octets = composed(words=WORDS | {"vi": Rendered(subject, "x", "x")}).octets

    (folded,) = re.findall(rb"^Subject: .*(?:\r\n .*)*", octets, re.MULTILINE)
    assert max(map(len, folded.split(b"\r\n"))) <= 78
    mail = parsed(Message("x", "x", "x", octets))
    assert mail["Subject"] == " ".join(subject.split())


INJECTIONS = [
    "\r\nBcc: minh@example.vn",
    "\nBcc: minh@example.vn",
    "\rX: y",
    "\r\n\r\nbody",
    "\r\n Bcc: y",
    "\0",
    "\x0b",
]


@pytest.mark.parametrize("injected", INJECTIONS)
def test_a_recipient_cannot_bring_a_header_along(injected: str) -> None:
    with pytest.raises(ValueError, match="header To") as error:
        composed(to=PRIVATE.email + injected)

    assert PRIVATE.email not in str(error.value)


@pytest.mark.parametrize(
    "recipient",
    [
        "",
        "lan",
        "@example.vn",
        "lan@",
        "lan@example.vn, minh@example.vn",
        "lan@example.vn;minh@example.vn",
        "Lan <lan@example.vn>",
        "<lan@example.vn>",
        '"lan lan"@example.vn',
        "lan lan@example.vn",
        "lan@@example.vn",
        "@relay.example:lan@example.vn",
        "lan(nguyen)@example.vn",
        "lân@example.vn",
        "lan@bảohiểm.vn",
        "lan@example.vn SIZE=1",
        "x" * 1_000 + "@example.vn",
    ],
)
def test_a_recipient_is_one_mailbox_in_ascii(recipient: str) -> None:
    with pytest.raises(ValueError, match="header To"):
        composed(to=recipient)


@pytest.mark.parametrize(
    "recipient", ["lan@example.vn", "lan.nguyen+bhxh@mail.example.com.vn", "o'neil@xn--bhim-8na.vn"]
)
def test_a_mailbox_is_taken_as_it_is(recipient: str) -> None:
    message = composed(to=recipient)

    assert message.recipient == recipient
    assert f"\r\nTo: {recipient}\r\n".encode() in message.octets


@pytest.mark.parametrize("injected", INJECTIONS)
def test_an_owner_cannot_bring_a_header_along(injected: str) -> None:
    with pytest.raises(ValueError, match="header Message-ID"):
        composed(replace(ORDER, owner_id=f"challenge{injected}"))


def test_an_id_that_would_break_the_longest_line_is_refused() -> None:
    with pytest.raises(ValueError, match="header Message-ID"):
        composed(replace(ORDER, owner_id="x" * 1_000))


@pytest.mark.parametrize("injected", INJECTIONS)
def test_words_in_headers_cannot_bring_a_header_along(injected: str) -> None:
    words = WORDS | {"vi": replace(WORDS["vi"], subject=f"Mã{injected}")}

    mail = parsed(composed(words=words, sender=replace(SENDER, name=f"Cổng{injected}")))

    assert mail.keys() == parsed(composed()).keys()
    assert part(mail, "plain") == part(parsed(composed()), "plain")
    assert mail["To"] == PRIVATE.email


def test_words_in_the_body_cannot_end_it() -> None:
    boundary = parsed(composed()).get_boundary()
    words = WORDS | {"en": replace(WORDS["en"], text=f"a\n.\n--{boundary}--\nQUIT\n")}

    mail = parsed(composed(words=words))

    assert len(list(mail.iter_parts())) == 2
    assert f"a\n.\n--{boundary}--\nQUIT" in part(mail, "plain").replace("\r\n", "\n")


def test_what_is_private_is_in_no_repr() -> None:
    text = f"{composed()!r} {PRIVATE!r} {notice_order()!r}"

    assert "lan@example.vn" not in text
    assert "904817" not in text
    assert "Nguyễn" not in text


def test_an_id_is_the_same_for_every_repeat_and_another_for_every_generation() -> None:
    assert code_order().id == code_order().id == "challenge-1.1"
    assert replace(code_order(), generation=2).id == "challenge-1.2"
