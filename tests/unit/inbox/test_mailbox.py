"""What is kept comes back in order, also from disk, and whoever waits is woken."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from deploy.dev.inbox.mail_files import MailFiles
from deploy.dev.inbox.mailbox import Mail, Mailbox

NOON = datetime(2026, 11, 25, 12, 0, 0, 250_000, tzinfo=UTC)


@contextmanager
def opened(directory: Path, capacity: int = 100) -> Iterator[Mailbox]:
    with MailFiles(directory) as files:
        yield Mailbox(files, capacity, lambda: NOON)


def keep(mailbox: Mailbox, to: str = "lan@example.vn", raw: bytes = b"hi\r\n") -> Mail:
    return mailbox.keep("kip@otp.test", (to,), raw)


def ids(mails: list[Mail]) -> list[int]:
    return [mail.id for mail in mails]


def test_mails_are_listed_newest_first_between_two_ids(tmp_path: Path) -> None:
    with opened(tmp_path) as mailbox:
        for _ in range(6):
            keep(mailbox)

        assert ids(mailbox.newest(limit=3)) == [6, 5, 4]
        assert ids(mailbox.newest(after=2, limit=100)) == [6, 5, 4, 3]
        assert ids(mailbox.newest(before=4, limit=2)) == [3, 2]


def test_mails_are_found_by_recipient_in_any_case(tmp_path: Path) -> None:
    with opened(tmp_path) as mailbox:
        keep(mailbox, "Lan@Example.vn")
        keep(mailbox, "minh@example.vn")

        assert ids(mailbox.newest(to="lan@example.VN", limit=9)) == [1]


def test_an_inbox_opened_again_has_the_same_mails(tmp_path: Path) -> None:
    with opened(tmp_path) as mailbox:
        before = [keep(mailbox, raw=b"\xff\x00.\r\n"), keep(mailbox, "người@example.vn")]

    with opened(tmp_path) as mailbox:
        assert mailbox.newest(limit=9) == before[::-1]


def test_ids_are_never_given_twice(tmp_path: Path) -> None:
    with opened(tmp_path) as mailbox:
        keep(mailbox)
        keep(mailbox)
        assert mailbox.forget_all() == 2

    with opened(tmp_path) as mailbox:
        assert len(mailbox) == 0
        assert keep(mailbox).id == 3


def test_beyond_the_capacity_the_oldest_mails_are_forgotten_on_disk_too(tmp_path: Path) -> None:
    with opened(tmp_path, capacity=2) as mailbox:
        for _ in range(5):
            keep(mailbox)
        assert ids(mailbox.newest(limit=9)) == [5, 4]

    assert {path.name for path in tmp_path.glob("*.eml")} == {"4.eml", "5.eml"}
    with opened(tmp_path, capacity=1) as mailbox:
        assert ids(mailbox.newest(limit=9)) == [5]


def test_a_torn_line_of_the_index_costs_no_other_mail(tmp_path: Path) -> None:
    with opened(tmp_path) as mailbox:
        keep(mailbox)
        with (tmp_path / "index.jsonl").open("ab") as index:
            index.write(b'{"id":2,"recei')
        keep(mailbox)

    with opened(tmp_path) as mailbox:
        assert ids(mailbox.newest(limit=9)) == [2, 1]


def test_the_index_does_not_grow_with_the_mails_forgotten(tmp_path: Path) -> None:
    with MailFiles(tmp_path, spare_lines=10) as files:
        mailbox = Mailbox(files, 2, lambda: NOON)
        for _ in range(100):
            keep(mailbox)

        assert len((tmp_path / "index.jsonl").read_text().split()) <= 13

    with opened(tmp_path) as mailbox:
        assert ids(mailbox.newest(limit=9)) == [100, 99]


def test_a_mail_that_cannot_be_written_is_not_listed(tmp_path: Path) -> None:
    with opened(tmp_path) as mailbox:
        (tmp_path / "1.eml").mkdir()  # in the way

        with pytest.raises(OSError, match="directory"):
            keep(mailbox)

        assert len(mailbox) == 0


def test_two_inboxes_never_share_a_directory(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(BlockingIOError), opened(tmp_path):
        pass


async def test_whoever_waits_gets_the_oldest_mail_they_have_not_seen(tmp_path: Path) -> None:
    with opened(tmp_path) as mailbox:
        for to in ("lan@example.vn", "minh@example.vn", "lan@example.vn", "lan@example.vn"):
            keep(mailbox, to)

        mail = await mailbox.wait_for(to="lan@example.vn", after=1, timeout_s=0)

        assert mail is not None
        assert mail.id == 3


async def test_whoever_waits_is_woken_by_the_right_mail(tmp_path: Path) -> None:
    with opened(tmp_path) as mailbox:
        waiting = asyncio.create_task(mailbox.wait_for(to="lan@example.vn", timeout_s=5))
        await asyncio.sleep(0)
        keep(mailbox, "minh@example.vn")
        await asyncio.sleep(0)
        keep(mailbox, "lan@example.vn")

        mail = await waiting

        assert mail is not None
        assert mail.id == 2


async def test_waiting_ends_without_a_mail_when_time_is_up(tmp_path: Path) -> None:
    with opened(tmp_path) as mailbox:
        assert await mailbox.wait_for(timeout_s=0.01) is None
