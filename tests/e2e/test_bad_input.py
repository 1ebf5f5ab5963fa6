"""What cannot be right is refused in words, in both languages, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grpc
import pytest
import redis
from kip.otp.v1 import otp_service_pb2 as pb

from deploy.dev.inbox.client import InboxClient
from tests.e2e.mailbox import code_in, mail_to
from tests.e2e.portal import Citizen, Portal, refused
from tests.e2e.quiet import wait_until_published
from tests.e2e.stacks import Running

Snapshot = Callable[[], Mapping[bytes, bytes]]

LONG = "a" * 10_000
ABSENT = "0" * 64  # the secret of a handle that nobody got


# Counts of guesses, which grow by the worst input, and limits that are whole again within minutes.
PASSING = (b"otp:{guesses:", b"otp:{quota:guesses", b"otp:{quota:domain:", b"otp:{quota:system:")


@pytest.fixture
def stored(peaceful: Running) -> Iterator[Snapshot]:
    """What Redis holds, key by key, whole values included, once everything that was promised before is published."""
    client: Any = redis.Redis.from_url(f"redis://{peaceful.stack.address('redis')}/0")

    def snapshot() -> Mapping[bytes, bytes]:
        wait_until_published(peaceful)
        return {key: client.dump(key) for key in client.scan_iter() if not key.startswith(PASSING)}

    yield snapshot
    client.close()


@pytest.mark.parametrize(
    ("fields", "broken"),
    [
        pytest.param({"email": "lan@"}, {"email"}, id="no domain"),
        pytest.param({"email": "lan example.vn"}, {"email"}, id="no at sign"),
        pytest.param({"email": "lan@example.vn\r\nBcc: minh@example.vn"}, {"email"}, id="a header in the address"),
        pytest.param({"email": "lan@example.vn, minh@example.vn"}, {"email"}, id="two addresses"),
        pytest.param({"email": "đỗ@example.vn"}, {"email"}, id="a name that we could not mail"),
        pytest.param({"context": "hồ sơ\nBcc: x"}, {"context"}, id="a line break"),
        pytest.param({"locale": "fr"}, {"locale"}, id="a language we do not write"),
        pytest.param({"client": pb.Client(ip=LONG, device_id=LONG)}, {"client.ip", "client.device_id"}, id="client"),
        pytest.param(
            {"idempotency_key": "", "purpose": "", "subject": "", "email": "", "context": ""},
            {"idempotency_key", "purpose", "subject", "email"},
            id="nothing",
        ),
        pytest.param(
            dict.fromkeys(("idempotency_key", "purpose", "subject", "email", "locale", "context"), LONG),
            {"idempotency_key", "purpose", "subject", "email", "locale", "context"},
            id="10 000 characters",
        ),
    ],
)
def test_a_request_with_bad_fields_names_each_in_both_languages(
    portal: Portal, stored: Snapshot, fields: Mapping[str, Any], broken: set[str]
) -> None:
    before = stored()

    refusal = refused(lambda: portal.otp.RequestCode(_request(fields), metadata=portal.metadata, timeout=10))

    assert (refusal.status, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert refusal.violations.keys() == broken
    assert all(" / must " in words or " / is not " in words for words in refusal.violations.values())
    assert set(refusal.words) == {"vi", "en"}
    assert stored() == before


def test_a_purpose_that_nobody_promised_is_refused_by_name(portal: Portal, stored: Snapshot) -> None:
    before = stored()

    refusal = refused(lambda: portal.request(Citizen("lan"), purpose="fortune-telling"))

    assert (refusal.status, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "UNKNOWN_PURPOSE")
    assert refusal.metadata == {"purpose": "fortune-telling"}
    assert set(refusal.words) == {"vi", "en"}
    assert stored() == before


def test_a_request_that_no_form_could_fill_is_refused_unread(portal: Portal, stored: Snapshot) -> None:
    before = stored()

    refusal = refused(lambda: portal.request(Citizen("lan"), context="a" * 1_000_000))

    assert refusal.status == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert stored() == before


@pytest.mark.parametrize(
    ("typed", "broken"),
    [
        pytest.param({"code": "abcdef"}, {"code"}, id="letters"),
        pytest.param({"code": "12345O"}, {"code"}, id="a letter that looks like a digit"),
        pytest.param({"code": "- -"}, {"code"}, id="only what stands between digits"),
        pytest.param({"code": LONG}, {"code"}, id="10 000 characters"),
        pytest.param({"handle": LONG}, {"handle"}, id="a handle of 10 000 characters"),
        pytest.param({"handle": "", "code": ""}, {"handle", "code"}, id="nothing"),
    ],
)
def test_what_cannot_be_a_code_is_refused_and_costs_no_attempt(
    portal: Portal, inbox: InboxClient, stored: Snapshot, typed: Mapping[str, str], broken: set[str]
) -> None:
    handle, code = _received(portal, inbox)
    before = stored()

    refusal = refused(lambda: portal.verify(**{"handle": handle, "code": code, **typed}))

    assert (refusal.status, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert refusal.violations.keys() == broken
    assert all(" / must " in words for words in refusal.violations.values())
    assert stored() == before
    assert portal.outcome(handle, code) == "accepted"


def test_a_handle_of_somebody_else_opens_nothing_and_changes_nothing(
    peaceful: Running, portal: Portal, inbox: InboxClient, stored: Snapshot
) -> None:
    handle, code = _received(portal, inbox)
    before = stored()

    with peaceful.portal(peaceful.tokens[1]) as stranger:
        outcome = stranger.outcome(handle, code)
        seen = stranger.look(handle)

    assert outcome == "unknown"
    assert seen == pb.Challenge()
    assert stored() == before
    assert portal.outcome(handle, code) == "accepted"


@pytest.mark.parametrize(
    "alter", [lambda _: "no handle", lambda h: f"{h.partition('.')[0]}.{ABSENT}", lambda h: h[:-1]]
)
def test_a_mistyped_handle_is_an_unknown_challenge(
    portal: Portal, inbox: InboxClient, stored: Snapshot, alter: Callable[[str], str]
) -> None:
    handle, code = _received(portal, inbox)
    before = stored()

    outcome = portal.outcome(alter(handle), code)

    assert outcome == "unknown"
    assert portal.look(alter(handle)) == pb.Challenge()
    assert stored() == before


@pytest.mark.parametrize("token", ["", "no-token-of-anybody-at-all"])
def test_without_a_token_that_we_know_nothing_is_answered(peaceful: Running, stored: Snapshot, token: str) -> None:
    before = stored()

    with peaceful.portal(token) as nobody:
        refusals = [
            refused(lambda: nobody.request(Citizen("lan"))),
            refused(lambda: nobody.verify(f"x.{ABSENT}", "123456")),
            refused(lambda: nobody.look(f"x.{ABSENT}")),
            refused(lambda: nobody.open_dossier(Citizen("lan"))),
        ]

    assert {refusal.status for refusal in refusals} == {grpc.StatusCode.UNAUTHENTICATED}
    assert {refusal.reason for refusal in refusals} == {"NOT_AUTHENTICATED"}
    assert all(set(refusal.words) == {"vi", "en"} for refusal in refusals)
    assert stored() == before


def _request(fields: Mapping[str, Any]) -> pb.RequestCodeRequest:
    right = {"idempotency_key": "k", "purpose": "confirm-email", "subject": "s", "email": "lan@example.vn"}
    return pb.RequestCodeRequest(**{**right, **fields})


def _received(portal: Portal, inbox: InboxClient) -> tuple[str, str]:
    """Return a handle and its code, with everything about them written down: nothing more is to change by itself."""
    citizen = Citizen("lan")
    handle = portal.request(citizen).handle
    code = code_in(mail_to(inbox, citizen.email))
    portal.wait_for_fate(handle, "HANDED_OVER")
    return handle, code
