"""The JSON API: pages, waiting, answers to bad questions, and to strangers."""

from __future__ import annotations

import asyncio
import http.client
import json
from typing import Any
from urllib.parse import urlsplit

import pytest

from deploy.dev.inbox.client import InboxClient, InboxError, NoMailError
from tests.integration.inbox.running_inbox import MAIL, RunningInbox


def ask(inbox: RunningInbox, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
    """Ask as a plain HTTP client and return the status and the JSON."""
    connection = http.client.HTTPConnection(urlsplit(inbox.base_url).netloc, timeout=10)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read() or b"null")
    finally:
        connection.close()


async def test_mails_are_read_page_by_page_newest_first(inbox: RunningInbox) -> None:
    for number in range(7):
        await inbox.send(f"Subject: {number}\r\n\r\n".encode())

    first = inbox.client.messages(limit=3)
    second = inbox.client.messages(limit=3, before=first[-1].id)
    newer = inbox.client.messages(after=first[1].id)

    assert [mail.subject for mail in first + second] == ["6", "5", "4", "3", "2", "1"]
    assert [mail.subject for mail in newer] == ["6"]
    assert inbox.client.newest_id() == first[0].id


async def test_waiting_ends_when_the_mail_comes(inbox: RunningInbox) -> None:
    await inbox.send()
    seen = inbox.client.newest_id()
    waiting = asyncio.create_task(
        asyncio.to_thread(inbox.client.wait_for_mail, "lan@example.vn", after=seen, timeout_s=10)
    )

    await inbox.send(MAIL, "minh@example.vn")
    await inbox.send(b"Subject: the right one\r\n\r\n")

    assert (await waiting).subject == "the right one"


async def test_waiting_in_vain_says_so(inbox: RunningInbox) -> None:
    await inbox.send()

    with pytest.raises(NoMailError, match=r"no mail to minh@example\.vn after number 0 within 0\.1 s"):
        inbox.client.wait_for_mail("minh@example.vn", timeout_s=0.1)


async def test_cleared_mails_are_gone_and_ids_go_on(inbox: RunningInbox) -> None:
    await inbox.send()
    old = inbox.client.newest_id()

    inbox.client.clear()
    await inbox.send()

    assert [mail.id for mail in inbox.client.messages()] == [old + 1]
    with pytest.raises(InboxError, match=r"404: .*no such mail"):
        inbox.client.mail(old)


async def test_times_are_rfc_3339_with_milliseconds(inbox: RunningInbox) -> None:
    await inbox.send()

    status, answer = ask(inbox, "GET", "/api/messages")

    assert status == 200
    received_at = answer["messages"][0]["received_at"]
    assert len(received_at) == len("2026-11-25T01:02:03.123Z")
    assert received_at.endswith("Z")


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/api/messages?limit=0", "limit"),
        ("/api/messages?limit=501", "limit"),
        ("/api/messages?after=yesterday", "after"),
        ("/api/messages?form=lan@example.vn", "form"),
        ("/api/wait?timeout_s=301", "timeout_s"),
        ("/api/wait?timeout_s=nan", "timeout_s"),
    ],
)
def test_a_bad_question_is_answered_with_its_field(inbox: RunningInbox, path: str, field: str) -> None:
    status, answer = ask(inbox, "GET", path)

    assert status == 400
    assert [problem["field"] for problem in answer["problems"]] == [field]


@pytest.mark.parametrize("body", [b"", b"{", b"{}", b"[1]", b'[{"stage":"mail"}]', b"\xff", b"[" * 100_000])
def test_rules_that_are_no_rules_are_refused(inbox: RunningInbox, body: bytes) -> None:
    status, answer = ask(inbox, "PUT", "/api/behaviour", body)

    assert status == 400
    assert answer["problems"][0]["why"]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8025", "127.0.0.1.evil.example", "[::2]:80", ""])
def test_a_page_that_points_its_own_name_here_reads_nothing(inbox: RunningInbox, host: str) -> None:
    status, answer = ask(inbox, "GET", "/api/messages", Host=host)

    assert status == 403
    assert "messages" not in answer


@pytest.mark.parametrize("host", ["localhost", "localhost:9", "127.0.0.1", "[::1]:9"])
def test_this_machine_is_answered_under_each_of_its_names(inbox: RunningInbox, host: str) -> None:
    assert ask(inbox, "GET", "/api/health", Host=host)[0] == 200


def test_a_client_needs_a_whole_address() -> None:
    with pytest.raises(ValueError, match="expected something like http://"):
        InboxClient("localhost")
