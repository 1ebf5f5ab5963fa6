"""How a process speaks to its operators: JSON logs without secrets, traces, metrics, health.

Logs are one JSON object a line with a constant `event` and fields. Redaction is a second fence: nobody passes an
address, a code or a token to a logger, and if somebody does, the renderer masks what looks like one. Libraries' records
go through the same door, and those of the Kafka clients, which write dozens of lines a second while a broker is away,
are let through once a second per message.

`Health` is the one truth about being alive and ready; `/healthz`, `/readyz` and the gRPC health service all read it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import structlog
from aiohttp import web
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from prometheus_client import CollectorRegistry, Gauge, Histogram, Info, ProcessCollector, disable_created_metrics
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from structlog.typing import EventDict, WrappedLogger

from services.chassis.settings import split_host_port

ADDRESS = re.compile(r"[^\s<>\"'@,:;()]+@[^\s<>\"'@,;()]+\.[^\s<>\"'@,;()]+")  # anything like name@domain.tld
DIGITS = re.compile(r"(?<![\w.-])\d{6,8}(?!\w|[.:-]\w)")  # a lone run of as many digits as a code has
SECRET_FIELDS = frozenset(
    {"address", "authorization", "code", "context", "email", "handle", "name", "password", "secret", "token"}
)
LOOP_LOOK_S = 0.5  # twice a second costs nothing, and a loop that hangs for longer is seen whenever it began
CHATTY = ("aiokafka", "kafka", "faust", "mode")


@dataclass
class Health:
    """Alive is: the process answers. Ready is: each named part says so, and nobody has asked the process to stop."""

    _parts: dict[str, bool] = field(default_factory=dict)
    _reasons: dict[str, str] = field(default_factory=dict)
    stopping: bool = False
    on_change: list[Callable[[], None]] = field(default_factory=list)

    def part(self, name: str, *, ready: bool, why: str = "") -> None:
        """Say how a part is; the first word makes it a part. `why` it is not ready is told until its next word."""
        self._parts[name] = ready
        self._reasons[name] = f" ({why})" if why else ""
        self._changed()

    def stop(self) -> None:
        """From now on not ready, whatever the parts say."""
        self.stopping = True
        self._changed()

    @property
    def ready(self) -> bool:
        """True when new work is welcome."""
        return bool(self._parts) and all(self._parts.values()) and not self.stopping

    @property
    def missing(self) -> list[str]:
        """Names of what is not ready, and why where that is known, for people."""
        missing = sorted(name + self._reasons[name] for name, ready in self._parts.items() if not ready)
        return missing + ["stopping"] * self.stopping

    def _changed(self) -> None:
        for tell in self.on_change:
            tell()


class OncePerSecond(logging.Filter):
    """Lets one record per message template and second pass; the rest of an outage's noise says nothing new."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """Start with an empty memory; `now` counts seconds."""
        super().__init__()
        self._now = now
        self._last: dict[str, float] = {}

    def __len__(self) -> int:
        """Count the messages that are remembered."""
        return len(self._last)

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record may pass."""
        now = self._now()
        key = f"{record.name}:{record.msg}"[:200]
        if now - self._last.get(key, float("-inf")) < 1:
            return False
        if len(self._last) > 1_000:  # templates are few; a library that formats before logging must not fill memory
            self._last.clear()
        self._last[key] = now
        return True


def redact(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """Mask fields that are secret by name, and text that looks like an address or a code, however deep it stands."""
    return {key: _masked_field(key, value) for key, value in event.items()}


def _masked_field(name: object, value: object) -> object:
    return "***" if str(name).lower() in SECRET_FIELDS else _masked(value)


def _masked(value: object) -> object:
    match value:
        case None | bool() | int() | float():
            return value
        case dict():
            return {_masked_text(str(name)): _masked_field(name, inner) for name, inner in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_masked(inner) for inner in value]
        case str():
            return _masked_text(value)
        case _:
            return _masked_text(repr(value))  # what the renderer would print of an object


def _masked_text(text: str) -> str:
    return DIGITS.sub("***", ADDRESS.sub("***@***", text))


def _with_trace(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        event["trace_id"] = f"{span.trace_id:032x}"
    return event


def _named(service: str) -> structlog.typing.Processor:
    def add(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
        event["service"] = service
        return event

    return add


def configure_telemetry(service: str, *, level: int = logging.INFO) -> None:
    """Send everything that is logged to stdout as redacted JSON, and start a tracer. Call once, first of all."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        _named(service),
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _with_trace,
    ]
    last: list[structlog.typing.Processor] = [
        structlog.processors.format_exc_info,
        redact,
        structlog.processors.JSONRenderer(sort_keys=True),
    ]
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    handler.addFilter(_quiet(OncePerSecond()))
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    disable_created_metrics()  # type: ignore[no-untyped-call] # else a second series for each counter, that nobody reads
    # Nothing exports spans yet: their ids travel on and stand in the logs, but recording them would be for nobody.
    resource = Resource.create({"service.name": service})
    trace.set_tracer_provider(TracerProvider(resource=resource, sampler=ParentBased(ALWAYS_OFF)))


