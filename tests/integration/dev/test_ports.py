"""Free ports are free and nobody else's; a taken one is told with its holder."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.dev.ports import FREE_RANGE, FreePort, PortInUse, find_holder, is_free


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_a_free_port_is_below_the_range_of_outgoing_connections() -> None:
    port = FreePort()

    assert port.number in FREE_RANGE
    assert is_free(port.number)


def test_two_launchers_never_choose_the_same_port() -> None:
    ours = [FreePort() for _ in range(100)]
    code = "from deploy.dev.ports import FreePort; a = [FreePort() for _ in range(100)]; print(*[p.number for p in a])"

    theirs = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)

    assert len({port.number for port in ours}) == 100
    assert not {port.number for port in ours} & set(map(int, theirs.stdout.split()))


def test_a_port_with_a_listener_is_not_free_and_its_holder_is_named(listener: int) -> None:
    assert not is_free(listener)
    assert str(find_holder(listener)).endswith(f"(pid {os.getpid()})")


def test_of_a_process_and_a_child_that_it_forked_the_process_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def youngest_first(folder: Path, pattern: str) -> list[Path]:
        return sorted(all_of(folder, pattern), key=lambda found: found.stat().st_ctime, reverse=True)

    all_of = Path.glob
    monkeypatch.setattr(Path, "glob", youngest_first)  # numbers of processes begin anew some day
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port, shared = server.getsockname()[1], [server.fileno()]
        with subprocess.Popen([sys.executable, "-c", "input()"], pass_fds=shared, stdin=subprocess.PIPE) as child:
            holder = find_holder(port)
            child.communicate(b"\n", timeout=30)

    assert str(holder).endswith(f"(pid {os.getpid()})")


def test_the_sentence_says_which_port_who_holds_it_and_what_to_do(listener: int) -> None:
    sentence = str(PortInUse(listener))

    assert f"Port {listener} is in use by" in sentence
    assert f"(pid {os.getpid()})" in sentence
    assert "KIP_PORT_BASE=18400 make up" in sentence


def test_a_port_that_nobody_holds_has_no_holder() -> None:
    assert find_holder(FreePort().number) is None
