"""A venv for what only the benchmark needs, below `.kip`: `requirements.lock` of this folder, every package by hash.

The service's own environment stays as it is, so that nothing measured can come to depend on what measures it.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from deploy.dev.environment import configured_for_uv, read_pip_config
from deploy.dev.problem import LaptopProblem

CHECKOUT = Path(__file__).resolve().parents[1]
LOCK = Path(__file__).with_name("requirements.lock")
VENV = CHECKOUT / ".kip" / "bench" / "venv"
INSTALL_WITHIN_S = 600


def bench_program(name: str) -> str:
    """Return the path of a program of the venv, such as `gunicorn` or `py-spy`."""
    return str(VENV / "bin" / name)


def make_environment() -> None:
    """Bring the venv to what the lock says; return at once when it is.

    Raises:
        LaptopProblem: an installer failed; the text ends with what it said.
    """
    stamp = VENV / ".kip-stamp"
    wanted = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    uv = Path(sys.executable).with_name("uv")
    python = ("--python", bench_program("python"))
    _run([str(uv), "venv", "--quiet", "--clear", "--python", sys.executable, str(VENV)])
    _run([str(uv), "pip", "sync", "--quiet", "--require-hashes", *python, str(LOCK)])
    stamp.write_text(wanted)


def _run(command: list[str]) -> None:
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    configured = configured_for_uv(read_pip_config(listed.stdout))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kip" / "uv"
    environment = {**configured, "UV_CACHE_DIR": str(cache), **os.environ}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=INSTALL_WITHIN_S, check=False
    )
    if done.returncode:
        raise LaptopProblem(f"The environment of the benchmark could not be made:\n{done.stderr[-2000:]}")
