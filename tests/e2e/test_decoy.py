"""A request for an account that does not exist looks like any other, and mails nobody."""

from __future__ import annotations

from kip.otp.v1 import otp_service_pb2 as pb

from deploy.dev.inbox.client import InboxClient
from tests.e2e.mailbox import mail_to
from tests.e2e.portal import Citizen, Portal


def test_a_decoy_walks_every_step_and_no_mail_leaves(portal: Portal, inbox: InboxClient) -> None:
    real, unreal = Citizen("lan"), Citizen("minh")

    asked = [portal.request(real), portal.request(unreal, decoy=True)]
    views = [portal.wait_for_fate(each.handle, "HANDED_OVER") for each in asked]
    mail_to(inbox, real.email)

    assert inbox.messages(to=unreal.email) == []
    assert _shape(asked[0].challenge) == _shape(asked[1].challenge)
    assert _shape(views[0]) == _shape(views[1])
    assert len(asked[0].handle) == len(asked[1].handle)


def test_a_guess_at_a_decoy_is_as_wrong_as_any(portal: Portal) -> None:
    handle = portal.request(Citizen("minh"), decoy=True).handle

    answer = portal.verify(handle, "123456")

    assert answer.wrong.attempts_left == 4


def _shape(challenge: pb.Challenge) -> dict[str, object]:
    """Return what a caller sees but for ids, marks and times."""
    letter = challenge.letters[0]
    return {
        "fields": [field.name for field, _ in challenge.ListFields()],
        "letter": [field.name for field, _ in letter.ListFields()],
        "state": challenge.state,
        "fate": letter.fate,
        "cause": letter.cause,
        "advice": challenge.advice.kind,
        "attempts": challenge.attempts_left,
        "digits": challenge.code_length,
    }
