"""A road to a server on which every answer comes late: a TCP proxy in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class SlowRoad:
    """Carries what is sent to `server`, and brings the answers late."""

    def __init__(self, server: str, delay_s: float) -> None:
        self.delay_s = delay_s
        """Of every piece of an answer; may be changed at any time."""
        self.late = 0
        """Pieces of answers that were held back so far."""
        self.address = ""
        """HOST:PORT, once it is open."""
        self._server = server
        self._end = asyncio.Event()
        self._opened = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def open(self) -> None:
        """Listen on a free port."""
        self._thread.start()
        assert self._opened.wait(10)

    def close(self) -> None:
        """Break every connection and listen no more."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        listening = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        host, port = listening.sockets[0].getsockname()
        self.address = f"{host}:{port}"
        self._opened.set()
        await self._end.wait()
        listening.close()  # the connections end with the loop

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self._server.rpartition(":")
        try:
            there_reader, there_writer = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.close()
            return
        answers = asyncio.create_task(self._answer(there_reader, writer))
        try:
            with contextlib.suppress(OSError):
                while piece := await reader.read(65_536):
                    there_writer.write(piece)
        finally:
            answers.cancel()
            writer.close()
            there_writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(65_536):
                if self.delay_s:
                    self.late += 1
                    await asyncio.sleep(self.delay_s)
                writer.write(piece)
            writer.close()


@contextmanager
def slow_road(server: str, *, delay_s: float) -> Iterator[SlowRoad]:
    """Yield an open road to the server."""
    road = SlowRoad(server, delay_s)
    road.open()
    try:
        yield road
    finally:
        road.close()
