"""Each service is told to stop with work in hand: it ends what it holds, its exit code is 0, and nothing is lost."""

from __future__ import annotations

import time
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

CITIZENS = 40
FIRST = 10  # answered before the signal
GRACE_S = 10.0  # what a service gets to finish; then it is killed, and its exit code is -9

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def caller(shaken: Running) -> Iterator[Portal]:
    with shaken.portal() as portal:
        yield portal
    shaken.inbox.set_behaviour()


def stop_and_start(shaken: Running, name: str) -> None:
    """Send SIGTERM, see the service end well within its grace, and start it again."""
    asked = time.monotonic()
    exit_code = shaken.stack[name].terminate(grace_s=GRACE_S)
    took_s = time.monotonic() - asked
    shaken.stack[name].start()

    assert exit_code == 0, shaken.stack.log(name)[-2000:]
    assert took_s < GRACE_S


@pytest.mark.parametrize(
    ("name", "gather"), [("otp", code_crowd), ("lagwatch", code_crowd), ("dossier", dossier_crowd)]
)
def test_a_service_that_is_told_to_stop_ends_what_it_holds(
    shaken: Running, caller: Portal, name: str, gather: Callable[[Portal, int], Crowd[Promise]]
) -> None:
    seen, blind = shaken.inbox.newest_id(), letters_sent_blindly(shaken)
    with gather(caller, CITIZENS) as crowd:
        crowd.wait_for_answers(FIRST)
        wait_until(lambda: crowd.in_hand > 0, within_s=ARRIVES_WITHIN_S, what="a call in hand")

        stop_and_start(shaken, name)

    assert len(crowd.answers) == CITIZENS
    if gather is code_crowd:
        twice = every_code_is_accepted(shaken, caller, crowd.answers, after=seen)
    else:
        _, twice = every_letter_is_there(shaken, crowd.answers, after=seen)
    assert twice <= letters_sent_blindly(shaken) - blind


def test_a_mailer_that_is_told_to_stop_waits_for_the_word_of_the_relay(shaken: Running, caller: Portal) -> None:
    seen = shaken.inbox.newest_id()
    shaken.inbox.set_behaviour({"stage": "reply", "action": "delay", "delay_s": 0.7})
    with code_crowd(caller, CITIZENS) as crowd:
        crowd.wait_for_answers(FIRST)
        wait_until(lambda: shaken.inbox.times_used()[0] > 0, within_s=ARRIVES_WITHIN_S, what="a letter without its 250")

        stop_and_start(shaken, "mailer")

    assert len(crowd.answers) == CITIZENS
    assert every_code_is_accepted(shaken, caller, crowd.answers, after=seen) <= letters_sent_blindly(shaken)
