"""The commands of a laptop: `up`, `down`, `status` and `logs` of a stack that goes on after its launcher ended.

`up` starts everything or leaves nothing; what runs is remembered in `stack.json` of the stack's directory (`.kip/run`
of the checkout). Two commands at a time take turns.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TextIO

from deploy.dev.cache_folder import one_at_a_time
from deploy.dev.log_follower import LogFollower
from deploy.dev.monitoring import why_unwatched
from deploy.dev.orphan_guard import find_start_time
from deploy.dev.problem import disk_full_told, told_in_words
from deploy.dev.process_table import CREATE_TOPICS, PROCESSES, ProcessSpec, fixed_ports, port_base
from deploy.dev.python_process import CHECKOUT
from deploy.dev.server_process import ServerProcess
from deploy.dev.stack import Stack
from deploy.dev.stack_state import RememberedProcess, StackState, find_state
from deploy.dev.terminal import Terminal

STOP_WITHIN_S = 12
ADDRESSES = (
    ("ask for a code (gRPC)", "otp.grpc", "{}"),
    ("dossiers (gRPC)", "dossier.grpc", "{}"),
    ("mails that arrived", "inbox.http", "http://{}/"),
    ("metrics of otp", "otp.http", "http://{}/metrics"),
    ("metrics of mailer", "mailer.http", "http://{}/metrics"),
    ("metrics of dossier", "dossier.http", "http://{}/metrics"),
    ("metrics of lagwatch", "lagwatch.http", "http://{}/metrics"),
    ("rules, alerts, queries", "prometheus", "http://{}/classic/alerts"),
    ("alerts as routed", "alertmanager", "amtool alert query --alertmanager.url=http://{}"),
    ("relay (SMTP)", "inbox.smtp", "{}"),
    ("Kafka", "kafka", "{}"),
    ("Redis", "redis", "redis://{}"),
)


class Laptop:
    """The stack of one directory, on fixed ports.

    Args:
        directory: of the stack.
        terminal: who hears.
        processes, topics, is_watched: as `Stack` takes them.
    """

    def __init__(
        self,
        directory: Path,
        terminal: Terminal,
        processes: Sequence[ProcessSpec] = PROCESSES,
        topics: Sequence[str] = CREATE_TOPICS,
        *,
        is_watched: bool = True,
    ) -> None:
        self._directory = directory.absolute()
        self._state_file = self._directory / "stack.json"
        self._terminal = terminal
        self._processes = processes
        self._topics = topics
        self._is_watched = is_watched

    def up(self) -> int:
        """Start everything and leave it running; say where it answers. Returns the exit code, as all commands do."""
        with self._turn():
            state = find_state(self._state_file)
            if state is not None and any(process.is_alive() for process in state.processes):
                return self._say_already_up(state)
            started = time.monotonic()
            state = self._start()
        self._terminal.line(f"The stack is up after {time.monotonic() - started:.1f} s.")
        if self._is_watched and (missing := why_unwatched()) is not None:
            self._terminal.line(missing)
        self._say_addresses(state)
        return 0

    def down(self) -> int:
        """Stop what runs, services first, and say so."""
        with self._turn():
            state = find_state(self._state_file)
            alive = [process for process in state.processes if process.is_alive()] if state else []
            for group in ([p for p in alive if p.is_service], [p for p in alive if not p.is_service]):
                self._stop(group)
            self._state_file.unlink(missing_ok=True)
        self._terminal.line("The stack is down." if alive else "Nothing was running.")
        return 0

    def status(self) -> int:
        """Say of each process whether it runs; 1 unless all do."""
        state = find_state(self._state_file)
        if state is None:
            self._terminal.line("The stack is down. Start it: make up")
            return 1
        for process in state.processes:
            self._terminal.line(
                f"{process.name:9} {f'runs, pid {process.pid}' if process.is_alive() else 'has stopped'}"
            )
        self._say_addresses(state)
        return 0 if all(process.is_alive() for process in state.processes) else 1

    def logs(self, out: TextIO, ended: threading.Event) -> int:
        """Show all logs as they grow until `ended` is set, Ctrl-C comes, or the reader goes away."""
        folder = self._directory / "logs"
        if not folder.exists():
            self._terminal.line("There are no logs yet. Start the stack: make up")
            return 1
        in_colour = out.isatty() and not os.environ.get("NO_COLOR")  # see no-color.org
        try:
            LogFollower(folder, out, in_colour=in_colour).follow(ended)
        except KeyboardInterrupt:
            return 0
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())  # else the interpreter fails to flush it at its end
        return 0

    def _turn(self) -> AbstractContextManager[None]:
        with disk_full_told(self._directory):
            return one_at_a_time(self._directory / "command.lock", self._terminal, "starting or stopping this stack")

    def _start(self) -> StackState:
        stack = Stack(
            self._directory,
            ports=fixed_ports(port_base()),
            processes=self._processes,
            topics=self._topics,
            is_watched=self._is_watched,
            terminal=self._terminal,
        )
        try:
            stack.start()
            state = StackState(tuple(_remembered(stack, process) for process in stack.processes()), stack.addresses())
            state.write(self._state_file)
            stack.detach()
        except BaseException:
            stack.stop()
            self._terminal.line("What was started is stopped again.")
            raise
        return state

    def _stop(self, group: list[RememberedProcess]) -> None:
        for process in group:
            process.terminate()
        deadline = time.monotonic() + STOP_WITHIN_S
        for process in group:
            by_itself = process.ended_within(deadline)
            how = "stopped" if by_itself else f"did not stop within {STOP_WITHIN_S} s and was killed"
            self._terminal.line(f"{process.name}: {how}")

    def _say_already_up(self, state: StackState) -> int:
        if stopped := [process.name for process in state.processes if not process.is_alive()]:
            self._terminal.line(f"The stack is up, but without {', '.join(stopped)}. Start it anew: make down up")
            return 1
        self._terminal.line("The stack is up already.")
        self._say_addresses(state)
        return 0

    def _say_addresses(self, state: StackState) -> None:
        for what, name, form in ADDRESSES:
            if name in state.addresses:
                self._terminal.line(f"  {what:22}  {form.format(state.addresses[name])}")
        for whose in ("caller", "operator"):
            self._terminal.line(f"  {f'token: {whose}':22}  in {self._directory / 'secrets' / f'{whose}.token'}")
        self._terminal.line("Stop it: make down. Watch it: make logs.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code. A problem is told in words."""
    parser = argparse.ArgumentParser(prog="python -m deploy.dev.stack", description="The stack of a laptop.")
    parser.add_argument("command", choices=("up", "down", "status", "logs"))
    parser.add_argument("--directory", type=Path, default=CHECKOUT / ".kip" / "run", help="data, logs and secrets")
    asked = parser.parse_args(arguments)
    laptop = Laptop(asked.directory, Terminal(sys.stdout))
    commands: dict[str, Callable[[], int]] = {
        "up": laptop.up,
        "down": laptop.down,
        "status": laptop.status,
        "logs": lambda: laptop.logs(sys.stdout, threading.Event()),
    }
    return told_in_words(commands[asked.command])


def _remembered(stack: Stack, process: ServerProcess) -> RememberedProcess:
    return RememberedProcess(
        process.name,
        process.pid,
        find_start_time(process.pid) or "gone",
        stack.is_service(process),
    )
