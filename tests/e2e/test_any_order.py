"""Services may start before everything that they need: they wait, say so, and are ready when it is there."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deploy.dev.ports import is_free
from tests.conditions import wait_until
from tests.e2e.mailbox import code_in, mail_to
from tests.e2e.portal import Citizen
from tests.e2e.stacks import Running, create_topics, new_stack

SERVICES = ("lagwatch", "mailer", "dossier", "otp")
SERVERS = ("inbox", "kafka", "redis")
READY_WITHIN_S = 120.0
NEEDS = {"otp": "store", "mailer": "inbox", "lagwatch": "measurement"}  # dossier keeps its records in a file

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def own_stack(tmp_path: Path) -> Iterator[Running]:
    running = new_stack(tmp_path)
    yield running
    running.stack.stop()


def answer_of(address: str, path: str) -> tuple[int, str]:
    """Return status and text of a page; status 0 when nobody answers."""
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=2) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refusal:
        return refusal.code, refusal.read().decode()
    except OSError:
        return 0, ""


def wait_until_alive(address: str) -> None:
    """Wait until a process answers that it lives."""
    wait_until(lambda: answer_of(address, "/healthz")[0] == 200, within_s=READY_WITHIN_S, what=f"{address} lives")


def test_services_that_start_first_wait_for_their_servers(own_stack: Running) -> None:
    stack = own_stack.stack
    with ThreadPoolExecutor(len(SERVICES)) as threads:
        starts = []
        for name in SERVICES:
            stack[name].start_within_s = READY_WITHIN_S
            starts.append(threads.submit(stack[name].start))
        try:
            for name in SERVICES:
                wait_until_alive(stack.address(f"{name}.http"))
            not_ready = {name: answer_of(stack.address(f"{name}.http"), "/readyz") for name in NEEDS}
            nothing_there = [is_free(int(stack.address(port).rpartition(":")[2])) for port in ("kafka", "redis")]
            for name in SERVERS:
                stack[name].start()
            create_topics(stack)
            for start in starts:
                start.result(timeout=READY_WITHIN_S)
        except BaseException:
            stack.stop()  # ends the starts that still wait
            raise

    assert nothing_there == [True, True]
    for name, needed in NEEDS.items():
        status, text = not_ready[name]
        assert status == 503
        assert needed in text
    citizen = Citizen("lan")
    with own_stack.portal() as caller:
        handle = caller.request(citizen).handle
        assert caller.outcome(handle, code_in(mail_to(own_stack.inbox, citizen.email))) == "accepted"
