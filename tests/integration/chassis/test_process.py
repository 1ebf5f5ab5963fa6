"""How a process lives and ends: exit codes, order, and patience with signals."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conditions import wait_until

ROOT = Path(__file__).parents[3]
WITHIN_S = 30


class Tiny:
    """One process of `tiny_process.py`; what it writes goes to a file."""

    def __init__(self, mode: str, log: Path) -> None:
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.integration.chassis.tiny_process", mode],
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def comes_up(self) -> None:
        """Wait until it says so."""
        wait_until(lambda: "up" in self.words(), within_s=WITHIN_S, what="it is up")

    def asked(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def ends(self, within_s: float = WITHIN_S) -> int:
        """Return the exit code, which must come in time."""
        return self._process.wait(within_s)

    def words(self) -> list[str]:
        """Return what it said to the test."""
        return [line for line in self._lines() if not line.startswith("{")]

    def events(self) -> list[dict[str, Any]]:
        """Return what it logged."""
        return [json.loads(line) for line in self._lines() if line.startswith("{")]

    def kill(self) -> None:
        """End it, if it has not ended."""
        self._process.kill()
        self._process.wait()

    def _lines(self) -> list[str]:
        return [line for line in self._log.read_text().split("\n")[:-1] if line]


@pytest.fixture
def tiny(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tiny]:
    process = Tiny(request.param, tmp_path / "tiny.log")
    yield process
    process.kill()


def doing(*modes: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("tiny", modes, indirect=True)


@doing("serve", "lingering-thread")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_that_is_asked_to_stop_closes_everything_and_ends_with_0(tiny: Tiny, number: signal.Signals) -> None:
    tiny.comes_up()

    tiny.asked(number)

    assert tiny.ends() == 0
    assert tiny.words() == ["up", "closed"]
    assert [event["event"] for event in tiny.events()] == ["process_stopping", "process_stopped"]
    assert tiny.events()[0]["signal"] == number.name


@doing("collected")
def test_what_was_loaded_to_serve_is_no_work_for_the_garbage_collector(tiny: Tiny) -> None:
    wait_until(lambda: len(tiny.words()) > 1, within_s=WITHIN_S, what="it serves")

    assert tiny.words() == ["up", "spared"]


@doing("wait")
def test_a_process_that_still_waits_for_a_dependency_ends_at_once_with_0(tiny: Tiny) -> None:
    tiny.comes_up()
    wait_until(lambda: any(event["event"] == "not_there_yet" for event in tiny.events()), within_s=WITHIN_S)
    asked = time.monotonic()

    tiny.asked()

    assert tiny.ends() == 0
    assert time.monotonic() - asked < 4, "it did not wait out its pause"
    assert tiny.words() == ["up", "closed"]
    assert tiny.events()[-1]["event"] == "process_stopped"


@doing("drain")
def test_a_process_ends_when_its_work_in_hand_has_ended(tiny: Tiny) -> None:
    tiny.comes_up()

    tiny.asked()

    assert tiny.ends() == 0
    assert tiny.words() == ["up", "closed"]


@doing("deaf-part")
def test_a_process_whose_part_misses_its_cancellation_ends_all_the_same(tiny: Tiny) -> None:
    tiny.comes_up()

    tiny.asked()

    assert tiny.ends() == 0
    assert tiny.words() == ["up", "closed"]


@doing("hang")
def test_a_second_signal_ends_a_process_at_once(tiny: Tiny) -> None:
    tiny.comes_up()
    tiny.asked()
    wait_until(lambda: any(event["event"] == "process_stopping" for event in tiny.events()), within_s=WITHIN_S)
    asked = time.monotonic()

    tiny.asked()

    assert tiny.ends() == 130
    assert time.monotonic() - asked < 4
    assert tiny.words() == ["up"], "it closed nothing"
    assert tiny.events()[-1]["event"] == "process_hurried"


@doing("part-fails", "part-ends", "start-fails")
def test_a_process_whose_part_fails_closes_the_rest_and_ends_with_1(tiny: Tiny) -> None:
    assert tiny.ends() == 1

    assert tiny.words()[-1] == "closed"
    last = tiny.events()[-1]
    assert (last["event"], last["level"]) == ("process_failed", "error")
    assert any(
        told in last["exception"]
        for told in ("ZeroDivisionError: a bug of a part", "a part ended by itself", "is the port in use?")
    )


@doing("close-fails")
def test_a_process_that_cannot_close_says_so_with_1(tiny: Tiny) -> None:
    tiny.comes_up()

    tiny.asked()

    assert tiny.ends() == 1
    assert "cannot close" in tiny.events()[-1]["exception"]
