"""Server streams over real sockets: who may open how many, what is counted, and every way in which one ends."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from services.chassis.grpc_server import GOODBYE_S
from tests.conditions import eventually
from tests.integration.chassis.tiny_post import (
    OPERATOR_TOKEN,
    PATIENCE_S,
    SERVICE,
    STUFFING,
    TOKEN,
    Running,
    Stream,
    detail_of,
    ended,
    serving,
)

LONG_BEFORE_THE_GRACE_S = PATIENCE_S / 2  # far more than a drain takes, far less than waiting for the grace


async def test_a_stream_arrives_whole_and_its_caller_is_known() -> None:
    async with serving() as server:
        assert [message async for message in server.stream("Count", b"3")] == [b"portal", b"0", b"1", b"2"]

        assert server.handled("Count", "OK") == 1


async def test_streams_are_counted_while_they_are_open_and_never_measured() -> None:
    async with serving() as server:
        first, second = await server.watching(2)
        assert server.open_now("Watch") == 2

        first.cancel()
        second.cancel()

        await eventually(lambda: server.open_now("Watch") == 0, what="both are closed")
        assert server.handled("Watch", "CANCELLED") == 2
        assert server.measured("Watch") is None


@pytest.mark.parametrize("token", [None, "made-up-token-of-nobody-00000001"])
async def test_whoever_has_no_token_of_ours_gets_no_stream(token: str | None) -> None:
    async with serving() as server:
        error = await ended(server.stream("Watch", token=token))

        assert error.code() is grpc.StatusCode.UNAUTHENTICATED
        assert detail_of(error, error_details_pb2.ErrorInfo).reason == "NOT_AUTHENTICATED"
        assert server.handled("Watch", "UNAUTHENTICATED") == 1
        assert server.post.entered == 0


async def test_a_refusal_in_mid_stream_comes_after_the_messages_and_with_every_detail() -> None:
    async with serving() as server:
        (stream,) = await server.watching(1, "Refuse_late")

        error = await ended(stream)

        assert (error.code(), error.details()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "Full.")
        info = detail_of(error, error_details_pb2.ErrorInfo)
        assert (info.reason, info.domain, dict(info.metadata)) == ("FULL", "test.kip", {"tries": "3"})
        assert detail_of(error, error_details_pb2.RetryInfo).retry_delay.seconds == 7
        assert server.handled("Refuse_late", "RESOURCE_EXHAUSTED") == 1
        assert server.open_now("Refuse_late") == 0


@pytest.mark.parametrize(("method", "internals"), [("Fail_late", "lan@example.vn"), ("Time_out_late", "redis")])
async def test_a_bug_in_mid_stream_is_told_without_internals(method: str, internals: str) -> None:
    async with serving() as server:
        (stream,) = await server.watching(1, method)

        error = await ended(stream)

        assert error.code() is grpc.StatusCode.INTERNAL
        assert internals not in f"{error.details()} {error.trailing_metadata()} {error.debug_error_string()}"
        assert server.handled(method, "INTERNAL") == 1


async def test_the_deadline_of_its_caller_ends_a_stream() -> None:
    async with serving(streams_per_caller=1) as server:
        error = await ended(server.stream("Watch", timeout_s=0.5))

        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await eventually(lambda: server.post.left == server.post.entered, what="the handler was ended")
        if server.post.entered:  # else it was over before it arrived here
            await eventually(lambda: server.handled("Watch", "DEADLINE_EXCEEDED") == 1, what="it is counted as that")
        await server.watching(1)


async def test_a_stream_ends_normally_after_its_life() -> None:
    async with serving(stream_life=timedelta(seconds=0.2)) as server:
        assert [message async for message in server.stream("Watch")] == [b"first"]

        assert server.handled("Watch", "OK") == 1
        assert server.post.left == 1


async def test_a_stream_whose_first_message_waits_for_its_reader_ends_normally_too() -> None:
    async with (
        serving(stream_life=timedelta(seconds=0.2)) as server,
        grpc.aio.insecure_channel(server.address, options=[("grpc.max_receive_message_length", -1)]) as channel,
    ):
        stuff: Any = channel.unary_stream(f"/{SERVICE}/Stuff")
        stream = stuff(b"x", metadata=(("authorization", f"Bearer {TOKEN}"),), timeout=PATIENCE_S)
        await eventually(lambda: server.handled("Stuff", "OK") == 1, what="it was ended while nobody read")

        assert [len(message) async for message in stream] == [len(STUFFING)]


async def test_a_caller_holds_so_many_streams_and_no_more() -> None:
    async with serving(streams_per_caller=2) as server:
        held = await server.watching(2)

        error = await ended(server.stream("Watch"))

        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        info = detail_of(error, error_details_pb2.ErrorInfo)
        assert (info.reason, dict(info.metadata)) == ("TOO_MANY_STREAMS", {"limit": "2"})
        assert 1 <= detail_of(error, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() / 1000 <= 5
        assert server.handled("Watch", "RESOURCE_EXHAUSTED") == 1
        assert server.open_now("Watch") == len(held) == server.post.entered
        await server.watching(1, token=OPERATOR_TOKEN)
        assert await server.ask("Echo", b"x") == b"portal: x"


@pytest.mark.parametrize("method", ["Watch", "Flood"])
async def test_a_cancelled_stream_frees_its_place(method: str) -> None:
    async with serving(streams_per_caller=1) as server:
        stream = server.stream(method, timeout_s=PATIENCE_S)
        await stream.read()

        stream.cancel()

        await eventually(lambda: server.post.left == 1, what="its handler was ended")
        assert server.handled(method, "CANCELLED") == 1
        await server.watching(1)


async def test_a_place_is_held_until_the_handler_has_cleaned_up() -> None:
    async with serving() as server:
        stream = server.stream("Tidy")
        await eventually(lambda: server.post.entered == 1, what="the first message is on its way, and stays there")

        stream.cancel()

        await eventually(lambda: server.post.left == 1, what="it cleans up")
        assert server.open_now("Tidy") == 1
        server.post.gate.set()
        await eventually(lambda: server.open_now("Tidy") == 0, what="it is clean")


async def test_at_shutdown_every_stream_is_ended_at_once_and_its_client_told_to_resume() -> None:
    async with serving() as server:
        streams = await server.watching(100)
        started = time.monotonic()

    errors = [await ended(stream) for stream in streams]
    assert time.monotonic() - started < LONG_BEFORE_THE_GRACE_S
    assert {error.code() for error in errors} == {grpc.StatusCode.UNAVAILABLE}
    assert {detail_of(error, error_details_pb2.ErrorInfo).reason for error in errors} == {"GOING_AWAY"}
    waits_s = {detail_of(error, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() / 1000 for error in errors}
    assert 1 <= min(waits_s) <= max(waits_s) <= 5
    assert len(waits_s) > 50  # they do not come back together
    assert (server.post.left, server.handled("Watch", "UNAVAILABLE")) == (100, 100)


async def test_a_handler_that_ends_normally_when_told_to_end_is_still_resumed() -> None:
    async with serving() as server:
        (stream,) = await server.watching(1, "Cling")

    assert (await ended(stream)).code() is grpc.StatusCode.UNAVAILABLE
    assert server.handled("Cling", "UNAVAILABLE") == 1


async def test_streams_do_not_wait_for_the_unary_calls_that_are_finished_in_the_drain() -> None:
    async with serving() as server:
        (stream,) = await server.watching(1)
        in_hand = asyncio.create_task(server.ask("Wait"))
        await eventually(lambda: server.post.entered == 2, what="a call in hand")
        resumed = asyncio.create_task(open_when_ended(server, stream))

    assert (await resumed).code() is grpc.StatusCode.UNAVAILABLE
    assert await in_hand == b"done"


async def open_when_ended(server: Running, stream: Stream) -> grpc.aio.AioRpcError:
    """Let the call in hand end once the stream has."""
    error = await ended(stream)
    assert server.post.left == 1
    since = time.monotonic()
    await eventually(lambda: time.monotonic() - since > 4 * GOODBYE_S, what="longer than the drain needs for streams")
    server.post.gate.set()
    return error


async def test_a_client_that_does_not_read_does_not_hold_up_the_shutdown() -> None:
    async with serving() as server:
        await server.ask("Echo")
        await server.refused("Fail")
        channel = grpc.aio.insecure_channel(server.address)  # of its own: the other one waits for what is open
        stuff: Any = channel.unary_stream(f"/{SERVICE}/Stuff")
        stream = stuff(b"x", metadata=(("authorization", f"Bearer {TOKEN}"),))
        await eventually(lambda: server.post.entered == 1, what="the first message is on its way, and stays there")
        started = time.monotonic()

    assert time.monotonic() - started < LONG_BEFORE_THE_GRACE_S
    assert server.post.left == 1
    stream.cancel()
    await channel.close()
