"""Redis is lost with all it had: letters on their way arrive without it; only what it knew is unknown afterwards."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.e2e.mailbox import ARRIVES_WITHIN_S, code_in, mail_to
from tests.e2e.portal import Citizen, Portal, refused
from tests.e2e.promises import letters_sent_blindly
from tests.e2e.quiet import wait_until_quiet
from tests.e2e.stacks import Running

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def caller(shaken: Running) -> Iterator[Portal]:
    with shaken.portal() as portal:
        yield portal
    shaken.inbox.set_behaviour()


@pytest.fixture
def files(shaken: Running) -> Path:
    """The folder of what Redis writes down."""
    client: Any = redis.Redis.from_url(f"redis://{shaken.stack.address('redis')}/0")
    with client:
        told = client.config_get("dir", "appenddirname")
    return Path(str(told["dir"]), str(told["appenddirname"]))


def test_a_letter_on_its_way_arrives_without_redis_and_from_an_empty_one_its_code_is_unknown_and_a_new_one_is_good(
    shaken: Running, caller: Portal, files: Path
) -> None:
    lan, minh = Citizen("lan"), Citizen("minh")
    server, inbox = shaken.stack["redis"], shaken.inbox
    inbox.set_behaviour({"stage": "rcpt", "action": "reply", "to": minh.email, "code": 450})
    asked, waits = caller.request(lan), caller.request(minh)
    code = code_in(mail_to(inbox, lan.email))
    blind = letters_sent_blindly(shaken)

    server.kill()
    inbox.set_behaviour()
    told = refused(lambda: caller.verify(asked.handle, code))
    came_blindly = code_in(mail_to(inbox, minh.email))
    shutil.rmtree(files)
    server.start()

    assert told.reason == "STORE_UNAVAILABLE"
    assert letters_sent_blindly(shaken) > blind
    assert caller.outcome(asked.handle, code) == "unknown"
    assert caller.outcome(waits.handle, came_blindly) == "unknown"
    wait_until_quiet(shaken)  # the mailer forgot too what it had sent, and may send it again
    seen = inbox.newest_id()
    for citizen in (lan, minh):
        anew = caller.request(citizen)
        mail = inbox.wait_for_mail(citizen.email, after=seen, timeout_s=ARRIVES_WITHIN_S)
        assert caller.outcome(anew.handle, code_in(mail)) == "accepted"
