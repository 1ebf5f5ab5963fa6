"""What `up` remembers: whole, or told to be damaged; never somebody else's process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.dev.orphan_guard import find_start_time
from deploy.dev.problem import LaptopProblem
from deploy.dev.stack_state import RememberedProcess, StackState, find_state


def myself(started: str | None = None) -> RememberedProcess:
    return RememberedProcess("pytest", os.getpid(), started or find_start_time(os.getpid()) or "", is_service=True)


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    state = StackState((myself(),), {"kafka": "127.0.0.1:17460"})

    state.write(tmp_path / "stack.json")

    assert find_state(tmp_path / "stack.json") == state
    assert [file.name for file in tmp_path.iterdir()] == ["stack.json"]


def test_without_a_file_there_is_no_state(tmp_path: Path) -> None:
    assert find_state(tmp_path / "stack.json") is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"processes": [{"name": "otp"}], "addresses": {}}'])
def test_a_damaged_file_is_told_and_not_guessed_at(text: str, tmp_path: Path) -> None:
    (tmp_path / "stack.json").write_text(text)

    with pytest.raises(LaptopProblem, match=r"cannot be read.*delete the file"):
        find_state(tmp_path / "stack.json")


def test_a_process_that_runs_is_alive() -> None:
    assert myself().is_alive()


def test_a_process_that_got_the_number_of_ours_is_not_ours() -> None:
    stranger = myself(started="1")

    stranger.terminate()  # or this test run would end here

    assert not stranger.is_alive()


def test_a_process_that_ended_is_not_alive_even_before_its_parent_looked() -> None:
    ended = subprocess.Popen([sys.executable, "-c", "pass"], stdout=subprocess.PIPE)
    remembered = RememberedProcess("brief", ended.pid, find_start_time(ended.pid) or "", is_service=False)
    with ended:
        ended.communicate()  # its output ended, so it did; it is a zombie at most

    assert not remembered.is_alive()
