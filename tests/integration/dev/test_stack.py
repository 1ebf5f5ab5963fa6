"""The stack as demo and tests use it: in order, restartable, and gone at the end whatever happens."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.dev.server_process import ServerFailed
from deploy.dev.stack import Stack
from deploy.dev.terminal import Terminal
from tests.conditions import wait_until
from tests.integration.dev.tiny_stack import TINY, tiny_stack
from tests.servers.process_search import processes_of


def settings_seen_by(stack: Stack) -> dict[str, str]:
    with urllib.request.urlopen(f"http://{stack.address('tiny.http')}/settings", timeout=5) as page:
        seen: dict[str, str] = json.load(page)
    return seen


def test_everything_runs_within_and_nothing_after(tmp_path: Path) -> None:
    said = io.StringIO()

    with tiny_stack(tmp_path, Terminal(said), TINY_EXTRA="more") as stack:
        running = [process.name for process in stack.processes() if process.is_running]
        seen = settings_seen_by(stack)
        tokens = {"caller": stack.caller_token, "operator": stack.operator_token}

    assert running == ["kafka", "redis", "tiny"]
    assert seen["TINY_KAFKA"] == stack.address("kafka")
    assert seen["TINY_PLACE"] == str(tmp_path)
    assert seen["TINY_EXTRA"] == "more"
    assert tokens == {whose: (tmp_path / "secrets" / f"{whose}.token").read_text() for whose in tokens}
    assert [line.partition(":")[0] for line in said.getvalue().splitlines()][-1] == "tiny"
    assert not processes_of(tmp_path)


def test_each_process_can_be_killed_or_terminated_and_comes_back(tmp_path: Path) -> None:
    with tiny_stack(tmp_path) as stack:
        addresses = stack.addresses()
        stack["kafka"].kill()
        stack["redis"].kill()
        code = stack["tiny"].terminate(grace_s=5)
        for name in ("kafka", "redis", "tiny"):
            stack[name].start()

        assert stack.addresses() == addresses
        assert settings_seen_by(stack)["TINY_KAFKA"] == addresses["kafka"]
        assert "GET /settings" in stack.log("tiny")
    assert code == 0
    assert not processes_of(tmp_path)


def test_two_stacks_run_side_by_side(tmp_path: Path) -> None:
    with tiny_stack(tmp_path / "one") as one, tiny_stack(tmp_path / "two") as two:
        assert not set(one.addresses().values()) & set(two.addresses().values())
        assert settings_seen_by(one)["TINY_KAFKA"] != settings_seen_by(two)["TINY_KAFKA"]

    assert not processes_of(tmp_path)


def test_a_service_that_fails_is_told_with_its_last_words_and_takes_everything_down(tmp_path: Path) -> None:
    with (
        pytest.raises(ServerFailed, match=r"tiny stopped by itself.*\n.*cannot go on without a purpose"),
        tiny_stack(tmp_path, TINY_MOOD="crashes"),
    ):
        pytest.fail("the stack must not start")

    assert not processes_of(tmp_path)


def test_topics_that_cannot_be_created_are_told_with_the_reason(tmp_path: Path) -> None:
    topics = ("tests.integration.dev.no_such_module", "{kafka}")

    with (
        pytest.raises(ServerFailed, match=r"topics could not be created.*\n.*No module named .*no_such_module"),
        Stack(tmp_path, processes=(), topics=topics),
    ):
        pytest.fail("the stack must not start")

    assert not processes_of(tmp_path)


def test_a_service_that_ignores_sigterm_is_killed_and_that_is_said(tmp_path: Path) -> None:
    said = io.StringIO()

    with tiny_stack(tmp_path, Terminal(said), TINY_MOOD="stubborn") as stack:
        stack["tiny"].stop_within_s = 0.3

    assert said.getvalue().splitlines()[-1] == "tiny: did not stop within 0.3 s and was killed"
    assert not processes_of(tmp_path)


def test_settings_for_a_process_that_is_not_there_are_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mialer"):
        Stack(tmp_path, processes=(TINY,), settings={"mialer": {"MAILER_SLOTS": "2"}})


MOMENTS: dict[str, Callable[[Path, str], bool]] = {
    "at the first process": lambda folder, _said: len(processes_of(folder)) > 1,
    "between the servers": lambda _folder, said: "redis: ready" in said,
    "before the service is ready": lambda _folder, said: "kafka: ready" in said,
    "when all is up": lambda _folder, said: "\nup\n" in said,
}


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        *((signal.SIGINT, moment) for moment in MOMENTS),
        (signal.SIGKILL, "at the first process"),
        (signal.SIGKILL, "when all is up"),
    ],
)
def test_a_launcher_that_is_ended_at_any_moment_leaves_nothing(number: int, moment: str, tmp_path: Path) -> None:
    said = tmp_path / "said.txt"
    with said.open("wb") as out:
        launcher = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.dev.tiny_stack", "stack", str(tmp_path)],
            stdout=out,
            stderr=out,
        )
    wait_until(lambda: MOMENTS[moment](tmp_path, said.read_text()), within_s=60, what=moment)

    launcher.send_signal(number)
    launcher.wait(timeout=60)

    assert launcher.returncode != 0
    wait_until(lambda: not processes_of(tmp_path), within_s=30, what="the end of every process")
