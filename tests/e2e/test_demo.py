"""The demo as a stranger runs it: it ends with its line, or says what is wrong, and leaves nothing running."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from deploy.dev.python_process import CHECKOUT, python_environment
from tests.conditions import wait_until
from tests.servers.process_search import processes_of

ENDS_WITHIN_S = 150.0
LAST_LINE = re.compile(r"demo: code delivered and verified in \d+\.\d\d s")

pytestmark = pytest.mark.timeout(240)


@contextmanager
def demo(folder: Path, to: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run the demo; its words go to `out` and `err` of the folder."""
    command = [sys.executable, "-m", "deploy.dev.demo", "--to", to, "--directory", str(folder / "demo")]
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        running = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=python_environment({}), cwd=CHECKOUT
        )
        try:
            yield running
        finally:
            running.kill()
            running.wait()


def left_of(folder: Path) -> set[int]:
    """Return the processes that name the folder, or work in it: Redis writes over its own command line."""
    found = set(processes_of(folder))
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile
            if (process / "cwd").readlink().is_relative_to(folder):
                found.add(int(process.name))
    return found


def wait_until_all_are_gone(folder: Path) -> None:
    """Wait for the last process of the demo to go; a guard needs a moment to see that its server did."""
    wait_until(lambda: not left_of(folder / "demo"), within_s=15, what="every process is gone")


def test_the_demo_shows_the_mail_accepts_its_code_once_and_ends_with_its_line(tmp_path: Path) -> None:
    with demo(tmp_path, "lan@example.vn") as running:
        exit_code = running.wait(ENDS_WITHIN_S)

    told, err = (tmp_path / "out").read_text(), (tmp_path / "err").read_text()
    assert (exit_code, err) == (0, ""), told
    assert LAST_LINE.fullmatch(told.splitlines()[-1])
    assert "To:      lan@example.vn" in told
    code, *_ = re.findall(r"Mã xác nhận của bạn: (\d{6}) ", told)
    assert re.findall(r"(\d{6})  →  (\w+)", told) == [(code, "accepted"), (code, "used")]
    assert told.count("joined: the same letter") == 1
    assert told.count("✉  [K01-") == 2
    happened = ["asked for", "written down", "in the mailbox", "handed over", "verified"]
    assert re.findall("|".join(happened), told.partition("and when")[2].partition("Stopping")[0]) == happened
    assert "\x1b" not in told
    wait_until_all_are_gone(tmp_path)


def test_a_bad_address_gets_the_words_of_the_service(tmp_path: Path) -> None:
    with demo(tmp_path, "lan at example") as running:
        exit_code = running.wait(ENDS_WITHIN_S)

    told = (tmp_path / "err").read_text()
    assert exit_code == 1
    assert "email: không phải địa chỉ thư hợp lệ" in told
    assert "looks like lan@example.vn" in told
    assert "Traceback" not in told
    wait_until_all_are_gone(tmp_path)


def test_ctrl_c_in_the_middle_of_the_start_leaves_nothing_running(tmp_path: Path) -> None:
    with demo(tmp_path, "lan@example.vn") as running:
        wait_until(
            lambda: "kafka: ready" in (tmp_path / "out").read_text(), within_s=ENDS_WITHIN_S, what="a start half way"
        )
        started = left_of(tmp_path / "demo") - {running.pid}
        running.send_signal(signal.SIGINT)
        exit_code = running.wait(ENDS_WITHIN_S)

    assert len(started) >= 3
    assert exit_code == 130
    assert "nothing was left running" in (tmp_path / "err").read_text()
    wait_until_all_are_gone(tmp_path)
