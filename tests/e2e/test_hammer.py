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
from typing import Any

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
from tests.e2e.stacks import SHORT_PAUSES, Running

SECONDS = float(os.environ.get("HAMMER_SECONDS", "5"))
CLIENTS = int(os.environ.get("HAMMER_CLIENTS", "40"))
PAUSE_S = 0.5  # of a client, between two blows: what is under test is a limit and not how fast a laptop is
NEIGHBOURS_PAUSE_S = 1.0  # they come one after another, as long as it lasts
BLOW_WITHIN_S = 30.0  # a blow that a busy machine answers late is a blow all the same
ADDRESS = yaml.safe_load((CHECKOUT / "services" / "otp" / "policy.yaml").read_text())["limits"]["address"]
AT_ONCE = ADDRESS["at_once"]
ONE_EACH = timedelta(minutes=int(ADDRESS["one_each"].removesuffix(" min")))


class Hammer:
    """Clients who want letters to one mailbox, each in a way of its own, from elsewhere each time.

    One asks as somebody else by another spelling; one clicks on for more letters of a challenge of its own; one presses
    the button of one page with a new key each time, as all of its kind do; one repeats the same call for ever.

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
        self._ways = (self._as_somebody_else, self._click, self._press_again, self._repeat)
        self._blows = count()
        self._handles: dict[int, str] = {}
        self.seen: Counter[str] = Counter()
        """Answers, by what they were."""
        self.challenges: set[str] = set()
        """Those that somebody was let into: each had its first letter."""
        self.enough = asyncio.Event()
        """Set by whoever has seen what is to be seen."""

    async def swing(self, seconds: float) -> None:
        """Hammer with every client, so long and until it is enough.

        The first few do so before the others: else nobody would have a handle to click on.
        """
        deadline = time.monotonic() + seconds
        for number in range(2 * len(self._ways)):
            await self._blow(number)
        await asyncio.gather(*(self._client(number, deadline) for number in range(CLIENTS)))
        for channel in self._channels:
            await channel.close()

    async def _client(self, number: int, deadline: float) -> None:
        while time.monotonic() < deadline or not self.enough.is_set():
            await self._blow(number)
            await asyncio.sleep(PAUSE_S)

    async def _blow(self, number: int) -> None:
        way, is_click = self._ways[number % len(self._ways)], number in self._handles
        stub = self._stubs[number // len(self._ways) % len(self._stubs)]
        try:
            self.seen[await way(stub, number)] += 1
        except grpc.aio.AioRpcError as error:
            self.seen[f"{'click ' * is_click}{error.code().name}"] += 1

    async def _as_somebody_else(self, stub: pb_grpc.OtpServiceAsyncStub, _: int) -> str:
        return await self._request(stub, next(self._blows), {})

    async def _press_again(self, stub: pb_grpc.OtpServiceAsyncStub, _: int) -> str:
        same = {"subject": self._victim.subject, "email": self._victim.email, "purpose": SHORT_PAUSES}
        return await self._request(stub, next(self._blows), same)

    async def _repeat(self, stub: pb_grpc.OtpServiceAsyncStub, number: int) -> str:
        same = {"idempotency_key": f"{self._victim.mark}-{number}", "subject": f"{self._victim.subject}-{number}"}
        return await self._request(stub, number, same)

    async def _click(self, stub: pb_grpc.OtpServiceAsyncStub, number: int) -> str:
        if number not in self._handles:
            return await self._request(stub, next(self._blows), {"purpose": SHORT_PAUSES}, opens=number)
        request = pb.ResendCodeRequest(handle=self._handles[number], idempotency_key=uuid.uuid4().hex)
        answer = await stub.ResendCode(request, metadata=self._metadata, timeout=BLOW_WITHIN_S)
        return pb.ResendOutcome.Name(answer.outcome).removeprefix("RESEND_OUTCOME_")

    async def _request(
        self,
        stub: pb_grpc.OtpServiceAsyncStub,
        blow: int,
        fields: dict[str, str],
        *,
        opens: int | None = None,
    ) -> str:
        local, _, domain = self._victim.email.partition("@")
        spelling = (local, local.upper(), f"{local}+{blow}", f"{local}+a+{blow}")[blow % 4]
        wish: dict[str, Any] = {
            "idempotency_key": uuid.uuid4().hex,
            "purpose": ("confirm-email", "login", "approval")[blow % 3],
            "subject": f"nobody-{uuid.uuid4().hex}",
            "email": f"{spelling}@{domain}",
        }
        request = pb.RequestCodeRequest(**wish | fields, client=pb.Client(ip=f"2001:db8:{blow % 65536:x}::1"))
        answer = await stub.RequestCode(request, metadata=self._metadata, timeout=BLOW_WITHIN_S)
        self.challenges.add(answer.challenge.challenge_id)
        if opens is not None:
            self._handles[opens] = answer.handle
        return "joined" if answer.joined else "let in"


@pytest.fixture(scope="module")
def replica(peaceful: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OtpReplica]:
    """A second otp."""
    with OtpReplica(peaceful.stack, tmp_path_factory.mktemp("hammered")) as second:
        yield second


def _neighbour(portal: Portal, inbox: InboxClient) -> tuple[str, float]:
    """Be an honest citizen: ask, read the mail, type the code; return what came of it, and after how many seconds."""
    citizen, began = Citizen("lan"), time.monotonic()
    asked = portal.request(citizen, client=pb.Client(ip="203.0.113.7"))
    outcome = portal.outcome(asked.handle, code_in(mail_to(inbox, citizen.email)))
    return outcome, time.monotonic() - began


@pytest.mark.timeout(120 + 2 * SECONDS)
async def test_a_hammered_mailbox_gets_what_the_policy_allows_and_neighbours_notice_nothing(
    peaceful: Running, replica: OtpReplica, portal: Portal, inbox: InboxClient
) -> None:
    victim, started = Citizen("victim"), time.monotonic()
    hammer = Hammer([peaceful.stack.address("otp.grpc"), replica.addresses()["grpc"]], peaceful.tokens[1], victim)
    inbox.set_behaviour({"stage": "rcpt", "action": "reply", "to": victim.email, "code": 450})  # it waits: one can join

    swinging = asyncio.create_task(hammer.swing(SECONDS))
    await eventually(lambda: hammer.seen["joined"], within_s=30, what="somebody joins the letter that waits")
    inbox.set_behaviour()
    refusals = ("RESOURCE_EXHAUSTED", "click RESOURCE_EXHAUSTED")
    await eventually(lambda: all(hammer.seen[each] for each in refusals), within_s=60, what="the limit is reached")
    hammer.enough.set()
    neighbours = [await asyncio.to_thread(_neighbour, portal, inbox)]
    while not swinging.done():
        await asyncio.wait([swinging], timeout=NEIGHBOURS_PAUSE_S)
        neighbours.append(await asyncio.to_thread(_neighbour, portal, inbox))
    await swinging

    most = AT_ONCE + timedelta(seconds=time.monotonic() - started) // ONE_EACH
    letters = len(hammer.challenges) + hammer.seen["QUEUED"]
    slowest_s = max(took_s for _, took_s in neighbours)
    print(  # noqa: T201
        f"hammer: {CLIENTS} clients, {SECONDS:.0f} s: {dict(hammer.seen)}; {letters} of at most {most} mails; "
        f"{len(neighbours)} neighbours, the slowest had typed their code after {slowest_s:.1f} s"
    )
    assert {outcome for outcome, _ in neighbours} == {"accepted"}
    assert hammer.seen["RESOURCE_EXHAUSTED"] > most
    assert hammer.seen["let in"] > len(hammer.challenges), "repeats are let in, and are the same letter"
    assert AT_ONCE <= letters <= most
    await eventually(lambda: _mails_to(inbox, victim) >= letters, within_s=60, what="every letter that was promised")
    assert _mails_to(inbox, victim) == letters
    refusal = await asyncio.to_thread(refused, lambda: portal.request(victim))
    assert (refusal.reason, "1900 0000" in refusal.words["en"]) == ("QUOTA_EXCEEDED", True)
    assert 0 < (refusal.retry_after_s or 0) <= ONE_EACH.total_seconds()


def _mails_to(inbox: InboxClient, victim: Citizen) -> int:
    """Count the mails to any spelling of the mailbox."""
    local = victim.email.partition("@")[0]
    return sum(local in to.casefold() for mail in inbox.messages(limit=500) for to in mail.rcpt_to)
