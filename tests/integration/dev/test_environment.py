"""Making `.venv` for a made-up project, without any network: its index is a folder of wheels that this test writes."""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import stat
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.dev import environment
from deploy.dev.ports import FreePort

FAKE_UV_THAT_WORKS = """#!/bin/sh
env | grep ^UV_ >> "{notes}"
exec "$(dirname "$0")/python" -m pip install --quiet --no-deps --no-index --find-links "$UV_FIND_LINKS" probe==1.0
"""
FAKE_UV_THAT_FAILS = """#!/bin/sh
echo "error: this machine is not for me" >&2
exit 2
"""
BACKEND = """
import zipfile
def build_editable(folder, settings=None, metadata=None):
    name = "demo-1.0-py3-none-any.whl"
    with zipfile.ZipFile(f"{folder}/{name}", "w") as wheel:
        wheel.writestr("demo-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: demo\\nVersion: 1.0\\n")
        wheel.writestr("demo-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("demo-1.0.dist-info/RECORD", "")
    return name
"""


@dataclass(frozen=True, slots=True)
class Checkout:
    """A project of one file, its wheels, and the way to run the maker in it."""

    folder: Path
    wheels: Path
    notes: Path

    def add_wheel(self, name: str, script: str | None = None) -> str:
        """Write a wheel and return its line for a lock."""
        file = self.wheels / f"{name}-1.0-py3-none-any.whl"
        info = f"{name}-1.0.dist-info"
        with zipfile.ZipFile(file, "w") as wheel:
            wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")
            if script is None:
                wheel.writestr(f"{name}.py", "")
            else:
                program = zipfile.ZipInfo(f"{name}-1.0.data/scripts/{name}")
                program.external_attr = (stat.S_IFREG | 0o755) << 16
                wheel.writestr(program, script)
        return f"{name}==1.0 \\\n    --hash=sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}\n"

    def lock(self, *entries: str) -> None:
        (self.folder / "requirements.lock").write_text("# a lock\n" + "".join(entries))

    def make(self, **more: str) -> subprocess.CompletedProcess[str]:
        without_index = {
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.wheels),
            "XDG_CACHE_HOME": str(self.folder / "cache"),
        }
        command = [sys.executable, str(self.folder / "deploy" / "dev" / "environment.py")]
        variables = os.environ | without_index | more
        return subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=90)

    def has(self, module: str) -> bool:
        command = [str(self.folder / ".venv" / "bin" / "python"), "-c", f"import {module}"]
        return subprocess.run(command, capture_output=True, check=False, timeout=30).returncode == 0


@pytest.fixture(scope="module")
def bare_venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty environment to copy: making one takes seconds."""
    folder = tmp_path_factory.mktemp("bare") / ".venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=90)
    return folder


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    made = Checkout(tmp_path / "checkout", tmp_path / "wheels", tmp_path / "notes")
    made.wheels.mkdir()
    (made.folder / "deploy" / "dev").mkdir(parents=True)
    shutil.copy(environment.__file__, made.folder / "deploy" / "dev" / "environment.py")
    (made.folder / "demo_backend.py").write_text(BACKEND)
    (made.folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "demo_backend"\nbackend-path = ["."]\n',
    )
    return made


def test_the_environment_holds_what_the_lock_says_and_a_second_run_is_instant(checkout: Checkout) -> None:
    checkout.lock(
        checkout.add_wheel("uv", FAKE_UV_THAT_WORKS.format(notes=checkout.notes)), checkout.add_wheel("probe")
    )

    first = checkout.make()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    second = checkout.make()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)

    assert first.returncode == 0, first.stderr
    assert "environment: installing 2 packages, each checked by its hash" in first.stdout
    assert checkout.has("probe")
    assert f"UV_FIND_LINKS={checkout.wheels}" in checkout.notes.read_text().splitlines()
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert (after.ru_utime + after.ru_stime) - (
        before.ru_utime + before.ru_stime
    ) < 0.3  # s of work, however busy the machine


def test_pip_does_what_uv_cannot(checkout: Checkout, bare_venv: Path) -> None:
    shutil.copytree(bare_venv, checkout.folder / ".venv", symlinks=True)
    checkout.lock(checkout.add_wheel("uv", FAKE_UV_THAT_FAILS), checkout.add_wheel("probe"))

    made = checkout.make()

    assert made.returncode == 0, made.stderr
    assert "making .venv" not in made.stdout  # what is good is kept
    assert "uv could not do it (error: this machine is not for me); trying pip" in made.stdout
    assert checkout.has("probe")


def test_a_changed_package_is_refused(checkout: Checkout, bare_venv: Path) -> None:
    shutil.copytree(bare_venv, checkout.folder / ".venv", symlinks=True)
    entry = checkout.add_wheel("uv", FAKE_UV_THAT_FAILS)
    checkout.lock(entry.replace("sha256:", "sha256:0")[:-2] + "\n")

    made = checkout.make()

    assert made.returncode == 1
    assert "its hash differs" in made.stderr


def test_an_index_out_of_reach_is_one_sentence_and_exit_code_1(checkout: Checkout, bare_venv: Path) -> None:
    shutil.copytree(bare_venv, checkout.folder / ".venv", symlinks=True)
    checkout.lock("uv==1.0 \\\n    --hash=sha256:" + "0" * 64 + "\n")
    dead = f"http://127.0.0.1:{FreePort().number}/simple"

    made = checkout.make(PIP_NO_INDEX="0", PIP_INDEX_URL=dead)

    assert made.returncode == 1
    assert made.stderr.strip().startswith("The package index cannot be reached")
    assert "Traceback" not in made.stderr
