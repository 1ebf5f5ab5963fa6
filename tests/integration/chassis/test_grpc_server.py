"""The gRPC server over real sockets: who gets in, what they are told, and how it ends."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any, TypeAlias

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_status import rpc_status
from prometheus_client import CollectorRegistry

from deploy.dev.ports import FreePort
from services.chassis.errors import FieldViolation, Kind, ServiceError, Words
from services.chassis.grpc_server import MAX_MESSAGE_OCTETS, Callers, caller, grpc_server, remaining
from services.chassis.telemetry import Health
from tests.conditions import eventually
from tests.integration.chassis.health_call import health_of

TOKEN = "made-up-token-of-the-portal-0001"
SERVICE = "kip.test.Post"
CALLERS = Callers({"portal": hashlib.sha256(TOKEN.encode()).digest()})
PATIENCE_S = 20
Call: TypeAlias = "grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]"
Look: TypeAlias = Callable[[], bool | Awaitable[bool]]


class Full(ServiceError):
    kind = Kind.EXHAUSTED
    reason = "FULL"


class Post(grpc.GenericRpcHandler):
    """A service whose messages are octets; what it does is in the name of the call."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.entered = 0
        self.left = 0

    def service(self, handler_call_details: Any) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return the handler of a method of ours."""
        service, _, method = str(handler_call_details.method).removeprefix("/").partition("/")
        answer = getattr(self, method.lower(), None) if service == SERVICE else None
        return grpc.unary_unary_rpc_method_handler(answer) if answer else None

    async def echo(self, request: bytes, _context: Any) -> bytes:
        """Say who asks, and what."""
        return caller().encode() + b": " + request

    async def size(self, request: bytes, _context: Any) -> bytes:
        """Say how much was asked."""
        return str(len(request)).encode()

    async def wait(self, _request: bytes, _context: Any) -> bytes:
        """Take until the gate opens."""
        self.entered += 1
        try:
            await self.gate.wait()
            return b"done"
        finally:
            self.left += 1

    async def left_to_wait(self, _request: bytes, context: Any) -> bytes:
        """Say how long there is."""
        return str(remaining(context).total_seconds()).encode()

    async def refuse(self, _request: bytes, _context: Any) -> bytes:
        """Refuse with everything."""
        raise Full(
            Words(vi="Đầy rồi.", en="Full."),
            retry_after=timedelta(seconds=7),
            violations=[FieldViolation("email", Words(vi="Sai.", en="Wrong."))],
            metadata={"tries": "3"},
        )

    async def fail(self, _request: bytes, _context: Any) -> bytes:
        """Have a bug whose text is nobody's business."""
        raise ZeroDivisionError("lan@example.vn")

    async def time_out(self, _request: bytes, _context: Any) -> bytes:
        """Have a bug of another kind: a time-out that nobody translated."""
        raise TimeoutError("redis://secret")


@dataclass
class Running:
    """A server, and how it is asked."""

    address: str
    post: Post
    health: Health
    registry: CollectorRegistry
    channel: grpc.aio.Channel = field(init=False)

    async def ask(
        self, method: str, request: bytes = b"x", *, token: str | None = TOKEN, timeout_s: float = PATIENCE_S
    ) -> bytes:
        """Call a method."""
        metadata = (("authorization", f"Bearer {token}"),) if token is not None else ()
        call: Call = self.channel.unary_unary(f"/{SERVICE}/{method}")
        return await call(request, timeout=timeout_s, metadata=metadata)

    async def refused(self, method: str, **options: Any) -> grpc.aio.AioRpcError:
        """Call a method that does not answer; return the error."""
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await self.ask(method, **options)
        return error.value

    def handled(self, method: str, code: str) -> float | None:
        """Return how many calls were counted."""
        labels = {"grpc_service": SERVICE, "grpc_method": method, "grpc_code": code}
        return self.registry.get_sample_value("grpc_server_handled_total", labels)


