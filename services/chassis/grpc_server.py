"""A gRPC server as every service here has it: callers, deadlines, rich errors, metrics, health, reflection, drain.

*Callers.* Deny by default: a call needs `authorization: Bearer <token>`, and the token's SHA-256 stands in the callers
file. Tokens are random, so an unsalted hash keeps them; comparison is constant-time over all callers. Only health may
be asked without one.

*Errors.* A `ServiceError` becomes a `google.rpc.Status` with `ErrorInfo` (reason, domain), `LocalizedMessage` vi and
en, and `RetryInfo` or `BadRequest` where they apply. What is lost here is the Python type and the cause; they are
logged. Anything that is no `ServiceError` is a bug: logged once with its traceback, counted, and answered `INTERNAL`
without internals.

*Deadlines.* A caller's deadline is honoured; one that sets none, or a longer one, gets `DEADLINE`.

*Probes.* The kubelet speaks neither TLS nor tokens, so health is also served on a plain port of its own
(`probe_server`), under the names `startup`, `readiness` and `liveness`.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import structlog
from google.protobuf import duration_pb2
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status
from opentelemetry import propagate, trace
from prometheus_client import CollectorRegistry, Counter, Histogram

from services.chassis.errors import Kind, ServiceError, Words
from services.chassis.telemetry import Health

DEADLINE = timedelta(seconds=10)
MAX_MESSAGE_OCTETS = 64 * 1024  # the largest request is a few kilobytes; refused before it is parsed
ONE_LISTENER = ("grpc.so_reuseport", 0)  # a second process on the port is a mistake to be told, not load to be shared
HEALTH_PREFIX = "/grpc.health.v1.Health/"
TOKEN_PATTERN = re.compile(r"Bearer ([A-Za-z0-9._~+/=-]{16,512})")

CODES: dict[Kind, tuple[int, grpc.StatusCode]] = {
    Kind.INVALID: (code_pb2.INVALID_ARGUMENT, grpc.StatusCode.INVALID_ARGUMENT),
    Kind.UNAUTHENTICATED: (code_pb2.UNAUTHENTICATED, grpc.StatusCode.UNAUTHENTICATED),
    Kind.FORBIDDEN: (code_pb2.PERMISSION_DENIED, grpc.StatusCode.PERMISSION_DENIED),
    Kind.NOT_FOUND: (code_pb2.NOT_FOUND, grpc.StatusCode.NOT_FOUND),
    Kind.CONFLICT: (code_pb2.ABORTED, grpc.StatusCode.ABORTED),
    Kind.PRECONDITION: (code_pb2.FAILED_PRECONDITION, grpc.StatusCode.FAILED_PRECONDITION),
    Kind.EXHAUSTED: (code_pb2.RESOURCE_EXHAUSTED, grpc.StatusCode.RESOURCE_EXHAUSTED),
    Kind.UNAVAILABLE: (code_pb2.UNAVAILABLE, grpc.StatusCode.UNAVAILABLE),
}

_caller: ContextVar[str] = ContextVar("caller")


class NotAuthenticated(ServiceError):
    """No credentials, or none that we know."""

    kind = Kind.UNAUTHENTICATED
    reason = "NOT_AUTHENTICATED"


@dataclass(frozen=True, slots=True)
class Callers:
    """Who may call: name → SHA-256 of their token."""

    token_sha256: dict[str, bytes]

    def named(self, authorization: str) -> str | None:
        """Return the caller who holds this token, or none; takes the same time for any token."""
        match = TOKEN_PATTERN.fullmatch(authorization)
        offered = hashlib.sha256((match.group(1) if match else "").encode()).digest()
        found = None
        for name, expected in self.token_sha256.items():
            if hmac.compare_digest(offered, expected):
                found = name
        return found if match else None


def read_callers(path: Path) -> Callers:
    """Read the callers file: JSON `{"callers": [{"name", "token_sha256" (hex)}]}`.

    Raises:
        ValueError: what is wrong with it.
    """
    try:
        entries = json.loads(path.read_bytes())["callers"]
        callers = {str(entry["name"]): bytes.fromhex(entry["token_sha256"]) for entry in entries}
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a callers file: {type(error).__name__}") from error
    if len(callers) != len(entries):
        raise ValueError(f"{path} names a caller twice")
    if any(len(digest) != hashlib.sha256().digest_size for digest in callers.values()):
        raise ValueError(f"{path}: a token_sha256 is not 64 hexadecimal digits")
    return Callers(callers)


def caller() -> str:
    """Return the name of whoever makes the current call."""
    return _caller.get()


def remaining(context: grpc.aio.ServicerContext[Any, Any]) -> timedelta:
    """Return how long the caller still waits; at most `DEADLINE`."""
    left = context.time_remaining()
    return DEADLINE if left is None else min(DEADLINE, timedelta(seconds=max(left, 0)))


class _Gate(grpc.aio.ServerInterceptor):
    """Everything that happens around a call, once."""

    def __init__(self, domain: str, callers: Callers, registry: CollectorRegistry) -> None:
        self._domain = domain
        self._callers = callers
        labels = ["grpc_service", "grpc_method"]
        self._handled = Counter(
            "grpc_server_handled", "Calls answered, by method and status.", [*labels, "grpc_code"], registry=registry
        )
        self._seconds = Histogram(
            "grpc_server_handling_seconds",
            "Time from the first octet to the answer. Buckets from one Redis round trip to the default deadline.",
            labels,
            buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
            registry=registry,
        )

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Let the call through to its handler, or to one that refuses it."""
        method = str(handler_call_details.method)
        handler = await continuation(handler_call_details)
        if method.startswith(HEALTH_PREFIX) or handler is None:
            return handler
        metadata = {str(name): value for name, value in handler_call_details.invocation_metadata or ()}
        name = self._callers.named(str(metadata.get("authorization", "")))
        if name is None:
            return grpc.unary_unary_rpc_method_handler(self._around(method, _refuse, "", metadata))
        if handler.unary_unary is None:
            return handler  # reflection: a stream without rules of ours
        return grpc.unary_unary_rpc_method_handler(
            self._around(method, handler.unary_unary, name, metadata),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _around(
        self, method: str, answer: Callable[[Any, Any], Awaitable[Any]], name: str, metadata: dict[str, Any]
    ) -> Callable[[Any, grpc.aio.ServicerContext[Any, Any]], Awaitable[Any]]:
        service, _, rpc = method.removeprefix("/").partition("/")
        tracer = trace.get_tracer(__name__)

        async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            started = time.perf_counter()
            code = "OK"
            _caller.set(name)
            with tracer.start_as_current_span(method, context=propagate.extract(metadata), kind=trace.SpanKind.SERVER):
                deadline = asyncio.timeout(remaining(context).total_seconds())
                try:
                    async with deadline:
                        return await answer(request, context)
                except ServiceError as refusal:
                    code = CODES[refusal.kind][1].name
                    await context.abort_with_status(rpc_status.to_status(status_of(refusal, self._domain)))
                except asyncio.CancelledError:
                    code = "CANCELLED"
                    raise
                except Exception:  # noqa: BLE001 - the outermost frame of a call
                    if deadline.expired():
                        code = "DEADLINE_EXCEEDED"
                        await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "not finished within your deadline")
                    code = "INTERNAL"
                    structlog.get_logger().exception("call_failed", method=method)
                    await context.abort(grpc.StatusCode.INTERNAL, "a fault of ours; it has been logged")
                finally:
                    self._handled.labels(service, rpc, code).inc()
                    self._seconds.labels(service, rpc).observe(time.perf_counter() - started)

        return call


