"""What a person reads of a mail: decoded headers, text and html, and its age on arrival.

Reads anything: mails without headers, with charsets that lie, with bytes that are no text. What cannot be decoded is
shown with replacement marks; nothing here raises on a bad mail. The parser runs with a policy that hands header values
through untouched, because the standard ones raise on some malformed headers.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from email.errors import HeaderParseError
from email.header import decode_header
from email.message import Message
from email.parser import BytesHeaderParser, BytesParser
from email.policy import Compat32
from email.utils import parsedate_to_datetime

HEADERS_THAT_MATTER = (
    "From",
    "To",
    "Subject",
    "Date",
    "Message-ID",
    "Auto-Submitted",
    "Expires",
    "Content-Language",
)
OWN_PREFIX = "x-kip-"


@dataclass(frozen=True, slots=True)
class Headers:
    """The header lines of a mail, decoded, in the order they came."""

    lines: tuple[tuple[str, str], ...]

    def find(self, name: str) -> str | None:
        """Return the value of the first header of that name."""
        return next((value for key, value in self.lines if key.lower() == name.lower()), None)

    def that_matter(self) -> dict[str, str]:
        """Return the headers a reader looks for first, and all `X-Kip-*`; one that came twice is joined by ", "."""
        spelling = {name.lower(): name for name in HEADERS_THAT_MATTER}
        chosen: dict[str, str] = {}
        for key, value in self.lines:
            if key.lower() in spelling or key.lower().startswith(OWN_PREFIX):
                name = spelling.get(key.lower(), key)
                chosen[name] = f"{chosen[name]}, {value}" if name in chosen else value
        return chosen

    def age_s(self, received_at: datetime) -> float | None:
        """Return the seconds from the `Date` header to `received_at`; None when there is no date that can be read.

        A `Date` has whole seconds, so the age may read up to one second too high. A date in the future counts as 0.
        """
        try:
            sent_at = parsedate_to_datetime(self.find("Date") or "")
            if sent_at.tzinfo is None:  # "-0000": UTC, says RFC 5322 §3.3
                sent_at = sent_at.replace(tzinfo=UTC)
            age_s = (received_at - sent_at).total_seconds()
        except (ValueError, TypeError, IndexError, OverflowError):
            return None
        return round(max(0.0, age_s), 3)


@dataclass(frozen=True, slots=True)
class Content:
    """The parts of a mail that are meant to be read; None where a mail has no such part."""

    text: str | None
    html: str | None


class _Untouched(Compat32):
    def header_fetch_parse(self, name: str, value: str) -> str:  # noqa: ARG002  the policy's own signature
        return value


def read_headers(raw: bytes) -> Headers:
    """Read the header lines only, which is all that a list of mails needs."""
    return _headers(BytesHeaderParser(policy=_Untouched()).parsebytes(raw))


def read_mail(raw: bytes) -> tuple[Headers, Content]:
    """Read the header lines and the first text and html parts that are no attachments."""
    try:
        message = BytesParser(policy=_Untouched()).parsebytes(raw)
        leaves = [part for part in message.walk() if not part.is_multipart()]
        text, html = _first(leaves, "text/plain"), _first(leaves, "text/html")
    except RecursionError:  # hundreds of mails inside one another
        return read_headers(raw), Content(text=None, html=None)
    return _headers(message), Content(text, html)


def clean(text: str) -> str:
    """Turn bytes that were smuggled through as surrogates into UTF-8 where they are, else into replacement marks."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _headers(message: Message) -> Headers:
    return Headers(tuple((clean(name), _decoded(value)) for name, value in message.items()))


def _decoded(value: str) -> str:
    unfolded = clean(" ".join(line.strip() for line in value.splitlines()))
    if "=?" not in unfolded:
        return unfolded
    try:
        words = decode_header(unfolded)
    except (HeaderParseError, ValueError):
        return unfolded
    # What stood between encoded words comes back as bytes in a codec of Python's own.
    return "".join(
        word if isinstance(word, str) else _text_of(word, charset or "raw-unicode-escape") for word, charset in words
    )


def _first(leaves: list[Message], content_type: str) -> str | None:
    for part in leaves:
        if part.get_content_type() == content_type and part.get_content_disposition() != "attachment":
            payload = part.get_payload(decode=True)
            text = _text_of(payload if isinstance(payload, bytes) else b"", part.get_content_charset())
            return text.replace("\r\n", "\n")
    return None


def _text_of(encoded: bytes, charset: str | None) -> str:
    for candidate in (charset or "utf-8", "utf-8"):
        try:
            return clean(encoded.decode(candidate))
        except (LookupError, ValueError):  # a charset nobody knows, or one that lies
            continue
    return encoded.decode("utf-8", "replace")
