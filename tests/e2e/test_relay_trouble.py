"""A relay that says "later", one that breaks off without a word, one that says "never"."""

from __future__ import annotations

import pytest
from kip.otp.v1 import otp_service_pb2 as pb

from deploy.dev.inbox.client import InboxClient
from tests.e2e.mailbox import code_in, mail_to
from tests.e2e.portal import Citizen, Portal


@pytest.mark.parametrize(("stage", "code"), [("mail", 421), ("rcpt", 450), ("data", 451), ("reply", 452)])
def test_a_relay_that_says_later_gets_the_letter_later_and_once(
    portal: Portal, inbox: InboxClient, stage: str, code: int
) -> None:
    inbox.set_behaviour({"stage": stage, "action": "reply", "code": code, "times": 2})
    citizen = Citizen("lan")

    handle = portal.request(citizen).handle
    mail = mail_to(inbox, citizen.email)

    assert inbox.times_used() == [2]
    portal.wait_for_fate(handle, "HANDED_OVER")
    assert [each.id for each in inbox.messages(to=citizen.email)] == [mail.id]
    assert portal.outcome(handle, code_in(mail)) == "accepted"


def test_a_relay_that_breaks_off_before_the_body_gets_the_letter_once(portal: Portal, inbox: InboxClient) -> None:
    inbox.set_behaviour({"stage": "rcpt", "action": "cut", "times": 2})
    citizen = Citizen("lan")

    handle = portal.request(citizen).handle
    mail = mail_to(inbox, citizen.email)

    assert inbox.times_used() == [2]
    portal.wait_for_fate(handle, "HANDED_OVER")
    assert [each.id for each in inbox.messages(to=citizen.email)] == [mail.id]
    assert portal.outcome(handle, code_in(mail)) == "accepted"


@pytest.mark.parametrize("action", ["cut", "half_line"])
def test_a_relay_that_breaks_off_after_the_body_gets_the_same_bytes_again(
    portal: Portal, inbox: InboxClient, action: str
) -> None:
    inbox.set_behaviour({"stage": "reply", "action": action, "store": True, "times": 2})
    citizen = Citizen("lan")

    handle = portal.request(citizen).handle
    portal.wait_for_fate(handle, "HANDED_OVER")

    assert inbox.times_used() == [2]
    mails = inbox.messages(to=citizen.email)
    assert len(mails) == 3
    assert len({inbox.raw(mail.id) for mail in mails}) == 1
    assert portal.outcome(handle, code_in(inbox.mail(mails[0].id))) == "accepted"


def test_a_relay_that_says_never_ends_the_letter_and_the_citizen_is_told(portal: Portal, inbox: InboxClient) -> None:
    inbox.set_behaviour({"stage": "rcpt", "action": "reply", "code": 550})
    citizen = Citizen("lan")

    handle = portal.request(citizen).handle
    portal.wait_for_fate(handle, "REFUSED")

    advice = portal.look(handle).advice
    by_phone = advice.hotline.open_now  # depends on the hour
    assert advice.kind == (pb.ADVICE_KIND_CALL if by_phone else pb.ADVICE_KIND_OTHER_CHANNEL)
    assert advice.hotline.phone
    assert advice.alternatives == ["hotline"]
    assert inbox.times_used() == [1]
    assert inbox.messages(to=citizen.email) == []
