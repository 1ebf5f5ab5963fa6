"""One code, from the click to the mailbox and back: the story of `docs/walkthrough.md` as tests."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import grpc
import pytest
from kip.otp.v1 import otp_service_pb2 as pb

from deploy.dev.inbox.client import InboxClient
from tests.conditions import wait_until
from tests.e2e.mailbox import ARRIVES_WITHIN_S, code_in, letter_of, mail_to
from tests.e2e.portal import Citizen, Portal, refused

LIFE = timedelta(minutes=5)  # of a code, from its hand-over; the policy's promise
FULL_WIDTH = str.maketrans("0123456789", "０１２３４５６７８９")
FIRST_WORDS = {"vi": "Chào bạn,", "en": "Hello,"}


def hold_back(inbox: InboxClient, citizen: Citizen) -> None:
    """Let the relay say "later" to every mail for one citizen."""
    inbox.set_behaviour({"stage": "rcpt", "action": "reply", "to": citizen.email, "code": 450})


def wait_until_held_back(inbox: InboxClient) -> None:
    wait_until(lambda: inbox.times_used()[0] > 0, within_s=ARRIVES_WITHIN_S, what="the relay says 450")


@pytest.mark.parametrize("locale", ["vi", "en"])
def test_a_code_comes_by_mail_is_accepted_once_and_then_used(portal: Portal, inbox: InboxClient, locale: str) -> None:
    citizen = Citizen("lan")
    handle = portal.request(citizen, locale=locale).handle
    mail = mail_to(inbox, citizen.email)
    code = code_in(mail)

    first, second = portal.verify(handle, code), portal.verify(handle, code)

    assert first.accepted.context == citizen.context
    assert abs(first.accepted.verified_at.ToDatetime(tzinfo=UTC) - datetime.now(UTC)) < timedelta(minutes=1)
    assert second.WhichOneof("outcome") == "used"
    assert portal.look(handle).state == pb.CHALLENGE_STATE_VERIFIED
    portal.wait_for_fate(handle, "HANDED_OVER")
    assert [each.id for each in inbox.messages(to=citizen.email)] == [mail.id]


@pytest.mark.parametrize(("locale", "languages"), [("vi", "vi, en"), ("en", "en, vi")])
def test_the_letter_says_who_what_and_until_when(
    portal: Portal, inbox: InboxClient, locale: str, languages: str
) -> None:
    citizen = Citizen("lan")
    asked = portal.request(citizen, locale=locale)
    reference, challenge_id = asked.challenge.letters[0].reference, asked.challenge.challenge_id

    mail = mail_to(inbox, citizen.email)

    assert (mail.mail_from, mail.rcpt_to) == ("khong-tra-loi@kip.example", (citizen.email,))
    assert mail.headers["From"] == "Cổng dịch vụ công <khong-tra-loi@kip.example>"
    assert mail.headers["To"] == citizen.email
    assert mail.subject is not None
    assert mail.subject.startswith(f"[{reference}] ")
    assert mail.headers["Content-Language"] == languages
    assert mail.headers["Auto-Submitted"] == "auto-generated"
    assert letter_of(mail) == f"{challenge_id}.1"
    assert mail.message_id == f"<{challenge_id}.1@kip.example>"
    ends_at = asked.challenge.ends_at.ToDatetime(tzinfo=UTC).replace(microsecond=0)
    assert parsedate_to_datetime(mail.headers["Expires"]) == ends_at
    assert mail.text is not None
    assert mail.html is not None
    assert mail.text.startswith(FIRST_WORDS[locale])
    for part in (mail.text, mail.html):
        assert all(words in part for words in (code_in(mail), reference, citizen.context))


def test_code_and_code_length_are_not_in_the_subject(portal: Portal, inbox: InboxClient) -> None:
    citizen = Citizen("lan")
    asked = portal.request(citizen)

    mail = mail_to(inbox, citizen.email)

    assert len(code_in(mail)) == asked.challenge.code_length == 6
    assert code_in(mail) not in str(mail.subject)


@pytest.mark.parametrize(
    "typed",
    [
        pytest.param(lambda code: f" {code[:3]} {code[3:]} ", id="spaces"),
        pytest.param(lambda code: f"{code[:3]}-{code[3:]}", id="dash"),
        pytest.param(lambda code: code.translate(FULL_WIDTH), id="full-width"),
    ],
)
def test_a_code_is_accepted_as_people_type_it(portal: Portal, inbox: InboxClient, typed: Callable[[str], str]) -> None:
    citizen = Citizen("lan")
    handle = portal.request(citizen).handle

    as_typed = typed(code_in(mail_to(inbox, citizen.email)))

    assert portal.outcome(handle, as_typed) == "accepted"


def test_wrong_codes_are_counted_and_then_nothing_is_compared(portal: Portal, inbox: InboxClient) -> None:
    citizen = Citizen("lan")
    handle = portal.request(citizen).handle
    code = code_in(mail_to(inbox, citizen.email))
    wrong = f"{(int(code) + 1) % 10**6:06}"

    answers = [portal.verify(handle, wrong) for _ in range(5)]

    assert [answer.wrong.attempts_left for answer in answers] == [4, 3, 2, 1, 0]
    assert portal.outcome(handle, code) == "locked"


def test_the_view_goes_from_queued_to_handed_over_and_advises(portal: Portal, inbox: InboxClient) -> None:
    citizen = Citizen("lan")
    hold_back(inbox, citizen)
    handle = portal.request(citizen).handle
    wait_until_held_back(inbox)

    waiting = portal.look(handle)
    inbox.set_behaviour()
    arrived = portal.wait_for_fate(handle, "HANDED_OVER")

    assert waiting.letters[0].fate == pb.LETTER_FATE_QUEUED
    assert waiting.advice.kind == pb.ADVICE_KIND_WAIT
    assert set(waiting.advice.text) == {"vi", "en"}
    assert arrived.advice.kind == pb.ADVICE_KIND_TYPE_IT
    letter = arrived.letters[0]
    assert letter.good_until.ToDatetime() == letter.handed_over_at.ToDatetime() + LIFE
    assert letter.handed_over_at.ToDatetime() >= letter.queued_at.ToDatetime()


def test_asking_again_while_the_letter_waits_joins_it(portal: Portal, inbox: InboxClient) -> None:
    citizen = Citizen("lan")
    hold_back(inbox, citizen)
    first = portal.request(citizen)
    wait_until_held_back(inbox)

    second = portal.request(citizen)
    inbox.set_behaviour()
    mail = mail_to(inbox, citizen.email)

    assert (first.joined, second.joined) == (False, True)
    assert second.challenge.challenge_id == first.challenge.challenge_id
    assert second.handle != first.handle
    portal.wait_for_fate(second.handle, "HANDED_OVER")
    assert [each.id for each in inbox.messages(to=citizen.email)] == [mail.id]
    assert portal.outcome(second.handle, code_in(mail)) == "accepted"
    assert portal.outcome(first.handle, code_in(mail)) == "used"


def test_asking_again_right_after_the_mail_is_too_soon(portal: Portal, inbox: InboxClient) -> None:
    citizen = Citizen("lan")
    portal.wait_for_fate(portal.request(citizen).handle, "HANDED_OVER")

    refusal = refused(lambda: portal.request(citizen))

    assert (refusal.status, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
    assert refusal.retry_after_s is not None
    assert 0 < refusal.retry_after_s <= 60
    assert set(refusal.words) == {"vi", "en"}
    assert len(inbox.messages(to=citizen.email)) == 1


def test_the_same_key_gets_the_same_handle_and_no_second_mail(portal: Portal, inbox: InboxClient) -> None:
    citizen, key = Citizen("lan"), uuid.uuid4().hex
    first = portal.request(citizen, key=key)
    mail = mail_to(inbox, citizen.email)
    portal.wait_for_fate(first.handle, "HANDED_OVER")

    again = portal.request(citizen, key=key)

    assert again.handle == first.handle
    assert again.challenge.challenge_id == first.challenge.challenge_id
    assert portal.outcome(again.handle, code_in(mail)) == "accepted"
    assert len(inbox.messages(to=citizen.email)) == 1


def test_the_same_key_with_another_body_is_aborted(portal: Portal, inbox: InboxClient) -> None:
    citizen, other, key = Citizen("lan"), Citizen("minh"), uuid.uuid4().hex
    handle = portal.request(citizen, key=key).handle

    refusal = refused(lambda: portal.request(other, key=key))

    assert (refusal.status, refusal.reason) == (grpc.StatusCode.ABORTED, "IDEMPOTENCY_KEY_REUSED")
    portal.wait_for_fate(handle, "HANDED_OVER")
    assert inbox.messages(to=other.email) == []
