"""The whole life of a challenge from outside: joined, resent, watched, given back, locked."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator

import grpc
import pytest
from kip.otp.v1 import otp_service_pb2 as pb

from deploy.dev.inbox.client import InboxClient
from tests.conditions import wait_until
from tests.e2e.mailbox import ARRIVES_WITHIN_S, code_in, mail_to
from tests.e2e.portal import Citizen, Portal, refused
from tests.e2e.stacks import Running


@pytest.fixture
def operator(peaceful: Running) -> Iterator[Portal]:
    """A caller with the scope `unlock`."""
    with peaceful.portal(peaceful.operator_token) as caller:
        yield caller


def hold_back(inbox: InboxClient, citizen: Citizen) -> None:
    """Let the relay say "later" to every mail for one citizen, and wait until it has."""
    inbox.set_behaviour({"stage": "rcpt", "action": "reply", "to": citizen.email, "code": 450})


def wait_until_held_back(inbox: InboxClient) -> None:
    wait_until(lambda: inbox.times_used()[0] > 0, within_s=ARRIVES_WITHIN_S, what="the relay says 450")


def wrong(code: str) -> str:
    """Return another code."""
    return f"{(int(code) + 1) % 10 ** len(code):0{len(code)}}"


def test_pressing_again_on_four_pages_sends_one_mail_and_each_page_can_type_its_code(
    portal: Portal, inbox: InboxClient
) -> None:
    citizen = Citizen("lan")
    hold_back(inbox, citizen)
    first = portal.request(citizen)
    wait_until_held_back(inbox)

    others = [portal.request(citizen) for _ in range(3)]

    assert [other.joined for other in others] == [True] * 3
    references = {each.challenge.letters[0].reference for each in (first, *others)}
    assert len(references) == 1
    assert len({each.handle for each in (first, *others)}) == 4
    inbox.set_behaviour()
    code = code_in(mail_to(inbox, citizen.email))
    assert portal.outcome(others[2].handle, code) == "accepted"
    assert portal.outcome(first.handle, code) == "used"
    assert len(inbox.messages(to=citizen.email)) == 1


def test_a_click_while_the_letter_waits_queues_nothing_and_says_where_it_is(portal: Portal, inbox: InboxClient) -> None:
    citizen = Citizen("lan")
    hold_back(inbox, citizen)
    asked = portal.request(citizen)
    wait_until_held_back(inbox)

    click = portal.resend(asked.handle)

    assert click.outcome == pb.RESEND_OUTCOME_STILL_QUEUED
    assert click.challenge.advice.kind == pb.ADVICE_KIND_WAIT
    assert [letter.reference for letter in click.challenge.letters] == [asked.challenge.letters[0].reference]


def test_after_the_mail_left_a_click_is_too_early_first_and_says_when(portal: Portal, inbox: InboxClient) -> None:
    citizen = Citizen("lan")
    asked = portal.request(citizen)
    mail_to(inbox, citizen.email)
    known = portal.wait_for_fate(asked.handle, "HANDED_OVER")

    click = portal.resend(asked.handle)

    assert click.outcome == pb.RESEND_OUTCOME_NOT_YET
    pause_s = known.resend_allowed_at.ToSeconds() - known.letters[0].handed_over_at.ToSeconds()
    assert pause_s == 30
    assert len(inbox.messages(to=citizen.email)) == 1


def test_a_stream_tells_each_step_and_ends_with_the_code(portal: Portal, inbox: InboxClient) -> None:
    citizen = Citizen("lan")
    asked = portal.request(citizen)
    news = portal.watch(asked.handle)
    seen = [next(news)]
    code = code_in(mail_to(inbox, citizen.email))
    while seen[-1].letters[0].fate != pb.LETTER_FATE_HANDED_OVER:
        seen.append(next(news))

    assert portal.outcome(asked.handle, code) == "accepted"

    seen += news
    assert seen[-1].state == pb.CHALLENGE_STATE_VERIFIED
    assert not seen[-1].HasField("advice")
    versions = [each.version for each in seen]
    assert versions == sorted(versions)


def test_a_stream_is_resumed_after_the_last_version_seen(portal: Portal, inbox: InboxClient) -> None:
    citizen = Citizen("lan")
    asked = portal.request(citizen)
    code = code_in(mail_to(inbox, citizen.email))
    known = portal.wait_for_fate(asked.handle, "HANDED_OVER")

    news = portal.watch(asked.handle, after=known.version)
    assert portal.outcome(asked.handle, wrong(code)) == "wrong"
    first = next(news)

    assert first.version > known.version
    assert first.attempts_left == known.attempts_left - 1


def test_a_stream_of_nothing_ends_at_once(portal: Portal) -> None:
    assert list(portal.watch("c00" + "0" * 26 + "." + "0" * 64)) == []
    assert list(portal.watch("nonsense")) == []


def test_a_letter_that_nobody_wants_any_more_is_not_sent(portal: Portal, inbox: InboxClient) -> None:
    citizen = Citizen("lan")
    hold_back(inbox, citizen)
    asked, other = portal.request(citizen), portal.request(citizen)
    wait_until_held_back(inbox)

    portal.cancel(asked.handle)
    assert portal.outcome(asked.handle, "123456") == "unknown"
    assert portal.look(other.handle).state == pb.CHALLENGE_STATE_OPEN
    news = portal.watch(other.handle)
    next(news)
    portal.cancel(other.handle)
    portal.cancel(other.handle)  # once more is harmless

    assert list(news) == []  # it opens nothing any more
    used = inbox.times_used()[0]
    inbox.set_behaviour()
    fresh = Citizen("hoa")  # a mail that is sent after it, on the same road
    portal.request(fresh)
    mail_to(inbox, fresh.email)
    assert used > 0
    assert inbox.messages(to=citizen.email) == []


def test_an_answer_that_was_lost_is_given_again_under_its_key(portal: Portal, inbox: InboxClient) -> None:
    citizen = Citizen("lan")
    asked = portal.request(citizen)
    code = code_in(mail_to(inbox, citizen.email))
    key = uuid.uuid4().hex

    answers = [portal.verify(asked.handle, code, key=key) for _ in range(3)]

    assert [answer.WhichOneof("outcome") for answer in answers] == ["accepted"] * 3
    assert {answer.accepted.context for answer in answers} == {citizen.context}
    assert portal.outcome(asked.handle, code) == "used"
    told = refused(lambda: portal.verify(asked.handle, wrong(code), key=key))
    assert (told.status, told.reason) == (grpc.StatusCode.ABORTED, "IDEMPOTENCY_KEY_REUSED")


def test_ten_wrong_codes_lock_the_citizen_over_all_pages_until_somebody_unlocks(
    portal: Portal, operator: Portal, inbox: InboxClient
) -> None:
    citizen = Citizen("lan")
    hold_back(inbox, citizen)
    pages = [portal.request(citizen).handle for _ in range(2)]
    wait_until_held_back(inbox)
    inbox.set_behaviour()
    code = code_in(mail_to(inbox, citizen.email))
    outcomes = [portal.outcome(page, wrong(code)) for page, _ in itertools.product(pages, range(5))]

    locked = portal.verify(pages[0], code)

    assert outcomes == ["wrong"] * 10
    assert locked.WhichOneof("outcome") == "locked"
    told = refused(lambda: portal.unlock(citizen))
    assert (told.status, told.reason) == (grpc.StatusCode.PERMISSION_DENIED, "NOT_ALLOWED")
    assert operator.unlock(citizen)
    assert not operator.unlock(citizen)
    spent = portal.look(pages[0])
    assert spent.state == pb.CHALLENGE_STATE_SPENT
    assert spent.advice.kind == pb.ADVICE_KIND_ASK_AGAIN
