"""Run the demo inbox until SIGTERM or SIGINT; exit code 0 then, 1 when it could not start."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

from aiohttp import web

from deploy.dev.inbox.behaviour import Behaviour
from deploy.dev.inbox.http_api import HttpApi, load_page
from deploy.dev.inbox.mail_files import MailFiles
from deploy.dev.inbox.mailbox import Mailbox
from deploy.dev.inbox.smtp_sink import HOST, Sink, SmtpServer
from deploy.dev.inbox.stats import Stats

CLOSING_S = 1.0  # how long a stop waits for answers that are being written


class CannotStartError(Exception):
    """The inbox cannot run as asked; the text says why and what to do."""


async def serve(smtp_port: int, http_port: int, directory: Path, capacity: int) -> None:
    """Listen on both ports (0 = a free one), print the addresses, and stop on a signal.

    Raises:
        CannotStartError: a port or the directory is in use or out of reach.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with AsyncExitStack() as resources:
        try:
            archive = resources.enter_context(MailFiles(directory))
            mailbox = Mailbox(archive, capacity, lambda: datetime.now(UTC))
        except BlockingIOError as error:
            raise CannotStartError(f"another inbox uses {directory}: stop it, or choose another --directory") from error
        except OSError as error:
            raise CannotStartError(f"cannot keep mails in {directory}: {error.strerror}") from error
        behaviour, stats = Behaviour(), Stats()
        smtp_address = await _start_smtp(Sink(mailbox, behaviour, stats), smtp_port, resources)
        api = HttpApi(mailbox, behaviour, stats, smtp_address, load_page())
        http_address = await _start_http(api, http_port, resources)
        resources.callback(mailbox.stop_waiting)
        print(f"inbox: SMTP {smtp_address}, page http://{http_address}/, mails kept in {directory}", flush=True)
        await stop.wait()


async def _start_smtp(sink: Sink, port: int, resources: AsyncExitStack) -> str:
    server = SmtpServer(sink)
    try:
        port = await server.start(port)
    except OSError as error:
        raise _port_is_taken("--smtp-port", port, error) from error
    resources.push_async_callback(server.stop)
    return f"{HOST}:{port}"


async def _start_http(api: HttpApi, port: int, resources: AsyncExitStack) -> str:
    runner = web.AppRunner(api.application(), access_log=None, shutdown_timeout=CLOSING_S)
    await runner.setup()
    resources.push_async_callback(runner.cleanup)
    try:
        await web.TCPSite(runner, HOST, port).start()
    except OSError as error:
        raise _port_is_taken("--http-port", port, error) from error
    return f"{HOST}:{runner.addresses[0][1]}"


def _port_is_taken(option: str, port: int, error: OSError) -> CannotStartError:
    why = error.strerror or str(error)
    return CannotStartError(f"cannot listen on {HOST}:{port} ({why}): free that port, or choose another {option}")


def main() -> int:
    """Read the command line, serve, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.dev.inbox", description="The demo inbox of Kịp.")
    parser.add_argument("--smtp-port", type=int, default=2525, help="0 = a free one (default: 2525)")
    parser.add_argument("--http-port", type=int, default=8025, help="0 = a free one (default: 8025)")
    parser.add_argument("--directory", type=Path, required=True, help="where mails outlive the process")
    parser.add_argument("--capacity", type=int, default=20_000, help="mails kept; the oldest go first (default: 20000)")
    options = parser.parse_args()
    if options.capacity < 1:
        parser.error("--capacity must be at least 1")
    try:
        asyncio.run(serve(options.smtp_port, options.http_port, options.directory, options.capacity))
    except CannotStartError as error:
        print(f"inbox: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
