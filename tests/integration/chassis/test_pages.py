"""What a kubelet and Prometheus are told: the plain health port, and the page."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeAlias

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as prometheus_text

from deploy.dev.ports import FreePort
from services.chassis.grpc_server import probe_server
from services.chassis.telemetry import Health, http_page
from tests.conditions import eventually
from tests.integration.chassis.health_call import health_of

Look: TypeAlias = Callable[[], bool | Awaitable[bool]]
PROBES = ("startup", "readiness", "liveness", "")


@asynccontextmanager
async def probed(state: Health) -> AsyncIterator[str]:
    port = FreePort()
    address = f"127.0.0.1:{port.number}"
    async with probe_server(address, state):
        yield address


@asynccontextmanager
async def page_of(state: Health, registry: CollectorRegistry | None = None) -> AsyncIterator[str]:
    port = FreePort()
    address = f"127.0.0.1:{port.number}"
    async with http_page(address, registry or CollectorRegistry(), state):
        yield f"http://{address}"


async def probes(address: str) -> dict[str, bool]:
    """Return each probe's answer."""
    return {name: await health_of(address, name) == "SERVING" for name in PROBES}


async def tells(address: str, expected: dict[str, bool]) -> bool:
    return await probes(address) == expected


async def get(url: str, accept: str = "") -> tuple[int, str, str]:
    """Return status, text and type of a page."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(url, headers={"Accept": accept} if accept else {}) as answer,
    ):
        return answer.status, await answer.text(), answer.headers["Content-Type"]


async def test_a_process_that_starts_is_alive_and_nothing_else() -> None:
    async with probed(Health()) as address:
        assert await probes(address) == {"startup": False, "readiness": False, "liveness": True, "": False}


async def test_once_ready_it_has_started_and_stays_so() -> None:
    state = Health()
    async with probed(state) as address:
        state.part("redis", ready=True)
        ready: Look = partial(tells, address, dict.fromkeys(PROBES, True))
        await eventually(ready, what="everything is well")

        state.part("redis", ready=False)
        lost: Look = partial(tells, address, {"startup": True, "readiness": False, "liveness": True, "": False})
        await eventually(lost, what="it is not ready, but has started")


async def test_a_process_that_stops_takes_no_more_and_is_alive() -> None:
    state = Health()
    async with probed(state) as address:
        state.part("redis", ready=True)
        ready: Look = partial(tells, address, dict.fromkeys(PROBES, True))
        await eventually(ready)

        state.stop()
        stopping: Look = partial(tells, address, {"startup": True, "readiness": False, "liveness": True, "": False})
        await eventually(stopping)


async def test_a_probe_port_that_is_taken_is_named_with_a_question() -> None:
    async with probed(Health()) as address:
        second = probe_server(address, Health())

        with pytest.raises(OSError, match=f"cannot listen on {address}: is the port in use"):
            await second.__aenter__()


async def test_the_page_says_alive_and_what_it_still_waits_for() -> None:
    state = Health()
    async with page_of(state) as url:
        assert await get(f"{url}/healthz") == (200, "alive\n", "text/plain; charset=utf-8")
        assert (await get(f"{url}/readyz"))[:2] == (503, "not ready: starting\n")

        state.part("redis", ready=False)
        state.part("inbox otp.code-requested.v1", ready=False)
        assert (await get(f"{url}/readyz"))[:2] == (503, "not ready: inbox otp.code-requested.v1, redis\n")

        state.part("redis", ready=True)
        state.part("inbox otp.code-requested.v1", ready=True)
        assert (await get(f"{url}/readyz"))[:2] == (200, "ready\n")

        state.stop()
        assert (await get(f"{url}/readyz"))[:2] == (503, "not ready: stopping\n")
        assert (await get(f"{url}/healthz"))[0] == 200


async def test_the_page_shows_the_metrics_as_whoever_asks_reads_them() -> None:
    registry = CollectorRegistry()
    Counter("post_letters", "Letters.", ["lane"], registry=registry).labels("otp").inc(3)
    async with page_of(Health(), registry) as url:
        _, plain, plain_type = await get(f"{url}/metrics")
        _, openly, open_type = await get(f"{url}/metrics", "application/openmetrics-text; version=1.0.0")

    assert plain_type.startswith("text/plain")
    assert open_type.startswith("application/openmetrics-text")
    samples = [
        {(sample.name, sample.value) for family in families for sample in family.samples}
        for families in (prometheus_text(plain), open_metrics(openly))  # type: ignore[no-untyped-call] # the library's
    ]
    assert all(("post_letters_total", 3.0) in each for each in samples)


async def test_a_call_that_blocks_the_event_loop_is_seen() -> None:
    registry = CollectorRegistry()

    def seen(limit: str) -> float:
        return registry.get_sample_value("eventloop_lag_seconds_bucket", {"le": limit}) or 0

    async with page_of(Health(), registry):
        await eventually(lambda: seen("+Inf") >= 1, within_s=20, what="a look at the loop")
        time.sleep(1.2)  # noqa: ASYNC251 - this is the fault

        await eventually(lambda: seen("+Inf") - seen("0.5") >= 1, within_s=20, what="the late look")


@pytest.mark.parametrize("path", ["/", "/metrics/x", "/debug", "/readyz/"])
async def test_there_is_no_other_page(path: str) -> None:
    async with page_of(Health()) as url:
        assert (await get(url + path))[0] == 404


async def test_a_page_whose_port_is_taken_ends_the_start() -> None:
    async with page_of(Health()) as url:
        second = http_page(url.removeprefix("http://"), CollectorRegistry(), Health())

        with pytest.raises(OSError, match="address already in use"):
            await second.__aenter__()


async def test_a_reader_that_hangs_does_not_keep_the_page_from_closing() -> None:
    async with page_of(Health()) as url:
        host, _, port = url.removeprefix("http://").rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n")
        await writer.drain()

    assert await asyncio.wait_for(reader.read(), 10) is not None
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
