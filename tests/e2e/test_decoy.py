"""A request for an account that does not exist looks like any other, and mails nobody."""

from __future__ import annotations

from collections.abc import Callable

from kip.otp.v1 import otp_service_pb2 as pb

from deploy.dev.inbox.client import InboxClient
from tests.e2e.mailbox import mail_to
from tests.e2e.portal import Citizen, Portal
from tests.e2e.timing import interleaved, ks_distance, ks_limit


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


GUARDED = "password-reset"  # its policy says that nobody may learn who has an account
MANY = 500
GUESSES = 400
BARELY = 0.3  # what one answer may add to a coin toss; reading nothing is 0.05 ms faster than reading a record
UNKNOWN = "c00" + "0" * 26 + "." + "0" * 64


def test_500_decoys_and_500_accounts_are_told_apart_by_nothing(portal: Portal) -> None:
    real, unreal = [], []

    took = interleaved(
        [
            lambda: real.append(portal.request(Citizen("lan"), purpose=GUARDED)),
            lambda: unreal.append(portal.request(Citizen("lan"), purpose=GUARDED, decoy=True)),
        ],
        MANY,
        seed=4,
    )

    assert ks_distance(*took) < ks_limit(*took)
    for each in (*real, *unreal):
        portal.wait_for_fate(each.handle, "HANDED_OVER")
    steps: list[Callable[[pb.RequestCodeResponse], pb.Challenge]] = [
        lambda asked: asked.challenge,
        lambda asked: portal.look(asked.handle),
        lambda asked: next(portal.watch(asked.handle)),
    ]
    for step in steps:  # in turns: what a look leaves behind must not part them
        pairs = [(str(_shape(step(one))), str(_shape(step(other)))) for one, other in zip(real, unreal, strict=True)]
        assert {one for one, _ in pairs} == {other for _, other in pairs}
    judged = interleaved(
        [lambda: portal.verify(real.pop().handle, "123456"), lambda: portal.verify(unreal.pop().handle, "123456")],
        MANY,
        seed=5,
    )
    assert ks_distance(*judged) < ks_limit(*judged)


def test_an_unknown_handle_takes_as_long_as_a_wrong_code(portal: Portal) -> None:
    handles = [portal.request(Citizen("lan"), decoy=True).handle for _ in range(GUESSES)]

    took = interleaved(
        [lambda: portal.verify(handles.pop(), "123456"), lambda: portal.verify(UNKNOWN, "123456")], GUESSES, seed=6
    )

    assert ks_distance(*took) < BARELY
