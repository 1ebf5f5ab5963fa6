"""A gRPC server as every service here has it: callers, deadlines, rich errors, metrics, health, reflection, drain.

Services come through this door; what stands behind it: `grpc_callers` (who may call what), `grpc_credentials` (the
files that say so, followed while the server runs), `grpc_gate` (what happens around each call), `grpc_streams` (how
many streams, how long), `grpc_refusals` (how a refusal travels).

*Probes.* The kubelet speaks neither TLS nor tokens, so health is also served on a plain port of its own
(`probe_server`), under the names `startup`, `readiness` and `liveness`.

*Drain.* At shutdown new calls are refused, unary calls in hand may end within the grace, and streams are ended at once:
their clients resume elsewhere. Nothing waits for a client that does not read, or that watches health.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import CollectorRegistry

from services.chassis.grpc_callers import caller, demand_purpose, demand_scope
from services.chassis.grpc_credentials import CallersFile, KnownCallers, TlsFiles, server_credentials, tls_files
from services.chassis.grpc_gate import CallMetrics, Gate, remaining
from services.chassis.grpc_refusals import status_of
from services.chassis.grpc_streams import STREAM_LIFE, STREAMS_PER_CALLER, OpenStreams
from services.chassis.telemetry import Health

__all__ = [
    "GOODBYE_S",
    "MAX_MESSAGE_OCTETS",
    "CallersFile",
    "TlsFiles",
    "caller",
    "demand_purpose",
    "demand_scope",
    "grpc_server",
    "probe_server",
    "remaining",
    "status_of",
    "tls_files",
]

MAX_MESSAGE_OCTETS = 64 * 1024  # the largest request is a few kilobytes; refused before it is parsed
MAX_UNARY_CALLS = 1_000  # at once; streams have their places beside these
CALLS_PER_CALLER = 400  # of these; one caller that hangs or hammers leaves room for the others
MOST_CALLERS = 100  # whose streams have their places; a platform has fewer services that ask for codes
# A client may ask every 10 s whether we are still there, also between calls; one that asks faster is told to calm down
# and hung up on at the third strike (gRFC A8). A connection carries as many calls as a caller may have in hand, and
# metadata as large as a trace, a token and some room.
ABUSE = (
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_ping_strikes", 2),
    ("grpc.max_concurrent_streams", CALLS_PER_CALLER + STREAMS_PER_CALLER),
    ("grpc.max_metadata_size", 8 * 1024),
)
ONE_LISTENER = ("grpc.so_reuseport", 0)  # a second process on the port is a mistake to be told, not load to be shared
GOODBYE_S = 0.25  # for the last octets of an answer to leave; a client that reads needs milliseconds


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


@asynccontextmanager
async def grpc_server(
    address: str,
    add_servicers: Sequence[Callable[[grpc.aio.Server], None]],
    *,
    names: Sequence[str],
    domain: str,
    callers: KnownCallers,
    state: Health,
    registry: CollectorRegistry,
    drain_grace: timedelta,
    tls: TlsFiles | None = None,
    calls_per_caller: int = CALLS_PER_CALLER,
    streams_per_caller: int = STREAMS_PER_CALLER,
    stream_life: timedelta = STREAM_LIFE,
) -> AsyncIterator[grpc.aio.Server]:
    """Serve until the context ends, then refuse new calls, end streams, and let calls in hand end within `drain_grace`.

    Args:
        address: HOST:PORT.
        add_servicers: what adds each API to the server.
        names: full names of the APIs, for reflection.
        domain: `ErrorInfo.domain`, such as `otp.kip`.
        callers: who may call, now and after each change of the file.
        state: read by the health service.
        registry: gets `grpc_server_handled_total`, `grpc_server_handling_seconds` and `grpc_server_streams`.
        drain_grace: how long calls in hand may take to end.
        tls: the files of TLS, which are followed too; none on a laptop.
        calls_per_caller: how many unary calls one caller may have in hand here.
        streams_per_caller: how many streams one caller may hold here.
        stream_life: how long one stream may last before its client has to resume it.
    """
    streams = OpenStreams(streams_per_caller, stream_life)
    callers.on_change.append(lambda known: streams.end_others({caller.name for caller in known.entries}))
    metrics = CallMetrics.on(registry)
    gate = Gate(domain, lambda: callers.callers, metrics, streams, calls_per_caller=calls_per_caller)
    server = grpc.aio.server(
        interceptors=[gate],
        options=[
            ("grpc.max_receive_message_length", MAX_MESSAGE_OCTETS),
            *ABUSE,
            ONE_LISTENER,
        ],
        maximum_concurrent_rpcs=MAX_UNARY_CALLS + streams_per_caller * MOST_CALLERS,
    )
    for add in add_servicers:
        add(server)
    health_pb2_grpc.add_HealthServicer_to_server(await _health_servicer(state), server)
    reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
    _bind(server, address, server_credentials(tls) if tls else None)
    await server.start()
    following = asyncio.create_task(callers.follow(metrics.callers_looked))
    try:
        yield server
    finally:
        following.cancel()
        streams.end_all()
        await _drain(server, gate, drain_grace)


async def _drain(server: grpc.aio.Server, gate: Gate, grace: timedelta) -> None:
    """Stop; no later than when no unary call has been in hand for a moment, whatever else is still open."""
    stopping = asyncio.create_task(server.stop(grace.total_seconds()))
    was_idle = False
    while not (await asyncio.wait([stopping], timeout=GOODBYE_S))[0]:
        is_idle = gate.in_hand == 0
        if was_idle and is_idle:
            await server.stop(None)
        was_idle = is_idle
    await stopping
