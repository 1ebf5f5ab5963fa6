"""Each process is killed in the middle and comes back: what was promised arrives, and once.

`kill -9` gives no chance to finish, as a power cut would. Each test shows that the fault happened: the process is gone,
and the crowd, which never stops pressing, has met it down.

A mail may come twice, byte for byte the same, where the mailer cannot know: it was killed between the last byte of a
letter and the word of the relay, or its ledger did not answer within its 50 ms, which a starved machine can bring about
at any time. The tests count both.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from tests.conditions import wait_until
from tests.e2e.crowd import Crowd
from tests.e2e.mailbox import ARRIVES_WITHIN_S
from tests.e2e.portal import Portal
from tests.e2e.promises import (
    Promise,
    code_crowd,
    dossier_crowd,
    every_code_is_accepted,
    every_letter_is_there,
    letters_sent_blindly,
)
from tests.e2e.stacks import Running

CITIZENS = 48
FIRST = 12  # answered before the kill
MEANWHILE = 6  # answered while the process is down, where that is possible
SLOTS = 16  # letters that the mailer hands over at the same time: what it may have sent and cannot remember

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def caller(shaken: Running) -> Iterator[Portal]:
    with shaken.portal() as portal:
        yield portal
    shaken.inbox.set_behaviour()


def kill(shaken: Running, name: str) -> None:
    """Kill a process and see that it is gone."""
    process = shaken.stack[name]
    pid = process.pid
    process.kill()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def until_refused(crowd: Crowd[Promise]) -> None:
    """Meet the process down: somebody is told "not now"."""
    assert crowd.wait_for_refusal().status.name in {"UNAVAILABLE", "DEADLINE_EXCEEDED"}


def until_answered(crowd: Crowd[Promise]) -> None:
    """Do without the process: people are answered all the same."""
    crowd.wait_for_answers(MEANWHILE)


@pytest.mark.parametrize(
    ("name", "meet"),
    [("otp", until_refused), ("redis", until_refused), ("kafka", until_answered), ("lagwatch", until_answered)],
)
def test_codes_survive_a_kill(
    shaken: Running, caller: Portal, name: str, meet: Callable[[Crowd[Promise]], None]
) -> None:
    seen, blind = shaken.inbox.newest_id(), letters_sent_blindly(shaken)
    with code_crowd(caller, CITIZENS) as crowd:
        crowd.wait_for_answers(FIRST)

        kill(shaken, name)
        meet(crowd)
        shaken.stack[name].start()

    assert len(crowd.answers) == CITIZENS
    twice = every_code_is_accepted(shaken, caller, crowd.answers, after=seen)
    assert twice <= letters_sent_blindly(shaken) - blind


def test_codes_survive_a_kill_of_the_mailer_in_the_middle_of_a_hand_over(shaken: Running, caller: Portal) -> None:
    seen = shaken.inbox.newest_id()
    # The relay takes each mail and keeps its 250 back: the worst moment to die in.
    shaken.inbox.set_behaviour({"stage": "reply", "action": "delay", "delay_s": 1, "store": True})
    with code_crowd(caller, CITIZENS) as crowd:
        crowd.wait_for_answers(FIRST)
        wait_until(lambda: shaken.inbox.newest_id() > seen, within_s=ARRIVES_WITHIN_S, what="a mail without its 250")

        kill(shaken, "mailer")
        shaken.inbox.set_behaviour()
        until_answered(crowd)
        shaken.stack["mailer"].start()

    assert len(crowd.answers) == CITIZENS
    twice = every_code_is_accepted(shaken, caller, crowd.answers, after=seen)
    assert 1 <= twice <= SLOTS + letters_sent_blindly(shaken)


def test_notices_survive_a_kill_of_dossier(shaken: Running, caller: Portal) -> None:
    seen = shaken.inbox.newest_id()
    with dossier_crowd(caller, CITIZENS) as crowd:
        crowd.wait_for_answers(FIRST)

        kill(shaken, "dossier")
        until_refused(crowd)
        shaken.stack["dossier"].start()

    assert len(crowd.answers) == CITIZENS
    _, twice = every_letter_is_there(shaken, crowd.answers, after=seen)
    assert twice == 0
    assert all(caller.dossier(promise.about).version == 1 for promise in crowd.answers)
