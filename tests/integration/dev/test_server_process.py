"""Starting, failing, stopping and killing one process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from deploy.dev.ports import FreePort, PortInUse
from deploy.dev.process_table import ProcessSpec
from deploy.dev.python_process import PythonProcess
from deploy.dev.server_process import GaveUp, ServerFailed
from tests.conditions import wait_until
from tests.integration.dev.tiny_stack import TINY
from tests.servers.process_search import processes_of

Make = Callable[..., PythonProcess]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made = []

    def tiny(mood: str = "", ports: dict[str, int] | None = None, spec: ProcessSpec = TINY) -> PythonProcess:
        def values() -> dict[str, str]:
            return process.addresses() | {"kafka": "none", "directory": str(tmp_path)}

        process = PythonProcess(spec, tmp_path / "tiny.log", ports or {}, values, {"TINY_MOOD": mood})
        made.append(process)
        return process

    yield tiny
    for process in made:
        process.kill()
    assert not processes_of(tmp_path)


def guards() -> set[int]:
    """Return the numbers of the guards that this test process started."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = (process / "stat").read_text().rpartition(") ")[2].split()[1]
            if parent == str(os.getpid()) and b"kip-orphan-guard" in (process / "cmdline").read_bytes():
                found.add(int(process.name))
    return found


def test_a_started_process_serves_and_stops_with_its_own_exit_code(make: Make) -> None:
    tiny = make()

    tiny.start()

    assert tiny.is_running
    assert tiny.is_ready()
    assert tiny.stop() == 0
    assert not tiny.is_running


def test_one_that_stops_by_itself_tells_why(make: Make) -> None:
    tiny = make("crashes")

    with pytest.raises(
        ServerFailed, match=r"tiny stopped by itself with exit code 1.*\n.*cannot go on without a purpose"
    ):
        tiny.start()


def test_one_that_finds_no_space_is_told_as_a_full_disk(make: Make, tmp_path: Path) -> None:
    with pytest.raises(ServerFailed, match=rf"No space is left on the disk of {tmp_path}\. Free some"):
        make("full").start()


def test_one_that_does_not_become_ready_is_killed(make: Make) -> None:
    tiny = make("never-ready")
    tiny.start_within_s = 0.5

    with pytest.raises(ServerFailed, match=r"was not ready within 0\.5 s"):
        tiny.start()

    assert not tiny.is_running


def test_one_that_ignores_sigterm_is_killed_after_its_grace(make: Make) -> None:
    tiny = make("stubborn")
    tiny.start()

    code = tiny.terminate(grace_s=0.3)

    assert code == -signal.SIGKILL
    assert not tiny.is_running


def test_a_killed_process_starts_again_on_the_same_port(make: Make) -> None:
    tiny = make()
    tiny.start()
    first, pid = tiny.addresses(), tiny.pid

    tiny.kill()
    tiny.start()

    assert tiny.addresses() == first
    assert tiny.pid != pid


def test_one_that_died_unseen_starts_again_and_has_one_guard(make: Make) -> None:
    before, tiny = guards(), make()
    tiny.start()
    os.kill(tiny.pid, signal.SIGKILL)
    wait_until(lambda: not tiny.is_running, what="its death")

    tiny.start()

    assert len(guards() - before) == 1


def test_a_demanded_port_that_is_taken_is_refused_with_its_holder(make: Make) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]

        with pytest.raises(PortInUse, match=rf"Port {port} is in use by .*\(pid {os.getpid()}\)"):
            make(ports={"tiny.http": port}).start()


def test_a_port_of_our_own_choice_that_was_snatched_is_chosen_anew(make: Make) -> None:
    tiny = make()
    with socket.socket() as thief:
        thief.bind(("127.0.0.1", tiny.port("tiny.http")))
        thief.listen()
        tiny.start()

        assert tiny.port("tiny.http") != thief.getsockname()[1]


def test_a_start_is_broken_off_when_the_launcher_stops(make: Make) -> None:
    tiny, stopping = make("never-ready"), threading.Event()
    stopper = threading.Timer(0.3, stopping.set)
    stopper.start()

    with pytest.raises(GaveUp):
        tiny.start(give_up=stopping)

    assert not tiny.is_running
    stopper.join()


def test_a_process_does_not_outlive_a_starter_that_was_killed(tmp_path: Path) -> None:
    port = FreePort().number
    code = f"""if True:
        import os
        from pathlib import Path
        from deploy.dev.python_process import PythonProcess
        from tests.integration.dev.tiny_stack import TINY
        values = {{"tiny.http": "127.0.0.1:{port}", "kafka": "none", "directory": {str(tmp_path)!r}}}
        log = Path({str(tmp_path / "tiny.log")!r})
        PythonProcess(TINY, log, {{"tiny.http": {port}}}, lambda: values, {{}}).start()
        os.kill(os.getpid(), 9)
    """

    starter = subprocess.run([sys.executable, "-c", code], check=False, timeout=30, capture_output=True)

    assert starter.returncode == -signal.SIGKILL
    wait_until(lambda: not processes_of(tmp_path), what="the end of the orphan and of its guard")
