"""Starting, stopping, being killed: no mail with a 250 is lost, and a bad start says what to do."""

from __future__ import annotations

import asyncio
import http.client
import socket
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.integration.inbox.running_inbox import MAIL, ROOT, RunningInbox, command, start_inbox


async def test_a_killed_inbox_has_every_accepted_mail_after_a_restart(tmp_path: Path) -> None:
    inbox = start_inbox(tmp_path)
    accepted: list[str] = []

    async def flood(number: int) -> None:
        try:
            while True:
                await inbox.send(MAIL, f"{number}-{len(accepted)}@example.vn")
                accepted.append("one")
        except OSError:
            return  # killed in mid-sentence; aiosmtplib's errors are ConnectionErrors then

    floods = [asyncio.create_task(flood(number)) for number in range(4)]
    inbox_kept = await asyncio.to_thread(inbox.client.wait_for_mail, after=20)
    inbox.process.kill()
    await asyncio.gather(*floods)
    inbox.wait()

    again = start_inbox(tmp_path)
    try:
        kept = again.client.messages(limit=500)
        assert len(accepted) <= len(kept) <= len(accepted) + 4
        assert again.client.mail(inbox_kept.id) == inbox_kept
        assert all(again.client.raw(mail.id) == MAIL for mail in kept)
    finally:
        assert again.stop() == 0


def test_sigterm_stops_at_once_with_code_0_though_clients_hang_on(tmp_path: Path) -> None:
    inbox = start_inbox(tmp_path)
    waiting = http.client.HTTPConnection(urlsplit(inbox.base_url).netloc, timeout=10)
    waiting.request("GET", "/api/wait?timeout_s=300")
    with socket.create_connection(("127.0.0.1", inbox.smtp_port), timeout=10) as talking:
        assert talking.recv(100).startswith(b"220")

        code = inbox.stop()

        assert code == 0
        assert talking.recv(100) == b""
    waiting.close()


@pytest.mark.parametrize("option", ["--smtp-port", "--http-port"])
def test_a_port_in_use_is_named_with_what_to_do(tmp_path: Path, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        ended = run(tmp_path, option, str(port))

    assert ended.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in ended.stderr
    assert f"choose another {option}" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_directory_in_use_is_named_with_what_to_do(tmp_path: Path) -> None:
    first = start_inbox(tmp_path)

    ended = run(tmp_path)

    assert first.stop() == 0
    assert ended.returncode == 1
    assert "another inbox uses" in ended.stderr
    assert "choose another --directory" in ended.stderr


def test_a_directory_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    ended = run(tmp_path / "file")

    assert ended.returncode == 1
    assert "cannot keep mails in" in ended.stderr


def test_only_this_machine_can_reach_it(inbox: RunningInbox) -> None:
    tables = [Path(f"/proc/net/{name}").read_text(encoding="ascii") for name in ("tcp", "tcp6")]
    sockets = [line.split() for table in tables for line in table.splitlines()]
    ports = {f"{port:04X}" for port in (inbox.smtp_port, urlsplit(inbox.base_url).port or 0)}

    listening = {address for _, address, _, state, *_ in sockets if state == "0A" and address[-4:] in ports}

    assert listening == {f"0100007F:{port}" for port in ports}  # 127.0.0.1, as the kernel writes it


def test_the_capacity_is_kept_to(tmp_path: Path) -> None:
    inbox = start_inbox(tmp_path, "--capacity", "3")

    async def send_five() -> None:
        for _ in range(5):
            await inbox.send()

    asyncio.run(send_five())

    assert [mail.id for mail in inbox.client.messages()] == [5, 4, 3]
    assert inbox.stop() == 0


def run(directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(directory, *options), cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )
