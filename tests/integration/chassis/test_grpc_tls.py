"""Callers by certificate, over real sockets: who gets in, who does not, and what changes while the server runs."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from prometheus_client import CollectorRegistry

from deploy.dev.ports import FreePort
from services.chassis.grpc_credentials import CallersFile, TlsFiles
from services.chassis.grpc_server import grpc_server
from services.chassis.telemetry import Health
from tests.conditions import eventually
from tests.integration.chassis.tiny_post import PATIENCE_S, SERVICE, TOKEN, Call, Post, Stream, detail_of
from tests.servers.authority import COMMON_NAME, Authority, Pair

PORTAL = "portal.kip.svc"
NAMED = "spiffe://kip/portal"


@dataclass(frozen=True, slots=True)
class Secured:
    """A server that wants certificates, and the files that it follows."""

    address: str
    folder: Path
    authority: Authority
    callers: CallersFile
    registry: CollectorRegistry
    post: Post

    def show(self, pair: Pair) -> None:
        """Give the server another certificate, the key first, as a mounted secret never does but a copy may."""
        (self.folder / "tls.key").write_bytes(pair.key)
        (self.folder / "tls.crt").write_bytes(pair.certificate)

    def trust(self, authority: Authority) -> None:
        """Let another authority sign callers."""
        (self.folder / "ca.crt").write_bytes(authority.certificate)

    def know(self, *entries: dict[str, object]) -> None:
        """Write the callers file."""
        (self.folder / "callers.json").write_text(json.dumps({"callers": entries}))

    def handled(self, method: str, code: str) -> float:
        """Return how many calls were counted."""
        labels = {"grpc_service": SERVICE, "grpc_method": method, "grpc_code": code}
        return self.registry.get_sample_value("grpc_server_handled_total", labels) or 0


def entry(name: str = "portal", *certificates: str, rpcs: str = f"{SERVICE}/*") -> dict[str, object]:
    return {"name": name, "certificates": list(certificates or (PORTAL,)), "rpcs": [rpcs]}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Secured]:
    """It serves the post, to `portal.kip.svc`."""
    authority, registry, post = Authority(), CollectorRegistry(), Post()
    files = TlsFiles(tmp_path / "tls.crt", tmp_path / "tls.key", tmp_path / "ca.crt")
    address = f"127.0.0.1:{FreePort().number}"
    (tmp_path / "callers.json").write_text(json.dumps({"callers": [entry()]}))
    secured = Secured(address, tmp_path, authority, CallersFile(tmp_path / "callers.json"), registry, post)
    secured.show(authority.signs("127.0.0.1"))
    secured.trust(authority)
    async with grpc_server(
        address,
        [lambda adding: adding.add_generic_rpc_handlers((post,))],
        names=[SERVICE],
        domain="test.kip",
        callers=secured.callers,
        state=Health(),
        registry=registry,
        drain_grace=timedelta(seconds=1),
        tls=files,
    ):
        yield secured


@asynccontextmanager
async def connected(server: Secured, pair: Pair | None, *, trusts: Authority | None = None) -> AsyncIterator[Call]:
    """Yield the method `Echo`, called with a certificate over a connection of its own."""
    credentials = grpc.ssl_channel_credentials(
        (trusts or server.authority).certificate, pair.key if pair else None, pair.certificate if pair else None
    )
    alone = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.secure_channel(server.address, credentials, options=alone) as channel:
        yield channel.unary_unary(f"/{SERVICE}/Echo")


async def refused(call: Call, **options: object) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call(b"x", timeout=PATIENCE_S, **options)  # type: ignore[arg-type] # metadata, if any
    return error.value


@pytest.mark.parametrize("names", [(PORTAL,), ("elsewhere", PORTAL)])
async def test_a_caller_is_known_by_a_name_of_its_certificate(server: Secured, names: tuple[str, ...]) -> None:
    async with connected(server, server.authority.signs(*names)) as echo:
        assert await echo(b"x", timeout=PATIENCE_S) == b"portal: x"


async def test_a_name_may_be_a_uri(server: Secured) -> None:
    server.know(entry("portal", NAMED))
    assert server.callers.look()

    async with connected(server, server.authority.signs(NAMED)) as echo:
        assert await echo(b"x", timeout=PATIENCE_S) == b"portal: x"


@pytest.mark.parametrize("names", [(), ("elsewhere.kip.svc",), ("*.kip.svc",), ("spiffe://kip/portal",), ("10.0.0.1",)])
async def test_a_certificate_of_nobody_we_know_is_unauthenticated_whatever_token_comes_with_it(
    server: Secured, names: tuple[str, ...]
) -> None:
    server.know(entry(), {"name": "laptop", "token_sha256": hashlib.sha256(TOKEN.encode()).hexdigest(), "rpcs": ["*"]})
    assert server.callers.look()

    async with connected(server, server.authority.signs(*names)) as echo:
        error = await refused(echo, metadata=(("authorization", f"Bearer {TOKEN}"),))

    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert detail_of(error, error_details_pb2.ErrorInfo).reason == "NOT_AUTHENTICATED"
    assert server.handled("Echo", "UNAUTHENTICATED") == 1


@pytest.mark.parametrize("names", [(), ("elsewhere.kip.svc",)])
async def test_the_common_name_of_a_certificate_is_no_name(server: Secured, names: tuple[str, ...]) -> None:
    server.know(entry("portal", COMMON_NAME))
    assert server.callers.look()

    async with connected(server, server.authority.signs(*names)) as echo:
        assert (await refused(echo)).code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_caller_that_may_not_is_told_so_and_counted_apart(server: Secured) -> None:
    server.know(entry(rpcs=f"{SERVICE}/Size"))
    assert server.callers.look()

    async with connected(server, server.authority.signs(PORTAL)) as echo:
        error = await refused(echo)

    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    info = detail_of(error, error_details_pb2.ErrorInfo)
    assert (info.reason, dict(info.metadata)) == ("NOT_ALLOWED", {"rpc": f"{SERVICE}/Echo"})
    assert (server.handled("Echo", "PERMISSION_DENIED"), server.handled("Echo", "UNAUTHENTICATED")) == (1, 0)


async def test_without_a_certificate_an_expired_one_or_one_of_another_authority_there_is_no_connection(
    server: Secured,
) -> None:
    expired = server.authority.signs(PORTAL, until=-timedelta(days=1))
    for pair in (None, expired, Authority().signs(PORTAL)):
        async with connected(server, pair) as echo:
            error = await refused(echo, wait_for_ready=False)
            assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert server.handled("Echo", "OK") == server.handled("Echo", "UNAUTHENTICATED") == 0


async def test_a_caller_that_trusts_another_authority_does_not_speak_to_us(server: Secured) -> None:
    async with connected(server, server.authority.signs(PORTAL), trusts=Authority()) as echo:
        assert (await refused(echo)).code() is grpc.StatusCode.UNAVAILABLE


async def test_a_certificate_that_is_renewed_is_shown_to_whoever_connects_next_and_no_call_is_cut(
    server: Secured,
) -> None:
    """Under load, on a connection that stays; the new certificate is signed by somebody whom only the new ones know."""
    renewed, caller = Authority(), server.authority.signs(PORTAL)
    stop, done = asyncio.Event(), 0

    async def load(echo: Call) -> None:
        nonlocal done
        while not stop.is_set():
            assert await echo(b"x", timeout=PATIENCE_S) == b"portal: x"
            done += 1

    async with connected(server, caller) as stays:
        working = [asyncio.create_task(load(stays)) for _ in range(4)]
        await eventually(lambda: done > 50, within_s=PATIENCE_S, what="load")
        server.show(renewed.signs("127.0.0.1"))
        async with connected(server, caller, trusts=renewed) as newcomer:
            assert await newcomer(b"x", timeout=PATIENCE_S) == b"portal: x"
        async with connected(server, caller) as of_yesterday:
            assert (await refused(of_yesterday)).code() is grpc.StatusCode.UNAVAILABLE
        before = done
        await eventually(lambda: done > before + 50, within_s=PATIENCE_S, what="load goes on")
        stop.set()
        await asyncio.gather(*working)


async def test_another_authority_of_callers_is_trusted_from_the_next_connection_on(server: Secured) -> None:
    other = Authority()
    server.trust(other)

    async with connected(server, other.signs(PORTAL)) as echo:
        assert await echo(b"x", timeout=PATIENCE_S) == b"portal: x"
    async with connected(server, server.authority.signs(PORTAL)) as of_yesterday:
        assert (await refused(of_yesterday)).code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("name", ["tls.crt", "tls.key", "ca.crt"])
async def test_a_file_that_is_away_for_a_moment_leaves_what_was_known(server: Secured, name: str) -> None:
    (server.folder / name).unlink()

    async with connected(server, server.authority.signs(PORTAL)) as echo:
        assert await echo(b"x", timeout=PATIENCE_S) == b"portal: x"


async def test_a_certificate_that_is_half_written_leaves_the_old_one(server: Secured) -> None:
    (server.folder / "tls.crt").write_bytes(b"half")

    async with connected(server, server.authority.signs(PORTAL)) as echo:
        assert await echo(b"x", timeout=PATIENCE_S) == b"portal: x"


async def test_a_caller_who_is_taken_out_is_refused_at_once_and_its_streams_end(server: Secured) -> None:
    server.know(entry(), entry("office", "office.kip.svc"))
    assert server.callers.look()
    pairs = [server.authority.signs(name) for name in (PORTAL, "office.kip.svc")]
    streams: list[tuple[grpc.aio.Channel, Stream]] = []
    async with connected(server, pairs[0]) as portal, connected(server, pairs[1]) as office:
        for pair in pairs:
            credentials = grpc.ssl_channel_credentials(server.authority.certificate, pair.key, pair.certificate)
            channel = grpc.aio.secure_channel(server.address, credentials)
            watch: Any = channel.unary_stream(f"/{SERVICE}/Watch")
            streams.append((channel, watch(b"x")))
        assert [await stream.read() for _, stream in streams] == [b"first", b"first"]

        server.know(entry("office", "office.kip.svc"))
        assert server.callers.look()

        assert (await refused(portal)).code() is grpc.StatusCode.UNAUTHENTICATED
        assert await office(b"x", timeout=PATIENCE_S) == b"office: x"
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await streams[0][1].read()
        assert ended.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert not streams[1][1].done()
    for channel, _ in streams:
        await channel.close()


async def test_the_callers_file_is_looked_at_while_the_server_runs(tmp_path: Path) -> None:
    file, looks = tmp_path / "callers.json", list[bool]()
    file.write_text(json.dumps({"callers": []}))
    known = CallersFile(file)
    following = asyncio.create_task(known.follow(looks.append, pause=timedelta(milliseconds=10)))

    file.write_text(json.dumps({"callers": [entry()]}))
    await eventually(lambda: looks == [True], what="the new caller")
    file.write_text("not json")
    await eventually(lambda: looks == [True, False], what="the wrong file")

    following.cancel()
    assert known.callers.find("portal") is not None