async def _refuse(_request: object, _context: object) -> None:
    raise NotAuthenticated(
        Words(
            vi="Thiếu hoặc sai thông tin xác thực của hệ thống gọi.",
            en="Send metadata `authorization: Bearer <token>` with a token of the callers file.",
        )
    )


def status_of(refusal: ServiceError, domain: str) -> status_pb2.Status:
    """Return the rich status of a refusal."""
    details: list[Any] = [
        error_details_pb2.ErrorInfo(reason=refusal.reason, domain=domain, metadata=refusal.metadata),
        error_details_pb2.LocalizedMessage(locale="vi", message=refusal.words.vi),
        error_details_pb2.LocalizedMessage(locale="en", message=refusal.words.en),
    ]
    if refusal.retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromTimedelta(refusal.retry_after)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if refusal.violations:
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(
                        field=violation.field,
                        description=f"{violation.words.vi} / {violation.words.en}",
                        localized_message=error_details_pb2.LocalizedMessage(locale="vi", message=violation.words.vi),
                    )
                    for violation in refusal.violations
                ]
            )
        )
    status = status_pb2.Status(code=CODES[refusal.kind][0], message=refusal.words.en)
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    return status


@asynccontextmanager
async def probe_server(address: str, state: Health) -> AsyncIterator[None]:
    """Serve plain gRPC health for the kubelet: `startup`, `readiness`, `liveness`, and `` as readiness."""
    server = grpc.aio.server(options=[ONE_LISTENER], maximum_concurrent_rpcs=16)
    servicer = await _health_servicer(state)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    _bind(server, address, None)
    await server.start()
    try:
        yield
    finally:
        await server.stop(grace=0.1)


