"""Prometheus's and Alertmanager's own checkers, from wherever this machine has them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.servers.require import require

PACKAGES = "prometheus prometheus-alertmanager"  # as Debian and Ubuntu name them


def checked(tool: str, *arguments: str | Path, stdin: str = "", within_s: float = 60) -> str:
    """Run `promtool` or `amtool`; return what it says, and raise when it finds fault. Skips a test without the tool."""
    found = shutil.which(tool)
    require(why_missing(tool) if found is None else None)
    run = subprocess.run(
        [str(found), *map(str, arguments)], input=stdin, capture_output=True, text=True, timeout=within_s, check=False
    )
    said = run.stdout + run.stderr
    if run.returncode:
        raise AssertionError(said)
    return said


def why_missing(tool: str) -> str:
    """Say how to get a tool."""
    return f"{tool} is not on the PATH; get it: apt-get install --no-install-recommends {PACKAGES}"
