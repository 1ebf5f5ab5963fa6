"""What a citizen finds in the mailbox. Nobody in this suite learns a code in any other way."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping

from deploy.dev.inbox.client import InboxClient, Mail, Summary
from tests.conditions import wait_until

ARRIVES_WITHIN_S = 100.0
"""Hundreds of times what it takes: nothing here is about speed. On a busy machine the ledger may miss its 50 ms; then a
notice waits a minute in its first tier."""
CODE = re.compile(r"(?:Mã xác nhận của bạn|Your confirmation code): (\d{6,10})$", re.MULTILINE)
MOST = 500  # what the inbox lists at once


def mail_to(inbox: InboxClient, address: str, *, after: int = 0) -> Mail:
    """Wait for the oldest mail to an address."""
    return inbox.wait_for_mail(address, after=after, timeout_s=ARRIVES_WITHIN_S)


def code_in(mail: Mail) -> str:
    """Return the code, which stands in both languages."""
    codes = set(CODE.findall(mail.text or ""))
    assert len(codes) == 1, f"one code in mail {mail.id}, please: {mail.text}"
    return str(codes.pop())


def letter_of(mail: Summary) -> str:
    """Return which letter a mail is a copy of."""
    return mail.headers["X-Kip-Letter"]


def copies(inbox: InboxClient, *, after: int) -> Mapping[str, list[Summary]]:
    """Return the mails after that id by letter."""
    found: dict[str, list[Summary]] = defaultdict(list)
    mails = inbox.messages(after=after, limit=MOST)
    assert len(mails) < MOST, "more mails than the inbox lists at once: some would go unseen"
    for mail in mails:
        found[letter_of(mail)].append(mail)
    return found


def all_copies(inbox: InboxClient, letters: Collection[str], *, after: int) -> Mapping[str, list[Summary]]:
    """Wait until each of these letters is in the mailbox; return all mails by letter."""

    def arrived() -> Mapping[str, list[Summary]] | None:
        found = copies(inbox, after=after)
        return found if found.keys() >= set(letters) else None

    found = wait_until(arrived, within_s=ARRIVES_WITHIN_S, what=f"{len(letters)} letters in the mailbox")
    assert found is not None
    return found
