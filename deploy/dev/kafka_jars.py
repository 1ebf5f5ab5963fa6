"""The broker's jars: fetched by coordinates, checked by hash, kept in the cache folder.

`kafka.lock` names every jar with its SHA-256 and size. A jar is downloaded beside its place, checked, given one fixed
modification time and only then moved to its name, so a jar with the right size and that time was checked once and not
written since: later runs look at 46 sizes instead of hashing 45 MB. (The JVM's start-up cache also wants unchanged
times.)
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from deploy.dev.cache_folder import one_at_a_time
from deploy.dev.problem import LaptopProblem, disk_full_told, refuse_small_disk
from deploy.dev.terminal import Terminal

LOCK = Path(__file__).with_name("kafka.lock")
THREADS = 8  # 46 small files are waiting time, not work: 8 at once take 2 s, one after another 8 s
PAUSE_S = 0.5  # before the second of three tries; doubled before the third
CHECKED_AT = 1_600_000_000  # the modification time of every checked jar; any moment of the past would do
NEED_MB = 150  # jars and start-up cache
GIVE_UP = (
    "Kafka's {jar}: {why} (tried 3 times). What was fetched is kept: look at the network and the proxy (HTTPS_PROXY), "
    "then run it again."
)


class JarsUnavailable(LaptopProblem):
    """A jar could not be fetched, or is not the one that the lock names."""


class DownloadBroken(Exception):
    """One try at one jar failed in a way that another try may mend."""


@dataclass(frozen=True, slots=True)
class Jar:
    """One line of the lock.

    Attributes:
        path: in a Maven repository, `group/with/slashes/artifact/version/file.jar`.
        sha256: hexadecimal.
        size: in bytes.
    """

    path: str
    sha256: str
    size: int

    @property
    def file(self) -> str:
        """The file's own name, unique within the lock."""
        return self.path.rpartition("/")[2]

    @property
    def coordinates(self) -> tuple[str, str, str]:
        """Group, artifact and version."""
        *group, artifact, version, _file = self.path.split("/")
        return ".".join(group), artifact, version


Download = Callable[[Jar, Path], Path]


def read_lock(text: str) -> tuple[Jar, ...]:
    """Read a lock: `path sha256 size` on each line, `#` before a comment.

    Raises:
        ValueError: a line is not of that form; names it.
    """
    jars = []
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.split()
        if not fields or line.startswith("#"):
            continue
        if len(fields) != 3 or fields[0].count("/") < 3 or len(fields[1]) != 64 or not fields[2].isdigit():
            raise ValueError(f"line {number} of the lock of jars is not `path sha256 size`: {line!r}")
        jars.append(Jar(fields[0], fields[1], int(fields[2])))
    return tuple(jars)


def fetch_jars(
    folder: Path,
    jars: tuple[Jar, ...],
    terminal: Terminal,
    download: Download,
    pause_s: float = PAUSE_S,
) -> list[Path]:
    """Return the jars' files in the order of the lock, fetching what is missing or was changed.

    Safe while other processes do the same in the same folder. What was fetched before a failure is kept.

    Args:
        folder: where the jars are kept.
        jars: what must be there.
        terminal: who hears how far it is.
        download: fetches one jar below a folder; raises `DownloadBroken`.
        pause_s: before the second try at a jar; doubled before the third.

    Raises:
        JarsUnavailable: names the jar, and says what to do.
        LaptopProblem: the disk is full.
    """
    if missing(folder, jars):
        with disk_full_told(folder):
            refuse_small_disk(folder, NEED_MB, "Fetching Kafka")
            with one_at_a_time(folder / "fetch.lock", terminal, "fetching Kafka's jars"):
                _sweep(folder)
                wanted = missing(folder, jars)  # another process may have fetched them while we waited for our turn
                if wanted:
                    with tempfile.TemporaryDirectory(prefix="fetch-", dir=folder) as beside:
                        _Fetch(folder, Path(beside), download, pause_s).all(wanted, terminal)
    return [folder / jar.file for jar in jars]


