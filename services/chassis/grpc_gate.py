"""Everything that happens around a call, once: who asks, until when, what is counted, how a failure is told.

*Errors.* A `ServiceError` becomes its rich status (`grpc_refusals`). Anything else that a handler raises is a bug:
logged once with its traceback, counted, and answered `INTERNAL` without internals.

*Deadlines.* A caller's deadline is honoured. A unary call that sets none, or a longer one, gets `DEADLINE`; a stream
then lasts as long as `grpc_streams` lets it.

*Counting.* A call is counted before its end is told, so whoever got the answer finds it in the metrics. The histogram
is for unary calls: a stream lasts as long as somebody watches, which says nothing about us.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeAlias

import grpc
import structlog
from google.rpc import code_pb2, status_pb2
from grpc_status import rpc_status
from opentelemetry import propagate, trace
from prometheus_client import CollectorRegistry, Gauge, Histogram
from prometheus_client import Counter as CallCounter

from services.chassis.errors import ServiceError
from services.chassis.grpc_callers import Caller, Callers, NotAllowed, NotAuthenticated, caller, calling
from services.chassis.grpc_refusals import status_of
from services.chassis.grpc_streams import OpenStreams, too_many_calls
from services.chassis.telemetry import exemplar

DEADLINE = timedelta(seconds=10)
CANCELLED_WITHIN_S = 1.0  # from a failed write to the cancellation of its task: milliseconds, on a busy machine more
HEALTH_PREFIX = "/grpc.health.v1.Health/"

Context = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


def remaining(context: Context) -> timedelta:
    """Return how long the caller of a unary call still waits, to 1 % (as precise as the wire); at most `DEADLINE`."""
    left = context.time_remaining()
    return DEADLINE if left is None else min(DEADLINE, timedelta(seconds=max(left, 0)))


@dataclass(frozen=True, slots=True)
class CallMetrics:
    """What a server tells about its calls."""

    handled: CallCounter
    seconds: Histogram
    streams: Gauge
    callers_files: CallCounter

    @classmethod
    def on(cls, registry: CollectorRegistry) -> CallMetrics:
        """Register the metrics; one per process."""
        labels = ["grpc_service", "grpc_method"]
        return cls(
            handled=CallCounter(
                "grpc_server_handled",
                "Calls answered and streams ended, by method and status.",
                [*labels, "grpc_code"],
                registry=registry,
            ),
            seconds=Histogram(
                "grpc_server_handling_seconds",
                "Time from the first octet to the answer. Buckets from one Redis round trip to the default deadline.",
                labels,
                buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
                registry=registry,
            ),
            streams=Gauge("grpc_server_streams", "Streams that are open now, by method.", labels, registry=registry),
            callers_files=_callers_files(registry),
        )

    def callers_looked(self, taken: bool) -> None:  # noqa: FBT001 - of a callback
        """Count a callers file that has changed."""
        self.callers_files.labels("taken" if taken else "refused").inc()


def _callers_files(registry: CollectorRegistry) -> CallCounter:
    counter = CallCounter(
        "grpc_callers_files", "Callers files that changed: taken, or refused.", ["result"], registry=registry
    )
    for result in ("taken", "refused"):
        counter.labels(result)
    return counter


class _Late(Exception):
    """The caller's deadline has passed."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """One call, as far as the gate knows it before its handler does."""

    method: str
    metadata: Mapping[str, Any]


NOBODY = Caller("")


