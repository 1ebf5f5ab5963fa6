"""What is to be mailed, and its bytes.

The bytes of a letter are a function of its order and of nothing else: not of the time of sending, not of chance. A
retry after an unknown outcome therefore sends the very same message with the very same Message-ID, which mailboxes
recognise as one. Headers follow RFC 5322; `Auto-Submitted` RFC 3834, `Expires` RFC 10080; bodies are quoted-printable
(RFC 2045), so no relay re-encodes them.
"""

from __future__ import annotations

import binascii
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from email.header import Header
from email.utils import format_datetime
from enum import StrEnum

LOCALES = ("vi", "en")
MAX_VALUE = 900  # of a header that is not folded: RFC 5322 §2.1.1 ends a line at 998
MAILBOX = re.compile(r"[^\s@<>()\[\],;:\\\"]+@[^\s@<>(),;\\\"]+")  # one, without quotes, comments or route


class Lane(StrEnum):
    """Roads that never wait for each other."""

    OTP = "otp"
    NOTICE = "notice"


@dataclass(frozen=True, slots=True)
class CodeRecipe:
    """What re-makes a code, given the key; none of it is secret."""

    kid: str
    purpose: str
    context_sha256: bytes
    length: int


@dataclass(frozen=True, slots=True)
class PrivatePart:
    """What only the mailer reads; never logged."""

    email: str = field(repr=False)
    parameters: Mapping[str, str] = field(repr=False)
    decoy: bool = False


@dataclass(frozen=True, slots=True)
class Order:
    """One letter to be mailed."""

    lane: Lane
    owner_id: str
    """Challenge id or notice id."""
    generation: int
    letter: str
    """Name of its folder of templates."""
    locale: str
    """Which language stands first."""
    asked_at: datetime
    deadline: datetime
    """When it is no longer worth sending."""
    useless_at: datetime
    """When it means nothing any more: the `Expires` header."""
    parameters: Mapping[str, str]
    """What its templates name and everybody may know."""
    open: Callable[[], PrivatePart]
    """Decrypts the private part; raises UnknownKey, SealBroken."""
    code: CodeRecipe | None = None

    @property
    def id(self) -> str:
        """One per letter, over all its repeats."""
        return letter_id_of(self.owner_id, self.generation)


def letter_id_of(owner_id: str, generation: int) -> str:
    """Return the id of a letter, for whoever has no order in hand."""
    return f"{owner_id}.{generation}"


@dataclass(frozen=True, slots=True)
class LetterName:
    """Which letter, when that is all that is known of it."""

    lane: Lane
    owner_id: str
    generation: int

    @property
    def id(self) -> str:
        """One per letter, over all its repeats."""
        return letter_id_of(self.owner_id, self.generation)


@dataclass(frozen=True, slots=True)
class Rendered:
    """The words of a letter in one language."""

    subject: str
    text: str
    html: str


@dataclass(frozen=True, slots=True)
class Sender:
    """Who letters come from: constant, because every new envelope sender is a new triplet for a greylist."""

    name: str
    address: str
    return_path: str = ""
    """Envelope sender; empty: the address."""

    @property
    def domain(self) -> str:
        """Right of the @."""
        return self.address.rpartition("@")[2]


@dataclass(frozen=True, slots=True)
class Message:
    """A letter, ready for the wire."""

    letter_id: str
    sender: str
    recipient: str = field(repr=False)
    octets: bytes = field(repr=False)


def compose(order: Order, recipient: str, words: Mapping[str, Rendered], sender: Sender) -> Message:
    """Return the message: the order's language first, then the other; the subject in the order's language.

    Raises:
        ValueError: the recipient is no single mailbox, or a header would be no line of ASCII; without the value.
    """
    letter_id = _plain("Message-ID", order.id)
    first, second = words[order.locale], words[_other(order.locale)]
    # "=_" stands in no quoted-printable text (RFC 2045 §6.7), so no word of a letter can end its part.
    boundary = "=_kip-" + hashlib.sha256(letter_id.encode()).hexdigest()[:32]
    headers = {
        "From": f"{_encoded('From', sender.name)} <{_mailbox('From', sender.address)}>",
        "To": _mailbox("To", recipient),
        "Subject": _encoded("Subject", first.subject),
        "Date": format_datetime(order.asked_at),
        "Message-ID": f"<{letter_id}@{sender.domain}>",
        "Expires": format_datetime(order.useless_at),
        "Auto-Submitted": "auto-generated",
        "X-Auto-Response-Suppress": "All",
        "Content-Language": f"{order.locale}, {_other(order.locale)}",
        "X-Kip-Letter": letter_id,
        "MIME-Version": "1.0",
        "Content-Type": f'multipart/alternative; boundary="{boundary}"',
    }
    lines = [f"{name}: {value}" for name, value in headers.items()]
    text = f"{first.text.strip()}\n\n{'─' * 24}\n\n{second.text.strip()}\n"
    html = PAGE.format(first=first.html, second=second.html, locale=order.locale, other=_other(order.locale))
    body = [
        f"--{boundary}",
        *_part("text/plain", text),
        f"--{boundary}",
        *_part("text/html", html),
        f"--{boundary}--",
        "",
    ]
    return_path = _mailbox("Return-Path", sender.return_path or sender.address)
    return Message(letter_id, return_path, recipient, "\r\n".join([*lines, "", *body]).encode("ascii"))


PAGE = """<!DOCTYPE html>
<html lang="{locale}"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"></head>
<body style="margin:0;background:#f4f5f7;font:16px/1.5 Arial,Helvetica,sans-serif;color:#1b1f24">
<table role="presentation" width="100%" cellpadding="0" cellspacing="0"><tr><td align="center" style="padding:24px
12px"> <table role="presentation" width="100%" style="max-width:560px;background:#fff;border:1px solid
#d9dde3;border-radius:8px"> <tr><td lang="{locale}" style="padding:24px">{first}</td></tr> <tr><td lang="{other}"
style="padding:16px 24px 24px;border-top:1px solid #d9dde3;color:#3d444d">{second}</td></tr>
</table></td></tr></table></body></html>
"""


def _other(locale: str) -> str:
    return "en" if locale == "vi" else "vi"


def _plain(name: str, value: str) -> str:
    if not value.isascii() or not value.isprintable() or len(value) > MAX_VALUE:
        raise ValueError(f"header {name} would be no line of ASCII of at most {MAX_VALUE} characters")
    return value


def _mailbox(name: str, address: str) -> str:
    if not MAILBOX.fullmatch(address):
        raise ValueError(f"header {name} would be no single mailbox")
    return _plain(name, address)


def _encoded(name: str, text: str) -> str:
    """Return encoded words (RFC 2047), folded; white space of any kind and length becomes one space."""
    return Header(" ".join(text.split()), "utf-8", maxlinelen=74, header_name=name).encode(linesep="\r\n")


def _part(content_type: str, text: str) -> list[str]:
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    encoded = binascii.b2a_qp(lines.encode(), istext=True).decode("ascii")
    return [
        f"Content-Type: {content_type}; charset=utf-8",
        "Content-Transfer-Encoding: quoted-printable",
        "",
        *encoded.splitlines(),
    ]
