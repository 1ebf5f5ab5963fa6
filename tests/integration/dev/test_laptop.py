"""`up`, `status`, `logs` and `down`: a stack that outlives its launcher and goes when told."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.dev.laptop import Laptop, main
from deploy.dev.orphan_guard import find_start_time
from deploy.dev.ports import PortInUse
from deploy.dev.process_table import OFFSETS
from deploy.dev.terminal import Terminal
from tests.conditions import wait_until
from tests.integration.dev.tiny_stack import free_base, tiny_laptop
from tests.servers.process_search import processes_of


class Told:
    """The commands, and what they said."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.said = io.StringIO()
        self.laptop: Laptop = tiny_laptop(directory, Terminal(self.said))

    def up(self) -> subprocess.CompletedProcess[str]:
        """Run `up` as a person does, in a launcher that ends."""
        command = [sys.executable, "-m", "tests.integration.dev.tiny_stack", "up", str(self.directory)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def take(self) -> str:
        text = self.said.getvalue()
        self.said.seek(0)
        self.said.truncate()
        return text


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Told]:
    base = free_base()
    monkeypatch.setenv("KIP_PORT_BASE", str(base.number))
    told = Told(tmp_path)
    yield told
    told.laptop.down()
    wait_until(lambda: not processes_of(tmp_path), what="the end of every process")
    base.give_back()


def remembered(told: Told) -> dict[str, int]:
    state = json.loads((told.directory / "stack.json").read_text())
    return {process["name"]: process["pid"] for process in state["processes"]}


def test_what_is_up_outlives_its_launcher_and_down_ends_it(told: Told) -> None:
    started = told.up()
    running = remembered(told)
    status = told.laptop.status()
    told.take()
    down = told.laptop.down()

    assert started.returncode == 0, started.stderr
    assert f"Kafka                   127.0.0.1:{int(os.environ['KIP_PORT_BASE']) + OFFSETS['kafka']}" in started.stdout
    assert "Stop it: make down" in started.stdout
    assert list(running) == ["kafka", "redis", "tiny"]
    assert (status, down) == (0, 0)
    lines = told.take().splitlines()
    assert lines[0] == "tiny: stopped"
    assert sorted(lines[1:]) == ["The stack is down.", "kafka: stopped", "redis: stopped"]
    assert not processes_of(told.directory)


def test_up_when_up_says_so_and_starts_nothing(told: Told) -> None:
    told.up()
    before = remembered(told)

    again = told.up()

    assert again.returncode == 0
    assert again.stdout.startswith("The stack is up already.\n")
    assert remembered(told) == before


def test_a_process_that_died_is_named_by_status_and_by_up(told: Told) -> None:
    told.up()
    os.kill(remembered(told)["tiny"], signal.SIGKILL)
    wait_until(lambda: find_start_time(remembered(told)["tiny"]) is None)

    status, up = told.laptop.status(), told.laptop.up()

    assert (status, up) == (1, 1)
    assert "tiny      has stopped\n" in told.said.getvalue()
    assert told.said.getvalue().endswith("The stack is up, but without tiny. Start it anew: make down up\n")


def test_down_when_down_is_fine(told: Told) -> None:
    assert told.laptop.down() == 0
    assert told.take() == "Nothing was running.\n"
    assert told.laptop.status() == 1


def test_down_spares_a_stranger_that_got_the_number_of_ours(told: Told) -> None:
    stranger = {"name": "otp", "pid": os.getpid(), "started": "1", "is_service": True}
    (told.directory / "stack.json").write_text(json.dumps({"processes": [stranger], "addresses": {}}))

    told.laptop.down()  # or this test run would end here

    assert told.take() == "Nothing was running.\n"


def test_a_taken_port_is_told_and_nothing_is_left_running(told: Told) -> None:
    port = int(os.environ["KIP_PORT_BASE"]) + OFFSETS["redis"]
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", port))
        holder.listen()

        with pytest.raises(PortInUse, match=rf"Port {port} is in use by .*\(pid {os.getpid()}\)"):
            told.laptop.up()

    assert not processes_of(told.directory)
    assert told.laptop.status() == 1


def test_what_was_stored_is_there_after_down_and_up(told: Told) -> None:
    told.up()
    token = (told.directory / "secrets" / "caller.token").read_text()
    meta = (told.directory / "kafka" / "data" / "meta.properties").stat().st_ino
    told.laptop.down()

    told.up()

    assert (told.directory / "secrets" / "caller.token").read_text() == token
    assert (told.directory / "kafka" / "data" / "meta.properties").stat().st_ino == meta


def test_logs_show_every_process_until_told_to_end(told: Told) -> None:
    (told.directory / "logs").mkdir()
    for name in ("otp", "mailer"):
        (told.directory / "logs" / f"{name}.log").write_text(f"{name} is ready\n")
    out, ended = io.StringIO(), threading.Event()
    ended.set()

    code = told.laptop.logs(out, ended)

    assert code == 0
    assert out.getvalue() == "mailer   | mailer is ready\notp      | otp is ready\n"


def test_logs_end_quietly_when_their_reader_goes_away(told: Told) -> None:
    log = told.directory / "logs" / "otp.log"
    log.parent.mkdir()
    log.write_text("otp is ready\n")
    command = [sys.executable, "-m", "deploy.dev.stack", "logs", "--directory", str(told.directory)]

    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as logs:
        assert logs.stdout is not None
        assert logs.stderr is not None
        first = logs.stdout.readline()
        logs.stdout.close()
        with log.open("ab", buffering=0) as writer:
            wait_until(lambda: writer.write(b"more\n") and logs.poll() is not None, within_s=20)
        errors = logs.stderr.read()

    assert first == b"otp      | otp is ready\n"
    assert (logs.returncode, errors) == (0, b"")


def test_without_logs_one_is_told_how_to_get_some(told: Told) -> None:
    assert told.laptop.logs(io.StringIO(), threading.Event()) == 1
    assert told.take() == "There are no logs yet. Start the stack: make up\n"


def test_a_problem_is_one_sentence_and_exit_code_1(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "stack.json").write_text("not ours")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}

    code = main(["status", "--directory", str(tmp_path)])

    for number, handler in handlers.items():
        signal.signal(number, handler)
    assert code == 1
    assert "cannot be read" in capsys.readouterr().err
