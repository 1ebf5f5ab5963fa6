"""Two replicas of otp: a challenge belongs to none of them, and a stream goes on where another broke off."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
from kip.otp.v1 import otp_service_pb2 as pb

from deploy.dev.inbox.client import InboxClient
from tests.e2e.mailbox import code_in, mail_to
from tests.e2e.portal import Citizen, Portal
from tests.e2e.replica import OtpReplica
from tests.e2e.stacks import Running


@pytest.fixture(scope="module")
def replica(peaceful: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OtpReplica]:
    """A second otp."""
    with OtpReplica(peaceful.stack, tmp_path_factory.mktemp("replica")) as second:
        yield second


@pytest.fixture
def beside(peaceful: Running, replica: OtpReplica) -> Iterator[Portal]:
    """The same caller, at the second otp."""
    with Portal(replica.addresses()["grpc"], peaceful.stack.address("dossier.grpc"), peaceful.tokens[0]) as caller:
        yield caller


def test_what_one_replica_began_the_other_ends_and_watchers_of_both_see_it(
    portal: Portal, beside: Portal, inbox: InboxClient
) -> None:
    citizen = Citizen("lan")
    asked = portal.request(citizen)
    here, there = portal.watch(asked.handle), beside.watch(asked.handle)
    first = next(here), next(there)

    code = code_in(mail_to(inbox, citizen.email))
    portal.wait_for_fate(asked.handle, "HANDED_OVER")  # else that event may come after the code, with one more version
    assert beside.outcome(asked.handle, code) == "accepted"

    assert [each.challenge_id for each in first] == [asked.challenge.challenge_id] * 2
    ends = [[*here][-1], [*there][-1]]
    assert [each.state for each in ends] == [pb.CHALLENGE_STATE_VERIFIED] * 2
    assert ends[0].version == ends[1].version


def test_a_request_on_the_other_replica_joins_and_its_repeat_is_the_same(
    portal: Portal, beside: Portal, inbox: InboxClient
) -> None:
    citizen = Citizen("lan")
    inbox.set_behaviour({"stage": "rcpt", "action": "reply", "to": citizen.email, "code": 450})
    first = portal.request(citizen, key="page-one" + citizen.mark)

    again = beside.request(citizen, key="page-one" + citizen.mark)
    joined = beside.request(citizen, key="page-two" + citizen.mark)

    assert again.handle == first.handle
    assert not again.joined
    assert joined.joined
    assert joined.handle != first.handle
    inbox.set_behaviour()
    mail_to(inbox, citizen.email)
    assert len(inbox.messages(to=citizen.email)) == 1


def test_a_stream_whose_replica_is_killed_is_resumed_on_the_other(
    peaceful: Running, portal: Portal, inbox: InboxClient, tmp_path_factory: pytest.TempPathFactory
) -> None:
    citizen = Citizen("lan")
    asked = portal.request(citizen)
    code = code_in(mail_to(inbox, citizen.email))
    seen = []
    with (
        OtpReplica(peaceful.stack, tmp_path_factory.mktemp("killed")) as doomed,
        Portal(doomed.addresses()["grpc"], peaceful.stack.address("dossier.grpc"), peaceful.tokens[0]) as caller,
    ):
        news = caller.watch(asked.handle)
        seen.append(next(news))
        doomed.kill()
        with pytest.raises(grpc.RpcError):
            seen += news

    resumed = portal.watch(asked.handle, after=seen[-1].version)
    assert portal.outcome(asked.handle, code) == "accepted"

    rest = list(resumed)
    assert rest[-1].state == pb.CHALLENGE_STATE_VERIFIED
    assert all(each.version > seen[-1].version for each in rest)