class Gate(grpc.aio.ServerInterceptor):
    """Stands before every handler of a server."""

    def __init__(
        self,
        domain: str,
        callers: Callable[[], Callers],
        metrics: CallMetrics,
        streams: OpenStreams,
        *,
        calls_per_caller: int,
    ) -> None:
        """Let in whom `callers` returns at the time of the call, each for so many unary calls at once."""
        self._calls_per_caller = calls_per_caller
        self._domain = domain
        self._callers = callers
        self._metrics = metrics
        self._streams = streams
        self._tracer = trace.get_tracer(__name__)
        self._in_hand: Counter[str] = Counter()

    @property
    def in_hand(self) -> int:
        """How many unary calls are being answered."""
        return self._in_hand.total()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Let the call through to its handler, or to one that refuses it."""
        method = str(handler_call_details.method)
        handler = await continuation(handler_call_details)
        if method.startswith(HEALTH_PREFIX) or handler is None:
            return handler
        metadata = {str(name): value for name, value in handler_call_details.invocation_metadata or ()}
        asked = _Asked(method, metadata)
        codec = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(self._answering(asked, handler.unary_unary), **codec)
        if handler.unary_stream is not None:
            return grpc.unary_stream_rpc_method_handler(self._streaming(asked, handler.unary_stream), **codec)
        both_ways: Any = handler.stream_stream
        return grpc.stream_stream_rpc_method_handler(self._reflecting(asked, both_ways), **codec)

    def _answering(
        self, asked: _Asked, handler: Callable[[Any, Any], Awaitable[Any]]
    ) -> Callable[[Any, Context], Awaitable[Any]]:
        """Return a unary handler with everything around it."""
        names = _names(asked.method)

        async def answer(request: Any, context: Context) -> Any:
            started = time.perf_counter()
            self._in_hand[who := caller()] += 1
            try:
                if self._in_hand[who] > self._calls_per_caller:
                    raise too_many_calls(self._calls_per_caller)
                deadline = asyncio.timeout(remaining(context).total_seconds())
                async with deadline:
                    return await handler(request, context)
            except TimeoutError as error:
                raise (_Late if deadline.expired() else error) from error
            finally:
                self._in_hand[who] -= 1
                self._metrics.seconds.labels(*names).observe(time.perf_counter() - started, exemplar())

        async def call(request: Any, context: Context) -> Any:
            return await self._told(asked, context, lambda: answer(request, context))

        return call

    def _streaming(
        self, asked: _Asked, handler: Callable[[Any, Any], Any]
    ) -> Callable[[Any, Context], Awaitable[None]]:
        """Return a handler that streams what an asynchronous generator yields, with everything around it."""
        open_now = self._metrics.streams.labels(*_names(asked.method))

        async def stream(request: Any, context: Context) -> None:
            given_s = context.time_remaining()
            try:
                async with self._streams.place(caller(), given_s) as end:
                    with open_now.track_inprogress():
                        # closed here and now: a generator that is left to the collector holds what it holds
                        async with aclosing(handler(request, context)) as messages:
                            await _write_all(context, messages)
            except TimeoutError:
                if not end.expired():
                    raise
            if end.expired():
                self._streams.refuse_if_going_away()
                if self._callers().find(caller()) is None:
                    raise NotAuthenticated
                if _is_late(context, given_s):
                    raise _Late

        async def call(request: Any, context: Context) -> None:
            await self._told(asked, context, lambda: stream(request, context))

        return call

    def _reflecting(
        self, asked: _Asked, handler: Callable[[Any, Any], AsyncIterator[Any]]
    ) -> Callable[[Any, Context], AsyncIterator[Any]]:
        """Return a handler that streams both ways, as reflection does: to any caller of ours, without other rules."""

        async def call(requests: Any, context: Context) -> AsyncIterator[Any]:
            if self._who(asked, context) is None:
                failed = self._status_of(NotAuthenticated(), asked, NOBODY)
                await context.abort_with_status(rpc_status.to_status(failed))
            async for message in handler(requests, context):
                yield message

        return call

    def _who(self, asked: _Asked, context: Context) -> Caller | None:
        """Return the caller: by the certificate it showed, or by its token where nobody shows certificates."""
        peer = context.auth_context()
        if "x509_pem_cert" in peer:
            names = {name.decode(errors="replace") for name in peer.get("x509_subject_alternative_name", ())}
            return self._callers().with_certificate(names)
        return self._callers().with_token(str(asked.metadata.get("authorization", "")))

    async def _told(self, asked: _Asked, context: Context, answer: Callable[[], Awaitable[Any]]) -> Any:
        """Return the answer, or abort the call with what its end means to the caller; count it before that."""
        given_s = context.time_remaining()
        who = self._who(asked, context)
        with self._known(asked, who or NOBODY):
            failed: status_pb2.Status | None = None
            code = grpc.StatusCode.OK
            try:
                _admit(asked, who)
                return await answer()
            except asyncio.CancelledError:
                late = _is_late(context, given_s)
                code = grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED
                raise
            except Exception as error:  # noqa: BLE001 - the outermost frame of a call
                failed = self._status_of(error, asked, who or NOBODY)
                code = rpc_status.to_status(failed).code
            finally:
                self._metrics.handled.labels(*_names(asked.method), code.name).inc()
            return await context.abort_with_status(rpc_status.to_status(failed))

    @contextmanager
    def _known(self, asked: _Asked, who: Caller) -> Iterator[None]:
        parent = propagate.extract(asked.metadata)
        with (
            calling(who),
            self._tracer.start_as_current_span(asked.method, context=parent, kind=trace.SpanKind.SERVER),
        ):
            yield

    def _status_of(self, error: Exception, asked: _Asked, who: Caller) -> status_pb2.Status:
        match error:
            case ServiceError():
                return status_of(error, self._domain, who.scopes)
            case _Late():
                return status_pb2.Status(code=code_pb2.DEADLINE_EXCEEDED, message="not finished within your deadline")
            case _:
                structlog.get_logger().error("call_failed", method=asked.method, exc_info=error)
                return status_pb2.Status(code=code_pb2.INTERNAL, message="a fault of ours; it has been logged")


def _names(method: str) -> tuple[str, str]:
    service, _, rpc = method.removeprefix("/").partition("/")
    return service, rpc


def _is_late(context: Context, given_s: float | None) -> bool:
    """Tell whether the caller's time is up; that caller may say so before our clock does.

    On the wire a deadline is rounded up by as much as 1 % (grpc-timeout has few digits), and then it travels.
    """
    left_s = context.time_remaining()
    return left_s is not None and given_s is not None and left_s <= given_s / 100 + 0.05


async def _write_all(context: Context, messages: AsyncIterable[Any]) -> None:
    is_open = False
    async for message in messages:
        await _write(context, message, with_headers=not is_open)
        is_open = True


async def _write(context: Context, message: Any, *, with_headers: bool) -> None:
    """Send one message; wait as long as the client does not read.

    Headers are not left to the first write: one that is cut off forgets that it sent them, and then the status, which
    would send them again, is refused by the library and never reaches the client.

    Raises:
        asyncio.CancelledError: the client is gone.
    """
    try:
        if with_headers:
            await context.send_initial_metadata(())
        await context.write(message)
    except grpc.aio.InternalError as error:
        # The cancellation of this task is on its way; it would cut off a handler that cleans up already.
        await asyncio.sleep(CANCELLED_WITHIN_S)
        raise asyncio.CancelledError from error


def _admit(asked: _Asked, who: Caller | None) -> None:
    if who is None:
        raise NotAuthenticated
    if not who.may_call(asked.method):
        raise NotAllowed("rpc", asked.method.removeprefix("/"))