async def _health_servicer(state: Health) -> health.aio.HealthServicer:
    servicer = health.aio.HealthServicer()
    loop = asyncio.get_running_loop()
    started = False
    telling: set[asyncio.Task[None]] = set()
    serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING

    async def tell() -> None:
        nonlocal started
        started = started or state.ready
        for name, good in (("startup", started), ("readiness", state.ready), ("", state.ready), ("liveness", True)):
            await servicer.set(name, serving if good else not_serving)

    def changed() -> None:
        task = loop.create_task(tell())
        telling.add(task)
        task.add_done_callback(telling.discard)

    state.on_change.append(changed)
    await tell()
    return servicer


def _bind(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None) -> None:
    try:
        bound = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}: is the port in use?") from error
    if bound == 0:
        raise OSError(f"cannot listen on {address}: is the port in use?")


def read_tls(certificate: Path | None, key: Path | None) -> grpc.ServerCredentials | None:
    """Return server credentials, or none when no files are named (a laptop).

    Raises:
        ValueError: only one of the files is named, or one cannot be read.
    """
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise ValueError(
            f"{certificate or key} is named alone; a certificate and its key go together: name both or none"
        )
    try:
        return grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
    except OSError as error:
        raise ValueError(f"{error.filename} cannot be read: {error.strerror}") from error


@asynccontextmanager
async def grpc_server(
    address: str,
    add_servicers: Sequence[Callable[[grpc.aio.Server], None]],
    *,
    names: Sequence[str],
    domain: str,
    callers: Callers,
    state: Health,
    registry: CollectorRegistry,
    drain_grace: timedelta,
    credentials: grpc.ServerCredentials | None = None,
) -> AsyncIterator[grpc.aio.Server]:
    """Serve until the context ends, then refuse new calls and let those in hand finish within `drain_grace`.

    Args:
        address: HOST:PORT.
        add_servicers: what adds each API to the server.
        names: full names of the APIs, for reflection.
        domain: `ErrorInfo.domain`, such as `otp.kip`.
        callers: who may call.
        state: read by the health service.
        registry: gets `grpc_server_handled_total` and `grpc_server_handling_seconds`.
        drain_grace: how long calls in hand may take to end.
        credentials: TLS; none on a laptop.
    """
    server = grpc.aio.server(
        interceptors=[_Gate(domain, callers, registry)],
        options=[
            ("grpc.max_receive_message_length", MAX_MESSAGE_OCTETS),
            ONE_LISTENER,
        ],
        maximum_concurrent_rpcs=1_000,
    )
    for add in add_servicers:
        add(server)
    health_pb2_grpc.add_HealthServicer_to_server(await _health_servicer(state), server)
    reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
    _bind(server, address, credentials)
    await server.start()
    try:
        yield server
    finally:
        await server.stop(grace=drain_grace.total_seconds())
