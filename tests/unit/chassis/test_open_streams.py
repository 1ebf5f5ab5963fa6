"""Places for streams: how many, how long, and what whoever gets none is told."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta

import pytest

from services.chassis.errors import Kind
from services.chassis.grpc_streams import GoingAway, OpenStreams, TooManyStreams

LIFE = timedelta(minutes=7)
OURS_S = 420.0


def new_streams(per_caller: int = 2, *, life: timedelta = LIFE) -> OpenStreams:
    return OpenStreams(per_caller, life, draw=lambda shortest, longest: (shortest + longest) / 2)


@pytest.mark.parametrize(("left_s", "lasts_s"), [(None, OURS_S), (5_000.0, OURS_S), (11.0, 11.0), (0.0, 0.0)])
async def test_a_stream_lasts_its_life_or_as_long_as_its_caller_waits(left_s: float | None, lasts_s: float) -> None:
    now_s = asyncio.get_running_loop().time()

    async with new_streams().place("portal", left_s) as end:
        assert end.when() == pytest.approx(now_s + lasts_s, abs=2)


async def test_each_caller_has_places_of_its_own() -> None:
    streams = new_streams()

    async with AsyncExitStack() as held:
        for name in ("portal", "portal", "office", "office"):
            await held.enter_async_context(streams.place(name, None))
        with pytest.raises(TooManyStreams) as refused:
            await held.enter_async_context(streams.place("portal", None))

    error = refused.value
    assert (error.kind, error.reason, error.metadata) == (Kind.EXHAUSTED, "TOO_MANY_STREAMS", {"limit": "2"})
    assert error.retry_after == timedelta(seconds=3)
    assert "2" in error.words.vi
    assert "2" in error.words.en


@pytest.mark.parametrize("cause", [ZeroDivisionError, asyncio.CancelledError, TimeoutError])
async def test_a_place_is_free_again_however_it_was_left(cause: type[BaseException]) -> None:
    streams = new_streams(per_caller=1)

    with pytest.raises(cause):
        async with streams.place("portal", None):
            raise cause

    async with streams.place("portal", None):
        pass
    async with streams.place("portal", None):
        pass


async def test_told_to_end_it_ends_and_nobody_else_gets_in() -> None:
    streams = new_streams()
    streams.refuse_if_going_away()

    async def hold() -> None:
        async with streams.place("portal", None):
            streams.end_all()
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await hold()
    with pytest.raises(GoingAway) as refused:
        async with streams.place("office", None):
            pass
    assert (refused.value.kind, refused.value.reason) == (Kind.UNAVAILABLE, "GOING_AWAY")
    assert refused.value.retry_after == timedelta(seconds=3)


async def test_one_that_ends_by_itself_at_that_moment_is_not_told_twice() -> None:
    streams = new_streams(life=timedelta(0))

    async def end_in_the_end() -> None:
        async with streams.place("portal", None):
            try:
                await asyncio.Event().wait()
            finally:
                streams.end_all()

    with pytest.raises(TimeoutError):
        await end_in_the_end()


async def test_whatever_was_open_before_is_of_no_concern_at_the_end() -> None:
    streams = new_streams()
    async with streams.place("portal", None):
        pass

    streams.end_all()

    with pytest.raises(GoingAway):
        streams.refuse_if_going_away()
