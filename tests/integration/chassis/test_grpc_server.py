"""The gRPC server over real sockets: who gets in, what they are told, and how it ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any, TypeAlias

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_reflection.v1alpha import reflection_pb2
from prometheus_client import CollectorRegistry

from services.chassis.grpc_callers import Callers
from services.chassis.grpc_server import MAX_MESSAGE_OCTETS, grpc_server
from services.chassis.telemetry import Health
from tests.conditions import eventually
from tests.fakes.chassis import StandingCallers
from tests.integration.chassis.health_call import health_of
from tests.integration.chassis.tiny_post import (
    CALLERS,
    OPERATOR_TOKEN,
    PATIENCE_S,
    PORTAL,
    SERVICE,
    TOKEN,
    Call,
    Running,
    detail_of,
    serving,
)

Look: TypeAlias = Callable[[], bool | Awaitable[bool]]


@pytest.fixture
async def server() -> AsyncIterator[Running]:
    async with serving() as running:
        yield running


async def test_a_caller_with_its_token_is_answered_and_known_by_name(server: Running) -> None:
    assert await server.ask("Echo", b"hello") == b"portal: hello"
    assert server.handled("Echo", "OK") == server.measured("Echo") == 1


@pytest.mark.parametrize("token", [None, "", "made-up-token-of-nobody-00000001"])
async def test_whoever_has_no_token_of_ours_is_told_how_to_send_one(server: Running, token: str | None) -> None:
    error = await server.refused("Echo", token=token)

    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "authorization: Bearer" in (error.details() or "")
    assert detail_of(error, error_details_pb2.ErrorInfo).reason == "NOT_AUTHENTICATED"
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
    assert 0 < float(await server.ask("Left_to_wait", timeout_s=5)) <= 5.05  # rounded up on the wire, by 1 % at most


async def test_a_caller_who_would_wait_for_ever_does_not_keep_a_handler_for_ever(server: Running) -> None:
    assert 0 < float(await server.ask("Left_to_wait", timeout_s=1_000)) <= 10


async def test_a_handler_that_its_caller_would_wait_for_much_longer_is_ended_after_ten_seconds(server: Running) -> None:
    began = time.monotonic()

    error = await server.refused("Wait", timeout_s=100)

    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert 10 <= time.monotonic() - began < 50
    assert server.post.left == server.post.entered == 1


async def test_a_scope_opens_what_is_closed_to_callers_without_it(server: Running) -> None:
    error = await server.refused("Unlock")

    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    info = detail_of(error, error_details_pb2.ErrorInfo)
    assert (info.reason, dict(info.metadata)) == ("NOT_ALLOWED", {"scope": "unlock"})
    assert await server.ask("Unlock", token=OPERATOR_TOKEN) == b"unlocked"


async def test_a_refusal_arrives_with_everydetail_of(server: Running) -> None:
    error = await server.refused("Refuse")

    assert (error.code(), error.details()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "Full.")
    info = detail_of(error, error_details_pb2.ErrorInfo)
    assert (info.reason, info.domain, dict(info.metadata)) == ("FULL", "test.kip", {"tries": "3"})
    assert detail_of(error, error_details_pb2.RetryInfo).retry_delay.seconds == 7
    assert detail_of(error, error_details_pb2.LocalizedMessage).message == "Đầy rồi."
    assert detail_of(error, error_details_pb2.BadRequest).field_violations[0].field == "email"
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


async def test_one_caller_does_not_take_the_calls_of_another() -> None:
    async with serving(calls_per_caller=3) as running:
        in_hand = [asyncio.create_task(running.ask("Wait")) for _ in range(3)]
        await eventually(lambda: running.post.entered == 3, what="three calls in hand")

        error = await running.refused("Echo")

        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        info = detail_of(error, error_details_pb2.ErrorInfo)
        assert (info.reason, dict(info.metadata)) == ("TOO_MANY_CALLS", {"limit": "3"})
        assert 1 <= detail_of(error, error_details_pb2.RetryInfo).retry_delay.seconds <= 5
        assert await running.ask("Echo", b"x", token=OPERATOR_TOKEN) == b"operator: x"
        running.post.gate.set()
        assert await asyncio.gather(*in_hand) == [b"done"] * 3
        assert await running.ask("Echo", b"x") == b"portal: x"


async def test_whoever_pings_without_end_is_hung_up_on_and_whoever_calls_next_is_served(server: Running) -> None:
    pinging = [
        ("grpc.keepalive_time_ms", 50),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    async with grpc.aio.insecure_channel(server.address, options=pinging) as impatient:
        wait: Call = impatient.unary_unary(f"/{SERVICE}/Wait")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await wait(b"x", timeout=PATIENCE_S, metadata=(("authorization", f"Bearer {TOKEN}"),))

    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    assert (error.value.details() or "").lower().replace("_", " ") == "too many pings"
    assert await server.ask("Echo", b"next") == b"portal: next"


async def test_metadata_that_is_too_large_is_refused(server: Running) -> None:
    echo: Call = server.channel.unary_unary(f"/{SERVICE}/Echo")

    with pytest.raises(grpc.aio.AioRpcError) as error:
        await echo(b"x", timeout=PATIENCE_S, metadata=(("stuffing", "x" * 20_000),))

    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_an_rpc_that_the_entry_does_not_name_is_forbidden_and_counted_as_such(server: Running) -> None:
    server.callers.become(Callers((replace(PORTAL, rpcs=frozenset({f"{SERVICE}/Size"})),)))

    error = await server.refused("Echo")

    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert dict(detail_of(error, error_details_pb2.ErrorInfo).metadata) == {"rpc": f"{SERVICE}/Echo"}
    assert await server.ask("Size", b"xx") == b"2"
    assert (server.handled("Echo", "PERMISSION_DENIED"), server.handled("Echo", "UNAUTHENTICATED")) == (1, None)


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
        callers=StandingCallers(CALLERS),
        state=Health(),
        registry=CollectorRegistry(),
        drain_grace=timedelta(seconds=1),
    )

    with pytest.raises(OSError, match=f"cannot listen on {server.address}: is the port in use"):
        await second.__aenter__()
