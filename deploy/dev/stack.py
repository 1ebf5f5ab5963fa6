"""The whole stack of a laptop as one thing that starts in order, and stops in reverse.

    kafka, redis, inbox, alertmanager, prometheus  →  topics  →  otp, mailer, dossier, lagwatch

Each arrow waits: for servers that answer, for topics that exist, for services whose readiness page says 200. Whatever
goes wrong, and whenever Ctrl-C comes, what was started is stopped before the problem is told. `python -m
deploy.dev.stack` runs the commands of `laptop`; demo and tests use the class.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from types import TracebackType
from typing import Self

from deploy.dev.kafka_broker import KafkaBroker
from deploy.dev.key_files import write_secrets
from deploy.dev.monitoring import Alertmanager, Prometheus, why_unwatched
from deploy.dev.problem import disk_full_told, refuse_small_disk
from deploy.dev.process_table import CREATE_TOPICS, PROCESSES, ProcessSpec, filled
from deploy.dev.python_process import CHECKOUT, PythonProcess, python_environment
from deploy.dev.server_process import ServerFailed, ServerProcess, last_lines
from deploy.dev.terminal import Terminal
from deploy.dev.valkey_server import ValkeyServer

NEED_MB = 300  # the first segments, indexes and logs of an evening of playing
TOPICS_WITHIN_S = 60


class Stack:
    """Servers and services of one directory; a context manager that leaves nothing running.

    `stack["mailer"]` is a `ServerProcess`: kill it, terminate it, start it again. Once started, `caller_token` opens
    the APIs, and `operator_token` also what needs a scope.

    Args:
        directory: data, logs and secrets; a later stack on the same directory goes on where this one ended.
        ports: numbers by name (`process_table.OFFSETS`); a name that is not there gets a free port.
        settings: more environment for a process, by its name.
        processes: the Python processes to run.
        topics: module and arguments that create the topics; empty for none.
        is_watched: run Prometheus and Alertmanager too, where they are installed.
        hurry: how many times faster than in a cluster Prometheus looks and judges.
        terminal: who hears what is going on.
    """

    def __init__(
        self,
        directory: Path,
        *,
        ports: Mapping[str, int] | None = None,
        settings: Mapping[str, Mapping[str, str]] | None = None,
        processes: Sequence[ProcessSpec] = PROCESSES,
        topics: Sequence[str] = CREATE_TOPICS,
        is_watched: bool = False,
        hurry: int = 1,
        terminal: Terminal | None = None,
    ) -> None:
        self.directory = directory.absolute()
        self.caller_token = self.operator_token = ""
        self._ports = dict(ports or {})
        self._settings = dict(settings or {})
        self._topics = tuple(topics)
        self._terminal = terminal or Terminal(None)
        self._give_up = threading.Event()
        python = {spec.name: self._python_process(spec) for spec in processes}
        self._servers = [*self._own_servers(), *(python[spec.name] for spec in processes if not spec.is_service)]
        self._services: list[ServerProcess] = [python[spec.name] for spec in processes if spec.is_service]
        if is_watched and why_unwatched() is None:
            self._servers += self._watchers(hurry)
        if unknown := self._settings.keys() - {process.name for process in self.processes()}:
            raise ValueError(f"settings for processes that are not in the stack: {', '.join(sorted(unknown))}")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def __getitem__(self, name: str) -> ServerProcess:
        for process in self.processes():
            if process.name == name:
                return process
        raise KeyError(name)

    def processes(self) -> list[ServerProcess]:
        """Return all processes in the order of their start."""
        return [*self._servers, *self._services]

    def is_service(self, process: ServerProcess) -> bool:
        """Tell our services from the servers they need."""
        return process in self._services

    def addresses(self) -> dict[str, str]:
        """Return `host:port` by name."""
        return {name: address for process in self.processes() for name, address in process.addresses().items()}

    def address(self, name: str) -> str:
        """Return the `host:port` of one name, such as `otp.grpc`, `inbox.http`, `kafka`, `redis`."""
        return self.addresses()[name]

    def log(self, name: str) -> str:
        """Return all that a process has written since the stack was started."""
        return self[name].log_text()

    def start(self) -> None:
        """Start everything in order and wait until it serves.

        Raises:
            LaptopProblem: what is wrong and what to do; nothing is left running.
        """
        try:
            with disk_full_told(self.directory):
                self._prepare()
            self._start_together(self._servers)
            self._create_topics()
            self._start_together(self._services)
        except BaseException:
            self._give_up.set()
            self.stop()
            raise

    def stop(self) -> None:
        """Stop services, then servers; kill what does not stop in its time, and say so."""
        for group in (self._services, self._servers):
            self._stop_together(group)

    def detach(self) -> None:
        """Let all processes outlive this one."""
        for process in self.processes():
            process.release()

    def _own_servers(self) -> list[ServerProcess]:
        kafka = KafkaBroker(
            self.directory / "kafka",
            self._ports.get("kafka"),
            controller_port=self._ports.get("kafka.controller"),
            log=self._log_file("kafka"),
            terminal=self._terminal,
        )
        return [kafka, ValkeyServer(self.directory / "redis", self._ports.get("redis"), log=self._log_file("redis"))]

    def _watchers(self, hurry: int) -> list[ServerProcess]:
        def targets() -> dict[str, str]:
            pages = {service.name: self.address(f"{service.name}.http") for service in self._services}
            return pages | {"alertmanager": self.address("alertmanager")}

        place, ports = self.directory / "monitoring", self._ports
        alertmanager = Alertmanager(
            place / "alertmanager", ports.get("alertmanager"), log=self._log_file("alertmanager")
        )
        prometheus = Prometheus(
            place / "prometheus",
            ports.get("prometheus"),
            log=self._log_file("prometheus"),
            targets=targets,
            hurry=hurry,
        )
        return [alertmanager, prometheus]

    def _python_process(self, spec: ProcessSpec) -> PythonProcess:
        settings = self._settings.get(spec.name, {})
        return PythonProcess(spec, self._log_file(spec.name), self._ports, self._values, settings)

    def _log_file(self, name: str) -> Path:
        return self.directory / "logs" / f"{name}.log"

    def _values(self) -> dict[str, str]:
        addresses = self.addresses()
        numbers = {f"{name}:port": address.rpartition(":")[2] for name, address in addresses.items()}
        return addresses | numbers | {"directory": str(self.directory), "secrets": str(self.directory / "secrets")}

    def _prepare(self) -> None:
        refuse_small_disk(self.directory, NEED_MB, "The stack")
        for old in self.directory.glob("logs/*.log"):
            old.unlink()
        tokens = write_secrets(self.directory / "secrets")
        self.caller_token, self.operator_token = tokens.portal, tokens.operator
        self["kafka"].prepare()  # in this thread: Ctrl-C can break off a download

    def _start_together(self, group: Sequence[ServerProcess]) -> None:
        started = time.monotonic()

        def finish(process: ServerProcess) -> None:
            self._terminal.line(f"{process.name}: ready after {time.monotonic() - started:.1f} s")

        def start(process: ServerProcess) -> None:
            process.start(give_up=self._give_up)

        self._together(group, start, finish, self._give_up.set)

    def _stop_together(self, group: Sequence[ServerProcess]) -> None:
        def stop(process: ServerProcess) -> None:
            if process.is_running and process.stop() == -9:
                self._terminal.line(f"{process.name}: did not stop within {process.stop_within_s:g} s and was killed")

        self._together(group, stop, lambda _: None, self._kill_all)

    def _together(
        self,
        group: Sequence[ServerProcess],
        act: Callable[[ServerProcess], None],
        finish: Callable[[ServerProcess], None],
        break_off: Callable[[], None],
    ) -> None:
        if not group:
            return
        with ThreadPoolExecutor(len(group)) as threads:
            try:
                acts = {threads.submit(act, process): process for process in group}
                for done in as_completed(acts):
                    done.result()
                    finish(acts[done])
            except BaseException:
                break_off()
                raise

    def _kill_all(self) -> None:
        for process in self.processes():
            process.kill()

    def _create_topics(self) -> None:
        if not self._topics:
            return
        command = [sys.executable, "-m", *(filled(argument, self._values()) for argument in self._topics)]
        log = self._log_file("topics")
        try:
            with log.open("ab") as out:
                subprocess.run(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    env=python_environment({}),
                    cwd=CHECKOUT,
                    timeout=TOPICS_WITHIN_S,
                    check=True,
                )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as failed:
            raise ServerFailed(f"The topics could not be created. The end of {log}:\n{last_lines(log)}") from failed


if __name__ == "__main__":
    from deploy.dev.laptop import main

    sys.exit(main())