def _quiet(once: OncePerSecond) -> Callable[[logging.LogRecord], bool]:
    def allowed(record: logging.LogRecord) -> bool:
        return record.name.partition(".")[0] not in CHATTY or once.filter(record)

    return allowed


def exemplar() -> dict[str, str] | None:
    """Return what ties an observation to the trace that goes on here; none outside of any.

    Only the OpenMetrics form of a page shows exemplars, which is what Prometheus asks for.
    """
    span = trace.get_current_span().get_span_context()
    return {"trace_id": f"{span.trace_id:032x}"} if span.is_valid else None


def new_registry(service: str, version: str, *collectors: Collector) -> CollectorRegistry:
    """Return a registry with `<service>_build_info`, what any process tells of itself, and the given collectors.

    Nothing registers itself at import.
    """
    registry = CollectorRegistry()
    Info(f"{service}_build", "Version of the running code.", registry=registry).info({"version": version})
    ProcessCollector(registry=registry)
    Gauge(
        "process_clock_timestamp_seconds",
        "What this host's clock shows at the scrape (Unix time); against the scraper's own it tells the skew.",
        registry=registry,
    ).set_function(time.time)
    for collector in collectors:
        registry.register(collector)
    return registry


@asynccontextmanager
async def http_page(address: str, registry: CollectorRegistry, health: Health) -> AsyncIterator[None]:
    """Serve `/metrics` (text or OpenMetrics), `/healthz` and `/readyz` on one port; watch the event loop meanwhile."""

    async def metrics(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(registry), headers={"Content-Type": content_type})

    async def healthz(_request: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def readyz(_request: web.Request) -> web.Response:
        if health.ready:
            return web.Response(text="ready\n")
        return web.Response(status=503, text=f"not ready: {', '.join(health.missing) or 'starting'}\n")

    app = web.Application()
    app.add_routes([web.get("/metrics", metrics), web.get("/healthz", healthz), web.get("/readyz", readyz)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    host, port = split_host_port(address)
    await web.TCPSite(runner, host, port).start()
    watching = asyncio.create_task(_watch_loop(loop_lag(registry)))
    try:
        yield
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
        await runner.cleanup()


def loop_lag(registry: CollectorRegistry) -> Histogram:
    """Register what the watching of the event loop measures; one per process."""
    return Histogram(
        "eventloop_lag_seconds",
        "How late the event loop woke a task that slept. Buckets from a calm loop to one that a probe takes for dead.",
        buckets=(0.02, 0.1, 0.5, 2),
        registry=registry,
    )


async def _watch_loop(lag: Histogram) -> None:
    """Measure how late the event loop wakes who sleeps: what a call that blocks costs everybody else."""
    while True:
        due = time.monotonic() + LOOP_LOOK_S
        await asyncio.sleep(LOOP_LOOK_S)
        lag.observe(max(0.0, time.monotonic() - due))
