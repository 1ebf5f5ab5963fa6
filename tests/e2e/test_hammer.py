"""The hammer: many who make two otp mail one stranger, by every way there is, get no more through than the policy says.

`make hammer` does so with 200 clients for a minute; here it is a handful of seconds of the same.
"""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from itertools import count

import grpc
import pytest
import yaml
from kip.otp.v1 import otp_service_pb2 as pb
from kip.otp.v1 import otp_service_pb2_grpc as pb_grpc

from deploy.dev.inbox.client import InboxClient
from deploy.dev.python_process import CHECKOUT
from tests.conditions import eventually
from tests.e2e.mailbox import code_in, mail_to
from tests.e2e.portal import Citizen, Portal, refused
from tests.e2e.replica import OtpReplica
from tests.e2e.stacks import Running

SECONDS = float(os.environ.get("HAMMER_SECONDS", "5"))
CLIENTS = int(os.environ.get("HAMMER_CLIENTS", "40"))
PAUSE_S = 0.5  # of a client, between two blows: what is under test is a limit and not how fast a laptop is
NEIGHBOURS = 4
BLOW_WITHIN_S = 30.0  # a blow that a busy machine answers late is a blow all the same
ADDRESS = yaml.safe_load((CHECKOUT / "services" / "otp" / "policy.yaml").read_text())["limits"]["address"]
AT_ONCE = ADDRESS["at_once"]
ONE_EACH = timedelta(minutes=int(ADDRESS["one_each"].removesuffix(" min")))


class Hammer:
    """Clients who ask for letters to one mailbox: each time somebody else, from elsewhere, by another spelling.

    Args:
        addresses: of the otp processes.
        token: of a caller.
        victim: whose mailbox it is.
    """

    def __init__(self, addresses: list[str], token: str, victim: Citizen) -> None:
        self._channels = [grpc.aio.insecure_channel(address) for address in addresses]
        self._stubs: list[pb_grpc.OtpServiceAsyncStub] = [pb_grpc.OtpServiceStub(to) for to in self._channels]
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._victim = victim
        self._blows = count()
        self.seen: Counter[str] = Counter()
        """Answers, by what they were."""

    async def swing(self, seconds: float) -> None:
        """Hammer with every client at once."""
        deadline = time.monotonic() + seconds
        await asyncio.gather(*(self._client(number, deadline) for number in range(CLIENTS)))
        for channel in self._channels:
            await channel.close()

    async def _client(self, number: int, deadline: float) -> None:
        stub = self._stubs[number % len(self._stubs)]
        handle = ""
        while time.monotonic() < deadline:
            try:
                if handle and number % 2:
                    self.seen[f"click {await self._click(stub, handle)}"] += 1
                else:
                    answer = await self._request(stub, join=bool(handle) and number % 4 == 2)
                    handle = answer.handle
                    self.seen["joined" if answer.joined else "queued"] += 1
            except grpc.aio.AioRpcError as error:
                self.seen[error.code().name] += 1
            await asyncio.sleep(PAUSE_S)

    async def _request(self, stub: pb_grpc.OtpServiceAsyncStub, *, join: bool) -> pb.RequestCodeResponse:
        blow = next(self._blows)
        local, _, domain = self._victim.email.partition("@")
        spelling = (local, local.upper(), f"{local}+{blow}", f"{local}+a+{blow}")[blow % 4]
        who = self._victim.subject if join else f"nobody-{uuid.uuid4().hex}"
        request = pb.RequestCodeRequest(
            idempotency_key=uuid.uuid4().hex,
            purpose=("confirm-email", "login", "approval")[blow % 3],
            subject=who,
            email=f"{spelling}@{domain}",
            client=pb.Client(ip=f"2001:db8:{blow % 65536:x}::1"),
        )
        return await stub.RequestCode(request, metadata=self._metadata, timeout=BLOW_WITHIN_S)

    async def _click(self, stub: pb_grpc.OtpServiceAsyncStub, handle: str) -> str:
        request = pb.ResendCodeRequest(handle=handle, idempotency_key=uuid.uuid4().hex)
        answer = await stub.ResendCode(request, metadata=self._metadata, timeout=BLOW_WITHIN_S)
        return pb.ResendOutcome.Name(answer.outcome)


@pytest.fixture(scope="module")
def replica(peaceful: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OtpReplica]:
    """A second otp."""
    with OtpReplica(peaceful.stack, tmp_path_factory.mktemp("hammered")) as second:
        yield second


def _neighbour(portal: Portal, inbox: InboxClient) -> str:
    """Be an honest citizen: ask, read the mail, type the code; return what came of it."""
    citizen = Citizen("lan")
    asked = portal.request(citizen, client=pb.Client(ip="203.0.113.7"))
    return portal.outcome(asked.handle, code_in(mail_to(inbox, citizen.email)))


@pytest.mark.timeout(120 + 2 * SECONDS)
async def test_a_hammered_mailbox_gets_what_the_policy_allows_and_neighbours_notice_nothing(
    peaceful: Running, replica: OtpReplica, portal: Portal, inbox: InboxClient
) -> None:
    victim, started = Citizen("victim"), time.monotonic()
    hammer = Hammer([peaceful.stack.address("otp.grpc"), replica.addresses()["grpc"]], peaceful.tokens[1], victim)

    swinging = asyncio.create_task(hammer.swing(SECONDS))
    await eventually(lambda: hammer.seen["RESOURCE_EXHAUSTED"], within_s=30, what="the limit is reached")
    neighbours = [await asyncio.to_thread(_neighbour, portal, inbox) for _ in range(NEIGHBOURS)]
    await swinging

    most = AT_ONCE + timedelta(seconds=time.monotonic() - started) // ONE_EACH
    made = hammer.seen["queued"] + hammer.seen["click RESEND_OUTCOME_QUEUED"]
    print(f"hammer: {CLIENTS} clients, {SECONDS:.0f} s: {dict(hammer.seen)}; at most {most} mails")  # noqa: T201
    assert neighbours == ["accepted"] * NEIGHBOURS
    assert hammer.seen["RESOURCE_EXHAUSTED"] > most
    assert AT_ONCE <= made <= most
    await eventually(lambda: _mails_to(inbox, victim) >= made, within_s=60, what="every letter that was promised")
    assert _mails_to(inbox, victim) == made
    refusal = await asyncio.to_thread(refused, lambda: portal.request(victim))
    assert (refusal.reason, "1900 0000" in refusal.words["en"]) == ("QUOTA_EXCEEDED", True)
    assert 0 < (refusal.retry_after_s or 0) <= ONE_EACH.total_seconds()


def _mails_to(inbox: InboxClient, victim: Citizen) -> int:
    """Count the mails to any spelling of the mailbox."""
    local = victim.email.partition("@")[0]
    return sum(local in to.casefold() for mail in inbox.messages(limit=500) for to in mail.rcpt_to)
