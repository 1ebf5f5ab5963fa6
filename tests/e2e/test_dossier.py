"""A dossier moves, its citizen is mailed, and the office sees what became of the mail."""

from __future__ import annotations

import uuid

import grpc
import pytest
from kip.dossier.v1 import dossier_service_pb2 as pb

from deploy.dev.inbox.client import InboxClient
from tests.conditions import wait_until
from tests.e2e.mailbox import ARRIVES_WITHIN_S, mail_to
from tests.e2e.portal import Citizen, Portal, refused

pytestmark = pytest.mark.timeout(300)


def test_each_step_mails_its_notice_and_shows_its_fate(portal: Portal, inbox: InboxClient) -> None:
    citizen = Citizen("Lan")
    opened = portal.open_dossier(citizen)
    first = mail_to(inbox, citizen.email)

    moved = portal.advance(opened, pb.DOSSIER_STATE_ACCEPTED, remark="Hẹn trả kết quả ngày 05/12")
    second = mail_to(inbox, citizen.email, after=first.id)

    for mail, state in ((first, "Mới đăng ký"), (second, "Được tiếp nhận")):
        assert opened.number in str(mail.subject)
        assert state in str(mail.text)
        assert mail.message_id != first.message_id or mail is first
    assert "Hẹn trả kết quả ngày 05/12" in str(second.text)
    assert [step.version for step in moved.steps] == [1, 2]
    wait_until(
        lambda: (
            [step.notice.fate for step in portal.dossier(opened.dossier_id).steps]
            == [pb.NOTICE_FATE_HANDED_OVER, pb.NOTICE_FATE_HANDED_OVER]
        ),
        within_s=ARRIVES_WITHIN_S,
        what="both notices handed over",
    )
    assert len(inbox.messages(to=citizen.email)) == 2


def test_the_same_key_opens_one_dossier_and_mails_one_notice(portal: Portal, inbox: InboxClient) -> None:
    citizen, key = Citizen("Lan"), uuid.uuid4().hex
    first = portal.open_dossier(citizen, key=key)
    mail = mail_to(inbox, citizen.email)

    again = portal.open_dossier(citizen, key=key)
    other = refused(lambda: portal.open_dossier(Citizen("Minh"), key=key))

    assert again.dossier_id == first.dossier_id
    assert (other.status, other.reason) == (grpc.StatusCode.ABORTED, "IDEMPOTENCY_KEY_REUSED")
    assert [each.id for each in inbox.messages(to=citizen.email)] == [mail.id]


def test_whoever_moves_a_dossier_must_have_seen_where_it_is(portal: Portal) -> None:
    opened = portal.open_dossier(Citizen("Lan"))
    portal.advance(opened, pb.DOSSIER_STATE_ACCEPTED)

    stale = refused(lambda: portal.advance(opened, pb.DOSSIER_STATE_REJECTED))

    assert (stale.status, stale.reason) == (grpc.StatusCode.ABORTED, "VERSION_CONFLICT")
    assert portal.dossier(opened.dossier_id).state == pb.DOSSIER_STATE_ACCEPTED


def test_a_bad_filing_names_each_field_in_both_languages(portal: Portal) -> None:
    refusal = refused(lambda: portal.open_dossier(Citizen("Lan"), email="lan@", subject="", name="n" * 10_000))

    assert (refusal.status, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert refusal.violations.keys() == {"email", "subject", "name"}
    assert all(" / " in words for words in refusal.violations.values())


def test_a_procedure_that_nobody_wrote_is_refused(portal: Portal) -> None:
    refusal = refused(lambda: portal.open_dossier(Citizen("Lan"), procedure="build-a-castle"))

    assert (refusal.status, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "UNKNOWN_PROCEDURE")