@asynccontextmanager
async def serving(*, drain_grace: timedelta = timedelta(seconds=PATIENCE_S)) -> AsyncIterator[Running]:
    """Serve the post, and yield it with a channel to it."""
    port = FreePort()
    running = Running(f"127.0.0.1:{port.number}", Post(), Health(), CollectorRegistry())

    def add(server: grpc.aio.Server) -> None:
        server.add_generic_rpc_handlers((running.post,))

    async with (
        grpc.aio.insecure_channel(running.address) as running.channel,
        grpc_server(
            running.address,
            [add],
            names=[SERVICE],
            domain="test.kip",
            callers=CALLERS,
            state=running.health,
            registry=running.registry,
            drain_grace=drain_grace,
        ),
    ):
        yield running


@pytest.fixture
async def server() -> AsyncIterator[Running]:
    async with serving() as running:
        yield running


async def test_a_caller_with_its_token_is_answered_and_known_by_name(server: Running) -> None:
    assert await server.ask("Echo", b"hello") == b"portal: hello"
    assert server.handled("Echo", "OK") == 1


@pytest.mark.parametrize("token", [None, "", "made-up-token-of-nobody-00000001"])
async def test_whoever_has_no_token_of_ours_is_told_how_to_send_one(server: Running, token: str | None) -> None:
    error = await server.refused("Echo", token=token)

    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "authorization: Bearer" in (error.details() or "")
    assert _detail(error, error_details_pb2.ErrorInfo).reason == "NOT_AUTHENTICATED"
    assert server.handled("Echo", "UNAUTHENTICATED") == 1


@pytest.mark.parametrize("token", [None, TOKEN])
async def test_a_method_that_does_not_exist_is_unimplemented(server: Running, token: str | None) -> None:
    error = await server.refused("Nothing", token=token)

    assert error.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_handler_that_takes_longer_than_the_caller_waits_is_ended(server: Running) -> None:
    error = await server.refused("Wait", timeout_s=0.5)

    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await eventually(lambda: server.post.left == server.post.entered, what="the handler was ended")


async def test_a_handler_knows_how_long_its_caller_waits(server: Running) -> None:
    assert 0 < float(await server.ask("Left_to_wait", timeout_s=5)) <= 5


async def test_a_caller_who_would_wait_for_ever_does_not_keep_a_handler_for_ever(server: Running) -> None:
    assert 0 < float(await server.ask("Left_to_wait", timeout_s=1_000)) <= 10


async def test_a_refusal_arrives_with_every_detail(server: Running) -> None:
    error = await server.refused("Refuse")

    assert (error.code(), error.details()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "Full.")
    info = _detail(error, error_details_pb2.ErrorInfo)
    assert (info.reason, info.domain, dict(info.metadata)) == ("FULL", "test.kip", {"tries": "3"})
    assert _detail(error, error_details_pb2.RetryInfo).retry_delay.seconds == 7
    assert _detail(error, error_details_pb2.LocalizedMessage).message == "Đầy rồi."
    assert _detail(error, error_details_pb2.BadRequest).field_violations[0].field == "email"
    assert server.handled("Refuse", "RESOURCE_EXHAUSTED") == 1


@pytest.mark.parametrize(("method", "internals"), [("Fail", "lan@example.vn"), ("Time_out", "redis")])
async def test_a_bug_of_a_handler_is_told_without_internals(server: Running, method: str, internals: str) -> None:
    error = await server.refused(method)

    assert error.code() is grpc.StatusCode.INTERNAL
    told = f"{error.details()} {error.trailing_metadata()} {error.debug_error_string()}"
    assert internals not in told
    assert "ZeroDivision" not in told
    assert server.handled(method, "INTERNAL") == 1
    assert await server.ask("Echo", b"next") == b"portal: next"


