"""A Python process of the stack, as `process_table` describes it: ready when its http port answers 200."""

from __future__ import annotations

import http.client
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from deploy.dev.process_table import ProcessSpec, filled
from deploy.dev.server_process import ServerProcess

CHECKOUT = Path(__file__).resolve().parents[2]
LOOK_WITHIN_S = 0.8


def python_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Return the launcher's environment with our modules on the path, log lines unbuffered, and `extra` on top."""
    path = os.pathsep.join((str(CHECKOUT / "protos"), str(CHECKOUT)))
    # Compiled modules are kept whatever the caller prefers: without them every process of a stack costs a second more.
    ours = {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": ""}
    return dict(os.environ) | ours | dict(extra)


class PythonProcess(ServerProcess):
    """One process of the table.

    Args:
        spec: what to run.
        log: where its output goes.
        ports: demanded numbers by full name; a name that is not there gets a free port.
        values: asked at each start for what the `{names}` of the spec stand for.
        settings: environment on top of the spec's.
    """

    def __init__(
        self,
        spec: ProcessSpec,
        log: Path,
        ports: Mapping[str, int],
        values: Callable[[], Mapping[str, str]],
        settings: Mapping[str, str],
    ) -> None:
        super().__init__(spec.name, log, {name: ports.get(name) for name in spec.port_names()})
        self._spec = spec
        self._values = values
        self._settings = settings

    def command(self) -> list[str]:
        """Run the module with this interpreter."""
        arguments = [filled(argument, self._values()) for argument in self._spec.arguments]
        return [sys.executable, "-m", self._spec.module, *arguments]

    def environment(self) -> dict[str, str]:
        """Return the launcher's environment, the spec's, and the settings, later ones winning."""
        values = self._values()
        ours = {name: filled(value, values) for name, value in self._spec.environment.items()}
        return python_environment(ours | dict(self._settings))

    def working_directory(self) -> Path:
        """Run in the checkout, where the modules are."""
        return CHECKOUT

    def is_ready(self) -> bool:
        """Ask its readiness page."""
        page = http.client.HTTPConnection("127.0.0.1", self.port(f"{self.name}.http"), timeout=LOOK_WITHIN_S)
        try:
            page.request("GET", self._spec.ready_path)
            return page.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            page.close()
