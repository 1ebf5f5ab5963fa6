"""People who come as they like, whatever becomes of those before them: they ask, press again, and give up in the end.

An open loop: nobody waits for anybody, so an answer that is slow or a refusal takes no load away. Who is refused comes
back when told to, as long as they have patience; who was let in and sees no mail presses again, with a new key.
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

PRESSES = 2
PRESS_AGAIN = 0.7
ANSWER_WITHIN_S = 30.0


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

    @property
    def email(self) -> str:
        """Return their address."""
        return f"{self.mark}@town-{self.mark[:2]}.example.vn"


class People:
    """Those who come to one otp.

    Args:
        address: HOST:PORT.
        token: of the platform service that they use.
        patience_s: how long they wait for a code, from the first press.
        press_after_s: after which they press again.
    """

    def __init__(self, address: str, token: str, *, patience_s: float, press_after_s: float) -> None:
        self._channel = grpc.aio.insecure_channel(address)
        self._stub: pb_grpc.OtpServiceAsyncStub = pb_grpc.OtpServiceStub(self._channel)
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._patience_s = patience_s
        self._press_after_s = press_after_s
        self._draw = random.Random(7)  # the same crowd each time
        self.all: list[Person] = []

    async def come(self, per_second: float, seconds: float) -> None:
        """Let so many come a second, and return when the last of them has pressed for the last time."""
        begun = time.monotonic()
        async with asyncio.TaskGroup() as living:
            for number in range(int(per_second * seconds)):
                await asyncio.sleep(max(0.0, begun + number / per_second - time.monotonic()))
                self.all.append(person := Person(time.time()))
                living.create_task(self._live(person, presses=self._draw.random() < PRESS_AGAIN))
        await self._channel.close()

    async def _live(self, person: Person, *, presses: bool) -> None:
        key = uuid.uuid4().hex
        while not await self._ask(person, key):
            wait_s = person.refusals[-1]
            if time.time() + wait_s > person.came_at + self._patience_s:
                return
            await asyncio.sleep(wait_s)
        for _ in range(PRESSES if presses else 0):
            await asyncio.sleep(self._press_after_s)
            await self._ask(person, uuid.uuid4().hex)

    async def _ask(self, person: Person, key: str) -> bool:
        """Press once; return whether they are in."""
        asked = pb.RequestCodeRequest(
            idempotency_key=key, purpose="confirm-email", subject=person.mark, email=person.email
        )
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
        person.joins += answer.joined
        person.let_in_at = person.let_in_at or time.time()
        return True


def _retry_after_s(error: grpc.aio.AioRpcError) -> float:
    status = rpc_status.from_call(error)  # type: ignore[arg-type] # the stub knows only the blocking API
    assert status is not None
    for packed in status.details:
        if packed.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            delay: timedelta = error_details_pb2.RetryInfo.FromString(packed.value).retry_delay.ToTimedelta()
            return delay.total_seconds()
    raise AssertionError("a refusal that does not say when to come back")