async def test_a_message_that_is_too_large_is_refused_before_it_is_read(server: Running) -> None:
    assert await server.ask("Size", b"x" * (MAX_MESSAGE_OCTETS - 100)) == str(MAX_MESSAGE_OCTETS - 100).encode()

    error = await server.refused("Size", request=b"x" * (MAX_MESSAGE_OCTETS + 1))

    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_health_may_be_asked_without_a_token(server: Running) -> None:
    assert await health_of(server.address, "readiness") == "NOT_SERVING"

    server.health.part("redis", ready=True)

    look: Look = partial(is_serving, server.address)
    await eventually(look, what="it is ready")
    assert await health_of(server.address, "") == "SERVING"


async def is_serving(address: str) -> bool:
    return await health_of(address, "readiness") == "SERVING"


@pytest.mark.parametrize(("token", "answer"), [(TOKEN, SERVICE), (None, "UNAUTHENTICATED")])
async def test_reflection_lists_our_services_to_our_callers_only(
    server: Running, token: str | None, answer: str
) -> None:
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    ask: Any = server.channel.stream_stream(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    question = reflection_pb2.ServerReflectionRequest(list_services="")

    try:
        listed = [
            service.name
            async for told in ask(iter([question]), timeout=PATIENCE_S, metadata=metadata)
            for service in told.list_services_response.service
        ]
    except grpc.aio.AioRpcError as error:
        listed = [error.code().name]

    assert answer in listed


async def test_a_call_in_hand_is_finished_and_a_new_one_is_refused_while_it_drains() -> None:
    async with serving() as running:
        in_hand = asyncio.create_task(running.ask("Wait"))
        await eventually(lambda: running.post.entered == 1, what="a call in hand")
        newcomer = asyncio.create_task(open_when_refused(running))

    assert await in_hand == b"done"
    await newcomer


async def open_when_refused(running: Running) -> None:
    """Let the call in hand end once a new one has been refused."""
    async with grpc.aio.insecure_channel(running.address) as newcomer:
        echo: Call = newcomer.unary_unary(f"/{SERVICE}/Echo")
        look: Look = partial(is_refused, echo)
        await eventually(look, within_s=PATIENCE_S, what="it takes no more")
    running.post.gate.set()


async def is_refused(echo: Call) -> bool:
    try:
        await echo(b"x", timeout=2, metadata=(("authorization", f"Bearer {TOKEN}"),))
    except grpc.aio.AioRpcError as error:
        return error.code() is grpc.StatusCode.UNAVAILABLE
    return False


async def test_a_call_that_outlives_the_grace_is_ended() -> None:
    async with serving(drain_grace=timedelta(seconds=0.2)) as running:
        channel = grpc.aio.insecure_channel(running.address)  # of its own: the other one is closed with the server
        wait: Call = channel.unary_unary(f"/{SERVICE}/Wait")
        in_hand = wait(b"x", timeout=PATIENCE_S, metadata=(("authorization", f"Bearer {TOKEN}"),))
        await eventually(lambda: running.post.entered == 1, what="a call in hand")

    with pytest.raises(grpc.aio.AioRpcError) as error:
        await in_hand
    assert error.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    await eventually(lambda: running.post.left == 1)
    await channel.close()


async def test_a_port_that_is_taken_is_named_with_a_question(server: Running) -> None:
    second = grpc_server(
        server.address,
        [],
        names=[],
        domain="test.kip",
        callers=CALLERS,
        state=Health(),
        registry=CollectorRegistry(),
        drain_grace=timedelta(seconds=1),
    )

    with pytest.raises(OSError, match=f"cannot listen on {server.address}: is the port in use"):
        await second.__aenter__()


def _detail(error: grpc.aio.AioRpcError, kind: type[Any]) -> Any:
    """Return the first detail of a kind."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type] # the stub knows only the blocking API
    assert status is not None
    for packed in status.details:
        if packed.Is(kind.DESCRIPTOR):
            detail = kind()
            packed.Unpack(detail)
            return detail
    raise LookupError(f"no {kind.__name__} in {status}")
