"""A service over real sockets whose messages are octets; what it does is in the name of the call."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeAlias

import grpc
import pytest
from grpc_status import rpc_status
from prometheus_client import CollectorRegistry

from deploy.dev.ports import FreePort
from services.chassis.errors import FieldViolation, Kind, ServiceError, Words
from services.chassis.grpc_callers import Caller, Callers
from services.chassis.grpc_server import caller, demand_scope, grpc_server, remaining
from services.chassis.telemetry import Health
from tests.fakes.chassis import StandingCallers

TOKEN = "made-up-token-of-the-portal-0001"
SERVICE = "kip.test.Post"
OPERATOR_TOKEN = "made-up-token-of-the-operator-02"
RPCS = frozenset({f"{SERVICE}/*"})
PORTAL = Caller("portal", hashlib.sha256(TOKEN.encode()).digest(), rpcs=RPCS)
OPERATOR = Caller("operator", hashlib.sha256(OPERATOR_TOKEN.encode()).digest(), rpcs=RPCS, scopes=frozenset({"unlock"}))
CALLERS = Callers((PORTAL, OPERATOR))
PATIENCE_S = 20
STUFFING = b"x" * 16_000_000
Call: TypeAlias = "grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]"
Stream: TypeAlias = "grpc.aio.UnaryStreamCall[bytes, bytes]"


class Full(ServiceError):
    kind = Kind.EXHAUSTED
    reason = "FULL"


class Post(grpc.GenericRpcHandler):
    """What is served: each method below, by its name. `entered` and `left` count `wait` and every stream."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.entered = 0
        self.left = 0

    def service(self, handler_call_details: Any) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return the handler of a method of ours."""
        service, _, method = str(handler_call_details.method).removeprefix("/").partition("/")
        answer = getattr(self, method.lower(), None) if service == SERVICE else None
        if answer is None:
            return None
        streams = inspect.isasyncgenfunction(answer)
        kind = grpc.unary_stream_rpc_method_handler if streams else grpc.unary_unary_rpc_method_handler
        return kind(answer)

    async def echo(self, request: bytes, _context: Any) -> bytes:
        """Say who asks, and what."""
        return caller().encode() + b": " + request

    async def size(self, request: bytes, _context: Any) -> bytes:
        """Say how much was asked."""
        return str(len(request)).encode()

    async def wait(self, _request: bytes, _context: Any) -> bytes:
        """Take until the gate opens."""
        with self.counted():
            await self.gate.wait()
            return b"done"

    async def left_to_wait(self, _request: bytes, context: Any) -> bytes:
        """Say how long there is."""
        return str(remaining(context).total_seconds()).encode()

    async def unlock(self, _request: bytes, _context: Any) -> bytes:
        """Do what only an operator may."""
        demand_scope("unlock")
        return b"unlocked"

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

    async def count(self, request: bytes, _context: Any) -> AsyncIterator[bytes]:
        """Stream who asks and as many numbers as were asked for."""
        yield caller().encode()
        for number in range(int(request)):
            yield str(number).encode()

    async def watch(self, _request: bytes, _context: Any) -> AsyncIterator[bytes]:
        """Stream one message, and nothing more for as long as anybody watches."""
        with self.counted():
            yield b"first"
            await asyncio.Event().wait()

    async def flood(self, _request: bytes, _context: Any) -> AsyncIterator[bytes]:
        """Stream without end, as fast as it is read."""
        with self.counted():
            while True:
                yield b"x" * 60_000

    async def stuff(self, _request: bytes, _context: Any) -> AsyncIterator[bytes]:
        """Stream more than fits between two sockets, which is about 4 MB: stays until somebody reads."""
        with self.counted():
            yield STUFFING

    async def tidy(self, _request: bytes, _context: Any) -> AsyncIterator[bytes]:
        """Stream what nobody reads, and clean up until the gate opens."""
        try:
            with self.counted():
                yield STUFFING
        finally:
            await self.gate.wait()

    async def cling(self, _request: bytes, _context: Any) -> AsyncIterator[bytes]:
        """Stream one message, and take the order to end for a normal end."""
        with self.counted(), suppress(asyncio.CancelledError):
            yield b"first"
            await asyncio.Event().wait()

    async def refuse_late(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        """Stream one message, then refuse with everything."""
        yield b"first"
        await self.refuse(request, context)

    async def fail_late(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        """Stream one message, then have a bug."""
        yield b"first"
        await self.fail(request, context)

    async def time_out_late(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        """Stream one message, then have a bug of another kind."""
        yield b"first"
        await self.time_out(request, context)

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count who comes and who goes."""
        self.entered += 1
        try:
            yield
        finally:
            self.left += 1


