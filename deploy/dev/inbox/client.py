"""Read and script the demo inbox from another program: the demo, tests, benches. Blocking, standard library only.

For example:

    inbox = InboxClient("http://127.0.0.1:8025")
    seen = inbox.newest_id()
    ...                                              # something that sends a mail
    mail = inbox.wait_for_mail("lan@example.vn", after=seen, timeout_s=10)

Taking `newest_id` first keeps an older mail to the same address from being mistaken for the new one.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode, urlsplit

PATIENCE_S = 10.0  # for an answer that should come at once


class InboxError(Exception):
    """The inbox did not do what was asked; the text is its answer."""


class NoMailError(InboxError, TimeoutError):
    """No such mail came in time."""


@dataclass(frozen=True, slots=True)
class Summary:
    """A mail as it stands in the list. Headers are decoded; `headers` holds those that matter and all `X-Kip-*`."""

    id: int
    received_at: datetime
    mail_from: str
    rcpt_to: tuple[str, ...]
    subject: str | None
    message_id: str | None
    date: str | None
    age_on_arrival_s: float | None
    size: int
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Mail(Summary):
    """A mail with its readable parts, None where it has no such part, and every header in order."""

    text: str | None
    html: str | None
    all_headers: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts since the inbox started; the last five by stage: connect, mail, rcpt, data, body, reply."""

    connections: int
    open_connections: int
    accepted: int
    stored: int
    refused: Mapping[str, int]
    delayed: Mapping[str, int]
    cut: Mapping[str, int]
    half_line: Mapping[str, int]
    double_reply: Mapping[str, int]


class InboxClient:
    """Talks to one inbox; holds no connection between calls, so it may be shared between threads.

    Every method raises `InboxError` on a refusal and `OSError` when no inbox answers.
    """

    def __init__(self, base_url: str) -> None:
        netloc = urlsplit(base_url).netloc
        if not netloc:
            raise ValueError(
                f"not the address of an inbox: {base_url!r}; expected something like http://127.0.0.1:8025"
            )
        self._netloc = netloc

    def smtp_address(self) -> str:
        """Return `host:port` where the inbox takes mail; also a way to see that it is up."""
        address: str = self._ask("GET", "/api/health")["smtp"]
        return address

    def newest_id(self) -> int:
        """Return the id of the mail that came last, 0 before the first: what to give as `after`."""
        newest: int = self._ask("GET", "/api/messages?limit=1")["newest_id"]
        return newest

    def messages(self, to: str = "", *, after: int = 0, before: int | None = None, limit: int = 50) -> list[Summary]:
        """Return at most `limit` (≤ 500) mails, newest first."""
        query: dict[str, str | int] = {"to": to, "after": after, "limit": limit}
        if before is not None:
            query["before"] = before
        found = self._ask("GET", f"/api/messages?{urlencode(query)}")["messages"]
        return [Summary(**_typed(each)) for each in found]

    def mail(self, mail_id: int) -> Mail:
        """Return one mail with text and html."""
        return _mail(self._ask("GET", f"/api/messages/{mail_id}"))

    def raw(self, mail_id: int) -> bytes:
        """Return the bytes of one mail as they came over the wire."""
        return self._request("GET", f"/api/messages/{mail_id}/raw")

    def wait_for_mail(self, to: str = "", *, after: int = 0, timeout_s: float = 10) -> Mail:
        """Return the oldest mail to that address after that id, as soon as it is there.

        Raises:
            NoMailError: none came within `timeout_s` (≤ 300).
        """
        query = urlencode({"to": to, "after": after, "timeout_s": timeout_s})
        answer = self._request("GET", f"/api/wait?{query}", patience_s=timeout_s + PATIENCE_S)
        if not answer:
            raise NoMailError(f"no mail to {to or 'anyone'} after number {after} within {timeout_s} s")
        return _mail(json.loads(answer))

    def clear(self) -> None:
        """Forget all mails; ids go on counting."""
        self._ask("DELETE", "/api/messages")

    def set_behaviour(self, *rules: Mapping[str, object]) -> None:
        """Put these rules in force instead of the present ones; none = behave; see `behaviour.py`."""
        self._ask("PUT", "/api/behaviour", rules)

    def times_used(self) -> list[int]:
        """Return how often each rule in force has acted, in the order they were set."""
        return [each["used"] for each in self._ask("GET", "/api/behaviour")]

    def stats(self) -> Stats:
        """Return the counts; see `Stats`."""
        return Stats(**self._ask("GET", "/api/stats"))

    def _ask(self, method: str, path: str, value: Sequence[object] | None = None) -> Any:
        body = None if value is None else json.dumps(value).encode()
        return json.loads(self._request(method, path, body))

    def _request(self, method: str, path: str, body: bytes | None = None, patience_s: float = PATIENCE_S) -> bytes:
        connection = http.client.HTTPConnection(self._netloc, timeout=patience_s)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        if response.status >= 400:
            raise InboxError(f"{method} {path} → {response.status}: {answer.decode('utf-8', 'replace')}")
        return answer


def _typed(answer: dict[str, Any]) -> dict[str, Any]:
    received_at = datetime.fromisoformat(answer["received_at"])
    return answer | {"received_at": received_at, "rcpt_to": tuple(answer["rcpt_to"])}


def _mail(answer: dict[str, Any]) -> Mail:
    all_headers = tuple((name, value) for name, value in answer["all_headers"])
    return Mail(**_typed(answer) | {"all_headers": all_headers})
