"""The servers that Debian's packages bring: each starts, does one true thing, survives a kill, and leaves nothing."""

from __future__ import annotations

import smtplib
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from deploy.dev import postfix_relay
from deploy.dev.postfix_relay import PostfixRelay
from deploy.dev.process_table import PROCESSES
from deploy.dev.python_process import PythonProcess
from tests.conditions import wait_until
from tests.servers import chromium, postgresql_server
from tests.servers.postgresql_server import PostgresqlServer
from tests.servers.require import require


@pytest.fixture
def inbox(tmp_path: Path) -> Iterator[PythonProcess]:
    [spec] = [spec for spec in PROCESSES if spec.name == "inbox"]

    def values() -> dict[str, str]:
        addresses = process.addresses()
        numbers = {f"{name}:port": address.rpartition(":")[2] for name, address in addresses.items()}
        return addresses | numbers | {"directory": str(tmp_path)}

    process = PythonProcess(spec, tmp_path / "inbox.log", {}, values, {})
    process.start()
    yield process
    process.stop()


@pytest.fixture
def database() -> Iterator[PostgresqlServer]:
    require(postgresql_server.why_missing())
    database = PostgresqlServer()
    yield database
    database.remove()


async def told(database: PostgresqlServer, sql: str) -> list[str]:
    """Run one statement in a transaction of its own; return the first column of its rows."""
    engine = create_async_engine(database.url)
    async with engine.begin() as connection:
        result = await connection.execute(text(sql))
        rows = [str(row[0]) for row in result] if result.returns_rows else []
    await engine.dispose()
    return rows


async def test_postgresql_keeps_what_was_committed_over_a_kill(database: PostgresqlServer) -> None:
    database.start()
    await told(database, "CREATE TABLE dossier (number text)")
    await told(database, "INSERT INTO dossier VALUES ('BHXH-1')")

    database.kill()
    database.start()

    assert await told(database, "SELECT number FROM dossier") == ["BHXH-1"]


def test_postgresql_leaves_neither_processes_nor_files(database: PostgresqlServer) -> None:
    database.start()

    code = database.stop()
    database.remove()

    assert code == 0
    assert not database.log.parent.exists()


def test_postfix_relays_to_the_inbox_and_says_so_in_its_log(inbox: PythonProcess) -> None:
    require(postfix_relay.why_missing())
    relay = PostfixRelay(inbox.addresses()["inbox.smtp"])
    relay.start()

    with smtplib.SMTP("127.0.0.1", relay.port("smtp"), timeout=10) as client:
        client.sendmail("kip@example.vn", ["lan@example.vn"], "Subject: hello\r\n\r\nhello\r\n")
    log = wait_until(lambda: "status=sent" in relay.log_text() and relay.log_text(), within_s=10, what="the hand-over")
    relay.kill()
    relay.start()
    relay.remove()

    assert "to=<lan@example.vn>" in str(log)
    assert not relay.log.parent.exists()


def test_chromium_shows_the_inbox_page(inbox: PythonProcess) -> None:
    require(chromium.why_missing())

    with chromium.running_chromium() as browser:
        page = browser.new_page()
        page.goto(f"http://{inbox.addresses()['inbox.http']}/")
        title = page.title()

    assert title