@dataclass
class Running:
    """A server, and how it is asked."""

    address: str
    post: Post
    health: Health
    registry: CollectorRegistry
    callers: StandingCallers = field(default_factory=lambda: StandingCallers(CALLERS))
    channel: grpc.aio.Channel = field(init=False)

    async def ask(
        self, method: str, request: bytes = b"x", *, token: str | None = TOKEN, timeout_s: float = PATIENCE_S
    ) -> bytes:
        """Call a method."""
        call: Call = self.channel.unary_unary(f"/{SERVICE}/{method}")
        return await call(request, timeout=timeout_s, metadata=_authorization(token))

    def stream(
        self, method: str, request: bytes = b"x", *, token: str | None = TOKEN, timeout_s: float | None = None
    ) -> Stream:
        """Open a stream."""
        call: Any = self.channel.unary_stream(f"/{SERVICE}/{method}")
        stream: Stream = call(request, timeout=timeout_s, metadata=_authorization(token))
        return stream

    async def watching(self, count: int, method: str = "Watch", **options: Any) -> list[Stream]:
        """Open streams, and wait until each has brought its first message."""
        streams = [self.stream(method, **options) for _ in range(count)]
        assert await asyncio.gather(*(stream.read() for stream in streams)) == [b"first"] * count
        return streams

    async def refused(self, method: str, **options: Any) -> grpc.aio.AioRpcError:
        """Call a method that does not answer; return the error."""
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await self.ask(method, **options)
        return error.value

    def handled(self, method: str, code: str) -> float | None:
        """Return how many calls were counted."""
        labels = {"grpc_service": SERVICE, "grpc_method": method, "grpc_code": code}
        return self.registry.get_sample_value("grpc_server_handled_total", labels)

    def open_now(self, method: str) -> float | None:
        """Return how many streams the metrics show."""
        labels = {"grpc_service": SERVICE, "grpc_method": method}
        return self.registry.get_sample_value("grpc_server_streams", labels)

    def measured(self, method: str) -> float | None:
        """Return how many calls the histogram holds."""
        labels = {"grpc_service": SERVICE, "grpc_method": method}
        return self.registry.get_sample_value("grpc_server_handling_seconds_count", labels)


def _authorization(token: str | None) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),) if token is not None else ()


@asynccontextmanager
async def serving(*, drain_grace: timedelta = timedelta(seconds=PATIENCE_S), **options: Any) -> AsyncIterator[Running]:
    """Serve the post, and yield it with a channel to it; answers that are on their way at the end still arrive."""
    port = FreePort()
    running = Running(f"127.0.0.1:{port.number}", Post(), Health(), CollectorRegistry())

    def add(server: grpc.aio.Server) -> None:
        server.add_generic_rpc_handlers((running.post,))

    running.channel = grpc.aio.insecure_channel(running.address)
    try:
        async with grpc_server(
            running.address,
            [add],
            names=[SERVICE],
            domain="test.kip",
            callers=running.callers,
            state=running.health,
            registry=running.registry,
            drain_grace=drain_grace,
            **options,
        ):
            yield running
    finally:
        await running.channel.close(PATIENCE_S)  # without a grace it cancels a call whose answer was not read yet


async def ended(stream: Stream) -> grpc.aio.AioRpcError:
    """Read a stream until it fails; return the error."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await _read_all(stream)
    return error.value


async def _read_all(stream: Stream) -> None:
    while await stream.read() is not grpc.aio.EOF:
        pass


def detail_of(error: grpc.aio.AioRpcError, kind: type[Any]) -> Any:
    """Return the first detail of a kind."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type] # the stub knows only the blocking API
    assert status is not None
    for packed in status.details:
        if packed.Is(kind.DESCRIPTOR):
            detail = kind()
            packed.Unpack(detail)
            return detail
    raise LookupError(f"no {kind.__name__} in {status}")
