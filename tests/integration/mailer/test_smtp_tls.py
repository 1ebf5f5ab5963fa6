"""STARTTLS and authentication as production demands them, before a real server with a certificate of its own."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

from services.mailer.outbound.smtp_gateway import Relay, relay_tls
from services.mailer.ports import TryAgain
from services.mailer.rules.outcome import HandedOver
from tests.integration.inbox.running_inbox import RunningInbox
from tests.integration.mailer.smtp_wire import Steps, letter, smtp_wire
from tests.servers.certificates import HOST, certificate

PASSWORD = "made-up-secret"


class Mailroom:
    """Keeps what it is given, and how."""

    def __init__(self) -> None:
        self.kept: list[bytes] = []
        self.encrypted: list[bool] = []
        self.logins: list[tuple[bytes, bytes]] = []

    async def handle_DATA(self, _server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        self.kept.append(envelope.content)
        self.encrypted.append(session.ssl is not None)
        return "250 2.0.0 Ok: queued as 4bXyZ1"

    def authenticate(self, _server: Any, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.logins.append((data.login, data.password))
        return AuthResult(success=data.password == PASSWORD.encode(), handled=False)


@asynccontextmanager
async def listening(room: Mailroom, file: Path) -> AsyncIterator[str]:
    """Yield the address of a server that takes mail only after STARTTLS and a login."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(file)
    conversations: list[SMTP] = []

    def converse() -> SMTP:
        conversations.append(
            SMTP(
                room,
                tls_context=context,
                require_starttls=True,
                auth_required=True,
                authenticator=room.authenticate,
                loop=asyncio.get_running_loop(),
            )
        )
        return conversations[-1]

    server = await asyncio.get_running_loop().create_server(converse, str(HOST), 0)
    try:
        yield f"{HOST}:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for conversation in conversations:
            if conversation.transport is not None:
                conversation.transport.close()
        await server.wait_closed()


async def test_a_letter_goes_out_encrypted_to_a_relay_whose_certificate_holds(
    inbox: RunningInbox, tmp_path: Path
) -> None:
    room, file = Mailroom(), certificate(tmp_path)
    async with listening(room, file) as address:
        relay = Relay("relay-1", address, relay_tls(file), "mailer", PASSWORD)

        async with smtp_wire(inbox, relay=relay) as smtp:
            answers = [await smtp.gateway.send(letter(number), Steps()) for number in range(2)]

    assert [isinstance(answer, HandedOver) and answer.relay_id for answer in answers] == ["4bXyZ1"] * 2
    assert room.kept == [letter(number).octets for number in range(2)]
    assert room.encrypted == [True, True]
    assert room.logins == [(b"mailer", PASSWORD.encode())], "once for both: the connection was used again"


@pytest.mark.parametrize(
    "case", ["another authority", "another host", "expired", "the system's authorities", "wrong password"]
)
async def test_a_relay_that_is_not_the_one_we_trust_gets_nothing(
    inbox: RunningInbox, tmp_path: Path, case: str
) -> None:
    room, good = Mailroom(), certificate(tmp_path)
    served = {
        "another host": certificate(tmp_path, IPv4Address("127.0.0.2")),
        "expired": certificate(tmp_path, until=-timedelta(days=1)),
    }.get(case, good)
    trusted = {"another authority": certificate(tmp_path), "the system's authorities": None}.get(case, served)
    password = "wrong-secret" if case == "wrong password" else PASSWORD
    async with listening(room, served) as address:
        relay = Relay("relay-1", address, relay_tls(trusted), "mailer", password)

        async with smtp_wire(inbox, relay=relay) as smtp:
            with pytest.raises(TryAgain, match="cannot be reached") as error:
                await smtp.gateway.send(letter(), Steps())

            assert smtp.count("mailer_smtp_attempts_total", result="connect_error") == 1

    assert password not in str(error.value)
    assert room.kept == []
    assert set(room.logins) == ({(b"mailer", password.encode())} if case == "wrong password" else set())
