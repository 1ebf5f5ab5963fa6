"""Makes `.venv` from `requirements.lock`: every package pinned and checked by hash.

    python3 deploy/dev/environment.py

It needs the standard library only, because it runs before anything is installed (by any `make` target), and an old
Python must at least be able to read it, to say that it is too old. Order: a bare venv; the pinned uv by pip; everything
else by uv (seconds instead of half a minute; pip itself if uv cannot); the project, editable. A stamp in `.venv` tells
the next run that nothing changed. uv does not read pip's settings, so the index, certificates and hosts that pip is
configured with are passed on.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
OLDEST = (3, 11)
NEED_MB = 1500  # what is installed takes 800 MB, downloads the rest
STEP_WITHIN_S = 1800  # a slow line: 200 MB at 1 Mbit/s

TOO_OLD = (
    "Kịp needs Python 3.11 or later; this is {found}. Install one (Debian 12 and later: apt install python3 "
    "python3-venv), then run it again, naming it if it is not `python3`: make PYTHON=python3.12 ..."
)
NO_VENV = "This Python cannot make environments: its module {module} is missing. Debian: apt install python3-venv"
NO_DISK = "No space is left on the disk of {where}. The environment needs about {need} MB; free some and run it again."
NOT_THE_LOCKED = (
    "A package that came is not the one that requirements.lock names (its hash differs). Run it again; if it stays so, "
    "the index that pip is configured with changes packages: use another."
)
NO_TRUST = (
    "The package index's certificate was not accepted. Behind a company's proxy, name its CA file: "
    "pip config set global.cert /path/to/ca.pem"
)
NO_INDEX = (
    "The package index cannot be reached, or does not have a package that requirements.lock names. Look at the "
    "network, the proxy (HTTPS_PROXY) and pip's index (pip config list), then run it again."
)
SIGNS = (  # what pip or uv prints, and what it means; the first that fits is told
    (r"No space left on device|os error 28|Disk quota exceeded", NO_DISK),
    (r"DO NOT MATCH THE HASHES|[Hh]ash mismatch", NOT_THE_LOCKED),
    (r"CERTIFICATE_VERIFY_FAILED|UnknownIssuer|invalid peer certificate", NO_TRUST),
    (r"onnection|resolve|dns error|timed out|Failed to fetch|error sending request|No matching distribution", NO_INDEX),
)
PIP_TO_UV = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "cert": "SSL_CERT_FILE",
    "trusted-host": "UV_INSECURE_HOST",
    "timeout": "UV_HTTP_TIMEOUT",
    "default-timeout": "UV_HTTP_TIMEOUT",
}


class Trouble(Exception):
    """Said to a person in one sentence that tells what to do."""


class StepFailed(Exception):
    """A program ended with an error; the text is what it printed."""


class Environment:
    """The `.venv` of one checkout."""

    def __init__(self, checkout: Path) -> None:
        self._checkout = checkout
        self._lock = checkout / "requirements.lock"
        self._folder = checkout / ".venv"
        self._python = self._folder / "bin" / "python"
        self._stamp = self._folder / ".kip-stamp"
        self._log = checkout / ".kip" / "environment.log"
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kip"
        own = {"PIP_CACHE_DIR": str(cache / "pip"), "UV_CACHE_DIR": str(cache / "uv"), "PIP_USER": "0"}
        self._variables = {**own, **os.environ}

    def make(self) -> None:
        """Bring it to what the lock says; return at once when it is.

        Raises:
            Trouble: what is wrong and what to do.
        """
        if self._is_fresh():
            return
        self._log.parent.mkdir(exist_ok=True)
        with (self._log.parent / "environment.lock").open("w") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)  # two makes at a time: the second finds it done
            if not self._is_fresh():
                self._log.write_text("")
                self._make()

    def _make(self) -> None:
        started = time.monotonic()
        refuse_small_disk(self._checkout)
        self._stamp.unlink(missing_ok=True)
        if not self._has_working_python():
            say(f"making .venv with Python {sys.version.split()[0]}")
            self._run_or_tell([sys.executable, "-m", "venv", "--clear", str(self._folder)])
        lock = self._lock.read_text()
        say(f"installing {len(re.findall('^[a-z0-9].*==', lock, re.MULTILINE))} packages, each checked by its hash")
        self._install_uv(lock)
        try:
            self._install_by_uv()
        except StepFailed as failed:
            say(f"uv could not do it ({last_line(str(failed))}); trying pip, which is slower")
            self._install_by_pip()
        self._stamp.write_text(self._wanted_stamp())
        say(f"ready after {time.monotonic() - started:.1f} s")

    def _install_uv(self, lock: str) -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as pinned:
            pinned.write(lock_entry(lock, "uv"))
            pinned.flush()
            self._pip("--require-hashes", "--no-deps", "-r", pinned.name)

    def _install_by_uv(self) -> None:
        uv, python = str(self._folder / "bin" / "uv"), ("--python", str(self._python))
        configured = read_pip_config(self._run([str(self._python), "-m", "pip", "config", "list"]))
        environment = {**configured_for_uv(configured), **self._variables}
        no_index = ["--no-index"] if configured.get("no-index") in {"1", "true", "yes", "on"} else []
        self._run([uv, "pip", "sync", "--require-hashes", *no_index, *python, str(self._lock)], environment)
        project = ["--no-deps", "--no-build-isolation", "-e", str(self._checkout)]
        self._run([uv, "pip", "install", "--no-index", *python, *project], environment)

    def _install_by_pip(self) -> None:
        self._pip("--require-hashes", "-r", str(self._lock))
        self._pip("--no-deps", "--no-build-isolation", "--no-index", "-e", str(self._checkout))

    def _pip(self, *arguments: str) -> None:
        pip = [str(self._python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--retries", "2"]
        self._run_or_tell([*pip, *arguments])

    def _run_or_tell(self, command: list[str]) -> None:
        try:
            self._run(command)
        except StepFailed as failed:
            raise Trouble(sentence_for(str(failed), self._folder, self._log)) from failed

    def _run(self, command: list[str], environment: dict[str, str] | None = None) -> str:
        try:
            done = subprocess.run(
                command,
                env=environment or self._variables,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=STEP_WITHIN_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:  # not a program for this machine, or it hangs
            raise StepFailed(str(error)) from error
        printed = done.stdout + done.stderr
        with self._log.open("a") as log:
            log.write(printed)
        if done.returncode:
            raise StepFailed(printed)
        return done.stdout

    def _has_working_python(self) -> bool:
        if not self._python.exists():
            return False
        look = f"import sys, pip; sys.exit(sys.version_info < {OLDEST})"
        return subprocess.run([str(self._python), "-c", look], capture_output=True, check=False).returncode == 0

    def _is_fresh(self) -> bool:
        return self._python.exists() and self._stamp.exists() and self._stamp.read_text() == self._wanted_stamp()

    def _wanted_stamp(self) -> str:
        files = (self._lock, self._checkout / "pyproject.toml")
        return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def say(text: str) -> None:
    """Tell a person what is going on."""
    print(f"environment: {text}", flush=True)


def last_line(text: str) -> str:
    """Return the last line that says something."""
    return ([line.strip() for line in text.splitlines() if line.strip()] or ["it said nothing"])[-1]


def lock_entry(lock: str, package: str) -> str:
    """Return one package's requirement with its hashes.

    Raises:
        Trouble: the lock does not name it.
    """
    entry = re.search(rf"^{re.escape(package)}==.*(?:(?<=\\)\n.*)*", lock, re.MULTILINE)
    if entry is None:
        raise Trouble(f"requirements.lock does not name {package}. Restore the file: git checkout requirements.lock")
    return entry[0] + "\n"


def read_pip_config(text: str) -> dict[str, str]:
    """Read what `pip config list` prints: the environment wins over `install`, and that over `global`."""
    return {
        name: value
        for section in ("global", "install", ":env:")
        for name, value in re.findall(rf"^{section}\.([a-z-]+)='(.*)'$", text, re.MULTILINE)
    }


def configured_for_uv(settings: dict[str, str]) -> dict[str, str]:
    """Return the environment that makes uv use what pip is configured with."""
    environment = {PIP_TO_UV[name]: value for name, value in settings.items() if name in PIP_TO_UV}
    if links := environment.get("UV_FIND_LINKS"):
        environment["UV_FIND_LINKS"] = ",".join(links.replace("\\n", " ").split())  # pip parts them by spaces or lines
    return environment


def sentence_for(printed: str, where: Path, log: Path) -> str:
    """Say what a failed installation means and what to do."""
    for sign, sentence in SIGNS:
        if re.search(sign, printed):
            return sentence.format(where=where, need=NEED_MB)
    return f"The environment could not be made: {last_line(printed)} All that was said is in {log}"


def refuse_small_disk(folder: Path) -> None:
    """Refuse to begin without the space to end.

    Raises:
        Trouble: names the space.
    """
    if shutil.disk_usage(folder).free < NEED_MB * 1_000_000:
        raise Trouble(NO_DISK.format(where=folder, need=NEED_MB))


def refuse_unfit_python(version: tuple[int, ...], modules: tuple[str, ...] = ("venv", "ensurepip")) -> None:
    """Refuse a Python that is too old, or that Debian ships without its venv package.

    Raises:
        Trouble: says what to install.
    """
    if version < OLDEST:
        raise Trouble(TOO_OLD.format(found=".".join(map(str, version[:3]))))
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise Trouble(NO_VENV.format(module=module))


def main() -> int:
    """Make the environment of this checkout; return the exit code."""
    try:
        refuse_unfit_python(sys.version_info[:3])
        Environment(CHECKOUT).make()
    except Trouble as trouble:
        print(f"\n{trouble}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nBroken off; the next run goes on from here.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
