"""What every process of the laptop has in common: it is started, awaited, stopped or killed, and started again.

A server runs in a session of its own (Ctrl-C reaches only the launcher, which then stops it in order), writes to one
log file, and is ready when it says so. Its ports are demanded, or chosen free and kept through restarts.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from deploy.dev.orphan_guard import OrphanGuard
from deploy.dev.ports import FreePort, PortInUse, is_free
from deploy.dev.problem import LaptopProblem, disk_full_told, is_full, no_space

LOOK_EVERY_S = 0.02
PORT_ATTEMPTS = 3  # a port that we chose ourselves may be taken between the choice and the start
TOLD_LINES = 20


def last_lines(log: Path) -> str:
    """Return the end of a log, for a person who asks why its writer failed."""
    text = log.read_text(errors="replace") if log.exists() else ""
    return "\n".join(text.splitlines()[-TOLD_LINES:])


class ServerFailed(LaptopProblem):
    """A server stopped by itself or did not become ready; the text ends with the last lines of its log."""


class GaveUp(Exception):
    """A start was broken off because the launcher is stopping."""


class ServerProcess:
    """One process; subclasses say how it is run and when it is ready.

    Args:
        name: what people call it; names its log.
        log: the file its output is added to.
        ports: each port's name and number; None for a free one, chosen at the first start and kept.
        start_within_s: from the start of the process to its readiness.
        stop_within_s: what it gets after SIGTERM before it is killed.
    """

    def __init__(
        self,
        name: str,
        log: Path,
        ports: Mapping[str, int | None],
        *,
        start_within_s: float = 60,
        stop_within_s: float = 12,
    ) -> None:
        self.name = name
        self.log = log
        self.start_within_s = start_within_s
        self.stop_within_s = stop_within_s
        self._wanted_ports = dict(ports)
        self._free_ports: dict[str, FreePort] = {}
        self._has_been_ready = False
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: OrphanGuard | None = None

    def prepare(self) -> None:
        """Do what must be done before a start, such as writing configuration; called before each."""

    def command(self) -> list[str]:
        """Return the program and its arguments."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """Return the process's whole environment; the launcher's own unless overridden."""
        return dict(os.environ)

    def user(self) -> str | None:
        """Return the user to run as; None for the launcher's own."""
        return None

    def working_directory(self) -> Path | None:
        """Return where to run; None for the launcher's own folder."""
        return None

    def is_ready(self) -> bool:
        """Look once, for less than a second, whether it serves."""
        raise NotImplementedError

    def port(self, name: str) -> int:
        """Return a port's number; a free one is chosen now if it was not yet."""
        demanded = self._wanted_ports[name]
        if demanded is not None:
            return demanded
        if name not in self._free_ports:
            self._free_ports[name] = FreePort()
        return self._free_ports[name].number

    def addresses(self) -> dict[str, str]:
        """Return each port's name and its `host:port`."""
        return {name: f"127.0.0.1:{self.port(name)}" for name in self._wanted_ports}

    @property
    def pid(self) -> int:
        """The number of the running process, which also leads its process group.

        Raises:
            LookupError: it was never started.
        """
        if self._process is None:
            raise LookupError(f"{self.name} was never started")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process lives, ready or not."""
        return self._process is not None and self._process.poll() is None

    def start(self, *, give_up: threading.Event | None = None) -> None:
        """Start it and wait until it is ready; a start that fails leaves no process.

        Args:
            give_up: once set, the start is broken off.

        Raises:
            PortInUse: a demanded port, or a port of an earlier start, is taken.
            ServerFailed: it ended by itself, or was not ready in time.
            LaptopProblem: the disk is full.
            GaveUp: `give_up` was set.
        """
        may_choose_again = not self._has_been_ready and None in self._wanted_ports.values()
        for attempts_left in reversed(range(PORT_ATTEMPTS if may_choose_again else 1)):
            try:
                self._start_once(give_up or threading.Event())
            except PortInUse as taken:
                if not attempts_left or taken.port in self._wanted_ports.values():
                    raise
                self._choose_ports_anew()
            else:
                self._has_been_ready = True
                return

    def terminate(self, *, grace_s: float | None = None) -> int:
        """Send SIGTERM, wait, kill what is left after the grace; return the exit code (-9 when it had to be killed)."""
        if self._process is None:
            return 0
        if self.is_running:
            self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(self.stop_within_s if grace_s is None else grace_s)
        self.kill()
        return self._process.returncode

    def kill(self) -> None:
        """End the process and its group at once, as a power cut would; safe when it does not run."""
        if self._process is None:
            return
        if self.is_running:
            with suppress(ProcessLookupError):  # another thread saw its end a moment before
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self.release()

    def stop(self) -> int:
        """Terminate it with its own grace; return the exit code. It may be started again, on the same ports."""
        return self.terminate()

    def release(self) -> None:
        """Let the process outlive this one: from now on nothing ends it when this process dies."""
        if self._guard is not None:
            self._guard.release()

    def log_text(self) -> str:
        """Return all it has written so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def _start_once(self, give_up: threading.Event) -> None:
        if self.is_running:
            raise RuntimeError(f"{self.name} is running already")
        self.release()  # the guard of an earlier process that ended by itself
        with disk_full_told(self.log):
            self.prepare()
            self._refuse_taken_ports()
            try:
                with ThreadPoolExecutor(1) as apart:  # a thread: Ctrl-C cannot part the process from its guard
                    apart.submit(self._spawn).result()
                self._wait_until_ready(give_up)
            except BaseException:
                self.kill()
                raise

    def _spawn(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment(),
                cwd=self.working_directory(),
                user=self.user(),
                group=self.user(),
                extra_groups=None if self.user() is None else [],
                start_new_session=True,
            )
        self._guard = OrphanGuard(self._process.pid)

    def _wait_until_ready(self, give_up: threading.Event) -> None:
        deadline = time.monotonic() + self.start_within_s
        while not self.is_ready():
            if give_up.wait(LOOK_EVERY_S):
                raise GaveUp
            if not self.is_running:
                self._refuse_taken_ports()
                raise ServerFailed(
                    self._story(f"stopped by itself with exit code {self._exit_code()}, before it was ready")
                )
            if time.monotonic() > deadline:
                raise ServerFailed(self._story(f"was not ready within {self.start_within_s:g} s"))

    def _exit_code(self) -> int | None:
        return None if self._process is None else self._process.returncode

    def _story(self, what_happened: str) -> str:
        last = last_lines(self.log)
        full = os.strerror(errno.ENOSPC) in last or is_full(self.log.parent)
        advice = f"\n{no_space(self.log.parent)}" if full else ""
        return f"{self.name} {what_happened}. The end of {self.log}:\n{last}{advice}"

    def _refuse_taken_ports(self) -> None:
        for name in self._wanted_ports:
            if not is_free(self.port(name)):
                raise PortInUse(self.port(name))

    def _choose_ports_anew(self) -> None:
        for port in self._free_ports.values():
            port.give_back()
        self._free_ports.clear()
