"""Kafka is away: codes and dossiers are promised all the same, and their mails go out when it is back."""

from __future__ import annotations

import socket

import pytest

from tests.e2e.mailbox import code_in, mail_to
from tests.e2e.portal import Citizen
from tests.e2e.stacks import Running

DEADLINE_S = 5.0  # what a page waits before it says "try again"

pytestmark = pytest.mark.timeout(240)


def refuses_connections(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except ConnectionRefusedError:
        return True
    return False


def test_what_is_asked_while_kafka_is_away_is_mailed_when_it_is_back(shaken: Running) -> None:
    asker, filer = Citizen("lan"), Citizen("Minh")
    kafka, inbox = shaken.stack["kafka"], shaken.inbox
    with shaken.portal() as caller:
        kafka.stop()
        try:
            away = refuses_connections(shaken.stack.address("kafka"))
            asked = caller.request(asker, within_s=DEADLINE_S)
            filed = caller.open_dossier(filer)
            fate_meanwhile = caller.fate(asked.handle)
            mails_meanwhile = [*inbox.messages(to=asker.email), *inbox.messages(to=filer.email)]
            still_away = refuses_connections(shaken.stack.address("kafka"))
        finally:
            kafka.start()

        mail = mail_to(inbox, asker.email)
        notice = mail_to(inbox, filer.email)
        outcome = caller.outcome(asked.handle, code_in(mail))

    assert (away, still_away) == (True, True)
    assert fate_meanwhile == "QUEUED"
    assert mails_meanwhile == []
    assert outcome == "accepted"
    assert filed.number in str(notice.subject)
