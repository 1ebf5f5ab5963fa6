"""The two things under load, as their callers see them: otp by gRPC, django-otp's views by HTTP with keep-alive.

Both do the same work by the same two words: `request` makes a code for somebody who has none, `verify` types the right
one. Where the right code comes from without reading mail: for otp it is derived, as the mailer does, with the code key
ring of the laptop; the Django view answers it. Neither costs the measured process more than its mail would.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import aiohttp
import grpc
from kip.otp.v1 import otp_service_pb2, otp_service_pb2_grpc

from services.chassis.keyring import Key, digits, read_keyring

PURPOSE = "confirm-email"
CONTEXT = "Confirm the address of your account"
ANSWER_WITHIN_S = 30


class Unexpected(Exception):
    """An answer that the load does not allow for: what is measured then is not what the report says."""


@dataclass(frozen=True, slots=True)
class Made:
    """A code that was asked for: what names it, and what to type."""

    name: str
    code: str


class Side(Protocol):
    """One of the two."""

    async def request(self, number: int) -> Made:
        """Ask for a code for person `number`, who asks for the first time."""

    async def verify(self, made: Made) -> None:
        """Type the right code."""

    async def guess(self, made: Made) -> None:
        """Type a wrong one."""

    async def close(self) -> None:
        """Hang up."""


class OtpSide:
    """Calls otp.

    Args:
        address: HOST:PORT.
        token: of a caller.
        code_keys: the key ring file that codes are derived with.
    """

    def __init__(self, address: str, token: str, code_keys: Path) -> None:
        self._channel = grpc.aio.insecure_channel(address)
        self._stub: otp_service_pb2_grpc.OtpServiceAsyncStub = otp_service_pb2_grpc.OtpServiceStub(self._channel)
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._key = read_keyring(code_keys).minting(datetime.now(UTC))

    async def request(self, number: int) -> Made:
        """Implements `Side`."""
        asked = otp_service_pb2.RequestCodeRequest(
            idempotency_key=f"bench-{number}",
            purpose=PURPOSE,
            subject=f"citizen-{number}",
            email=f"citizen-{number}@town-{number % 997}.example.vn",  # no domain is asked more than the others
            locale="vi",
            context=CONTEXT,
            client=otp_service_pb2.Client(ip=f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"),
        )
        answer = await self._stub.RequestCode(asked, metadata=self._metadata, timeout=ANSWER_WITHIN_S)
        if answer.joined or not answer.handle:
            raise Unexpected("a person who asked for the first time joined a letter")
        return Made(answer.handle, code_of(self._key, answer.challenge.challenge_id, 1))

    async def verify(self, made: Made) -> None:
        """Implements `Side`."""
        await self._type(made.name, made.code, "accepted")

    async def guess(self, made: Made) -> None:
        """Implements `Side`; the code is of neither of the first two generations."""
        challenge_id = made.name.partition(".")[0]
        right = {code_of(self._key, challenge_id, number) for number in (1, 2)}
        wrong = next(code for code in ("000000", "111111", "222222") if code not in right)
        await self._type(made.name, wrong, "wrong")

    async def _type(self, handle: str, code: str, expected: str) -> None:
        asked = otp_service_pb2.VerifyCodeRequest(handle=handle, code=code)
        answer = await self._stub.VerifyCode(asked, metadata=self._metadata, timeout=ANSWER_WITHIN_S)
        if (outcome := answer.WhichOneof("outcome")) != expected:
            raise Unexpected(f"VerifyCode answered {outcome}, not {expected}")

    async def close(self) -> None:
        """Implements `Side`."""
        await self._channel.close()


class DjangoSide:
    """Calls the views of `django_side`.

    Args:
        address: HOST:PORT.
        token: the bearer token that the views compare.
        connections: kept open at most.
    """

    def __init__(self, address: str, token: str, connections: int) -> None:
        self._http = aiohttp.ClientSession(
            f"http://{address}",
            headers={"Authorization": f"Bearer {token}"},
            connector=aiohttp.TCPConnector(limit=connections),
            timeout=aiohttp.ClientTimeout(total=ANSWER_WITHIN_S),
        )

    async def request(self, number: int) -> Made:
        """Implements `Side`."""
        answer = await self._post("/request", {"user": number})
        if answer["message"] != "sent by email":
            raise Unexpected(f"the first view answered: {answer['message']}")
        return Made(str(number), str(answer["token"]))

    async def verify(self, made: Made) -> None:
        """Implements `Side`."""
        if not (await self._post("/verify", {"user": int(made.name), "token": made.code}))["verified"]:
            raise Unexpected("the second view did not accept the right token")

    async def guess(self, made: Made) -> None:
        """Implements `Side`; django-otp compares the first wrong token only, then it makes people wait."""
        wrong = "000000" if made.code != "000000" else "111111"
        if (await self._post("/verify", {"user": int(made.name), "token": wrong}))["verified"]:
            raise Unexpected("the second view accepted a wrong token")

    async def _post(self, path: str, body: dict[str, object]) -> dict[str, object]:
        async with self._http.post(path, json=body) as response:
            if response.status != 200:  # OK
                raise Unexpected(f"{path} answered {response.status}")
            answer: dict[str, object] = await response.json()
            return answer

    async def close(self) -> None:
        """Implements `Side`."""
        await self._http.close()


def code_of(key: Key, challenge_id: str, generation: int) -> str:
    """Return the code of a generation, as the mailer makes it (docs/adr/0002)."""
    context = hashlib.sha256(CONTEXT.encode()).digest()
    return digits(key, "kip-code-v1", PURPOSE, challenge_id, str(generation), context, count=6)