def missing(folder: Path, jars: tuple[Jar, ...]) -> list[Jar]:
    """Return the jars that are not in the folder as they were checked."""
    return [jar for jar in jars if not _was_checked(folder / jar.file, jar)]


def from_maven(jar: Jar, folder: Path, repositories: dict[str, str] | None = None) -> Path:
    """Download one jar below `folder` with jgo, which resolves nothing here: its resolver picks other versions.

    Args:
        jar: what to fetch.
        folder: laid out as a Maven repository.
        repositories: addresses by name; Maven Central alone when None.

    Raises:
        DownloadBroken: with the reason in a few words.
    """
    import requests  # noqa: PLC0415  (half a second that is only spent when something is missing)
    from jgo.maven import MavenContext  # noqa: PLC0415  (the same)

    group, artifact, version = jar.coordinates
    context = MavenContext(repo_cache=folder, local_repos=[], remote_repos=repositories)
    try:
        return Path(context.project(group, artifact).at_version(version).artifact().resolve())
    except requests.exceptions.SSLError as error:
        raise DownloadBroken("the Maven repository's certificate was not accepted") from error
    except requests.exceptions.ChunkedEncodingError as error:
        raise DownloadBroken("the download broke off") from error
    except requests.exceptions.RequestException as error:
        raise DownloadBroken("the Maven repository cannot be reached") from error
    except RuntimeError as error:  # jgo's word for any answer but 200
        raise DownloadBroken("the Maven repository did not give it") from error


class _Fetch:
    """One fetching of what is missing, while we hold the folder's lock."""

    def __init__(self, folder: Path, beside: Path, download: Download, pause_s: float) -> None:
        self._folder = folder
        self._beside = beside
        self._download = download
        self._pauses = (pause_s, 2 * pause_s, None)
        self._ended = threading.Event()

    def all(self, wanted: list[Jar], terminal: Terminal) -> None:
        started, all_mb, done_bytes = time.monotonic(), _mb(sum(jar.size for jar in wanted)), 0
        with ThreadPoolExecutor(THREADS) as threads:
            fetches = {threads.submit(self._one, jar): jar for jar in wanted}
            try:
                for done, fetch in enumerate(as_completed(fetches), 1):
                    fetch.result()
                    done_bytes += fetches[fetch].size
                    terminal.progress(f"kafka: {done} of {len(wanted)} jars, {_mb(done_bytes)} of {all_mb} MB")
            except BaseException:
                self._ended.set()
                threads.shutdown(wait=False, cancel_futures=True)
                raise
        took_s = time.monotonic() - started
        terminal.line(f"kafka: {len(wanted)} jars, {all_mb} MB, fetched and checked in {took_s:.1f} s")

    def _one(self, jar: Jar) -> None:
        for pause in self._pauses:
            try:
                fresh = self._download(jar, self._beside)
                _refuse_other(fresh, jar)
            except DownloadBroken as broken:
                shutil.rmtree((self._beside / jar.path).parent, ignore_errors=True)  # half a file must not count
                if pause is None or self._ended.wait(pause):
                    raise JarsUnavailable(GIVE_UP.format(jar=jar.file, why=broken)) from broken
            else:
                os.utime(fresh, (CHECKED_AT, CHECKED_AT))
                fresh.replace(self._folder / jar.file)
                return


def _refuse_other(fresh: Path, jar: Jar) -> None:
    if hashlib.sha256(fresh.read_bytes()).hexdigest() != jar.sha256:
        raise DownloadBroken("what came is not the file that kafka.lock names (its sha256 differs)")


def _was_checked(file: Path, jar: Jar) -> bool:
    try:
        seen = file.stat()
    except FileNotFoundError:
        return False
    return seen.st_size == jar.size and seen.st_mtime == CHECKED_AT


def _sweep(folder: Path) -> None:
    for left_by_a_kill in folder.glob("fetch-*"):  # we hold the lock: nobody is using it
        shutil.rmtree(left_by_a_kill, ignore_errors=True)


def _mb(size: int) -> str:
    return f"{size / 1_000_000:.1f}"
