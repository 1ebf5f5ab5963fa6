"""Taking from a stream that may have nothing more to say, under a clock that stands still."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import TypeVar

T = TypeVar("T")
PATIENCE = 40
"""Turns of the loop; a look with a commit and its announcement takes about ten."""


async def taken(stream: AsyncGenerator[T, None], most: int = 3) -> tuple[list[T], bool]:
    """Return up to `most` of what the stream says now, and whether it has ended; close it."""
    said: list[T] = []
    try:
        while len(said) < most:
            coming = asyncio.ensure_future(anext(stream))
            for _ in range(PATIENCE):
                if coming.done():
                    break
                await asyncio.sleep(0)
            else:
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)
                return said, False
            try:
                said.append(coming.result())
            except StopAsyncIteration:
                return said, True
        return said, False
    finally:
        await stream.aclose()
