"""People who come as they like, whatever becomes of those before them: they ask, press again, and give up in the end.

An open loop: nobody waits for anybody, so an answer that is slow or a refusal takes no load away. Who is refused comes
back when told to, as long as they have patience; who was let in and sees no mail presses again, with a new key; who
finds a mail types its code at once. Patience is for one wait: with trying to get in, and then, from the answer that
says when the mail should come, with waiting for it.

Where nothing is to join, each press is that of a stranger with the same mailbox: another subject. So every press has a
letter made, as at an issuer that knows no joins, and otp is the one that is shipped: it has no switch for that, since
whoever turned it would take a promise from citizens.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from dataclasses import dataclass, field
from datetime import timedelta

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from kip.otp.v1 import otp_service_pb2 as pb
from kip.otp.v1 import otp_service_pb2_grpc as pb_grpc

from deploy.dev.inbox.client import InboxClient, Summary
from tests.conditions import eventually
from tests.e2e.mailbox import code_in, letter_of

PRESSES = 2
PRESS_AGAIN = 0.7
ANSWER_WITHIN_S = 30.0
LOOK_S = 0.5
MOST = 500  # mails that the inbox lists at once


@dataclass(slots=True)
class Person:
    """One of them; instants are Unix time."""

    came_at: float
    mark: str = field(default_factory=lambda: uuid.uuid4().hex[:16])
    let_in_at: float | None = None
    refusals: list[float] = field(default_factory=list)
    """How long each refusal told them to stay away, seconds."""
    joins: int = 0
    others: int = 0
    """Presses that were told to wait, because the mail is there."""
    handles: dict[str, str] = field(default_factory=dict)
    """By challenge id."""
    mails: list[float] = field(default_factory=list)
    """When each was in the mailbox."""
    is_through: bool = False
    """Whether the code of their first mail was right as soon as it was there, and they were."""

    @property
    def mail_at(self) -> float | None:
        """Return when the first mail was there."""
        return self.mails[0] if self.mails else None

    @property
    def email(self) -> str:
        """Return their address."""
        return f"{self.mark}@town-{self.mark[:2]}.example.vn"


class People:
    """Those who come to one otp.

    Args:
        address: HOST:PORT.
        token: of the platform service that they use.
        inbox: their mailboxes.
        patience_s: how long they try to get in, from the first press, and then wait for a code.
        press_after_s: after which they press again.
        joins: False: each press is one that nothing waits for yet.
        comes_back: False: who is refused goes for good.
    """

    def __init__(
        self,
        address: str,
        token: str,
        inbox: InboxClient,
        *,
        patience_s: float,
        press_after_s: float,
        joins: bool = True,
        comes_back: bool = True,
    ) -> None:
        self._channel = grpc.aio.insecure_channel(address)
        self._stub: pb_grpc.OtpServiceAsyncStub = pb_grpc.OtpServiceStub(self._channel)
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._inbox = inbox
        self._patience_s = patience_s
        self._press_after_s = press_after_s
        self._joins = joins
        self._comes_back = comes_back
        self._draw = random.Random(7)  # the same crowd each time
        self._left = False
        self._seen = 0
        self._by_email: dict[str, Person] = {}
        self.all: list[Person] = []

    async def come(self, per_second: float, seconds: float) -> None:
        """Let so many come a second, and return when the last of them has pressed for the last time."""
        begun = time.monotonic()
        async with asyncio.TaskGroup() as living:
            for number in range(int(per_second * seconds)):
                await asyncio.sleep(max(0.0, begun + number / per_second - time.monotonic()))
                person = Person(time.time())
                self.all.append(person)
                self._by_email[person.email] = person
                living.create_task(self._live(person, presses=self._draw.random() < PRESS_AGAIN))

    async def read(self) -> None:
        """Look into all mailboxes, and let everybody type what came, until after `leave` all is typed."""
        async with asyncio.TaskGroup() as typing:
            is_last = False
            while not is_last:
                is_last = self._left
                for mail in await self._new_mails():
                    (to,) = mail.rcpt_to
                    person = self._by_email[to]
                    person.mails.append(mail.received_at.timestamp())
                    if len(person.mails) == 1:
                        typing.create_task(self._type(person, mail))
                await asyncio.sleep(LOOK_S)

    def leave(self) -> None:
        """Let nobody look into a mailbox any more, but for what is there by now."""
        self._left = True

    async def close(self) -> None:
        """Let go of otp."""
        await self._channel.close()

    async def _new_mails(self) -> list[Summary]:
        mails = await asyncio.to_thread(self._inbox.messages, after=self._seen, limit=MOST)
        assert len(mails) < MOST, "more mails than the inbox lists at once: some would go unseen"
        self._seen = max([self._seen, *(mail.id for mail in mails)])
        return mails[::-1]

    async def _live(self, person: Person, *, presses: bool) -> None:
        key = uuid.uuid4().hex
        while not await self._ask(person, key):
            wait_s = person.refusals[-1]
            if not self._comes_back or time.time() + wait_s > person.came_at + self._patience_s:
                return
            await asyncio.sleep(wait_s)
        for _ in range(PRESSES if presses else 0):
            await asyncio.sleep(self._press_after_s)
            if person.mails:
                return
            await self._ask(person, uuid.uuid4().hex)

    async def _ask(self, person: Person, key: str) -> bool:
        """Press once; return whether they are in."""
        subject = person.mark if self._joins else f"{person.mark}-{key}"
        asked = pb.RequestCodeRequest(idempotency_key=key, purpose="confirm-email", subject=subject, email=person.email)
        try:
            answer = await self._stub.RequestCode(asked, metadata=self._metadata, timeout=ANSWER_WITHIN_S)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise
            if person.let_in_at is not None:
                person.others += 1
            else:
                person.refusals.append(_retry_after_s(error))
            return False
        person.handles[answer.challenge.challenge_id] = answer.handle
        person.joins += answer.joined
        person.let_in_at = person.let_in_at or time.time()
        return True

    async def _type(self, person: Person, mail: Summary) -> None:
        challenge_id = letter_of(mail).rpartition(".")[0]
        await eventually(lambda: challenge_id in person.handles, within_s=ANSWER_WITHIN_S, what="an answer")
        if time.time() > (person.let_in_at or 0) + self._patience_s:
            return  # they have gone
        code = code_in(await asyncio.to_thread(self._inbox.mail, mail.id))
        typed = pb.VerifyCodeRequest(handle=person.handles[challenge_id], code=code, idempotency_key=uuid.uuid4().hex)
        answer = await self._stub.VerifyCode(typed, metadata=self._metadata, timeout=ANSWER_WITHIN_S)
        person.is_through = answer.WhichOneof("outcome") == "accepted"


def _retry_after_s(error: grpc.aio.AioRpcError) -> float:
    status = rpc_status.from_call(error)  # type: ignore[arg-type] # the stub knows only the blocking API
    assert status is not None
    for packed in status.details:
        if packed.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            delay: timedelta = error_details_pb2.RetryInfo.FromString(packed.value).retry_delay.ToTimedelta()
            return delay.total_seconds()
    raise AssertionError("a refusal that does not say when to come back")
