"""The broker's jars: what the lock says, what is fetched, what is refused."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deploy.dev.kafka_jars import LOCK, DownloadBroken, Jar, JarsUnavailable, fetch_jars, missing, read_lock
from deploy.dev.problem import LaptopProblem
from deploy.dev.terminal import Terminal

QUIET = Terminal(None)


class Repository:
    """Serves made-up jars from memory; `broken` says how many tries at a jar fail first."""

    def __init__(self, *names: str) -> None:
        self.content = {name: name.encode() * 100 for name in names}
        self.asked: list[str] = []
        self.broken: dict[str, int] = {}
        self._turn = threading.Lock()

    def jars(self) -> tuple[Jar, ...]:
        return tuple(
            Jar(f"org/kip/{name}/1.0/{name}-1.0.jar", hashlib.sha256(content).hexdigest(), len(content))
            for name, content in self.content.items()
        )

    def download(self, jar: Jar, folder: Path) -> Path:
        name = jar.coordinates[1]
        with self._turn:
            self.asked.append(name)
            if self.broken.get(name, 0) > 0:
                self.broken[name] -= 1
                raise DownloadBroken("the download broke off")
        file = folder / jar.path
        file.parent.mkdir(parents=True)
        file.write_bytes(self.content[name])
        return file


def fetch(folder: Path, repository: Repository, jars: tuple[Jar, ...] | None = None) -> list[Path]:
    return fetch_jars(folder, jars or repository.jars(), QUIET, repository.download, pause_s=0)


def test_the_lock_names_the_broker_and_pins_every_jar() -> None:
    jars = read_lock(LOCK.read_text())

    assert len(jars) == len({jar.file for jar in jars}) == 46
    assert "kafka-server-4.3.1.jar" in {jar.file for jar in jars}
    assert Jar("org/apache/kafka/kafka_2.13/4.3.1/kafka_2.13-4.3.1.jar", "", 0).coordinates == (
        "org.apache.kafka",
        "kafka_2.13",
        "4.3.1",
    )


@pytest.mark.parametrize(
    "line", ["just-a-name", "a/b/c/d.jar deadbeef 10", f"a/b/c/d.jar {'0' * 64} ten", f"d.jar {'0' * 64} 1"]
)
def test_a_line_that_pins_nothing_is_refused_by_its_number(line: str) -> None:
    with pytest.raises(ValueError, match="line 2"):
        read_lock(f"# a comment\n{line}\n")


def test_missing_jars_are_fetched_once(tmp_path: Path) -> None:
    repository = Repository("one", "two")

    first = fetch(tmp_path, repository)
    second = fetch(tmp_path, repository)

    assert first == second == [tmp_path / "one-1.0.jar", tmp_path / "two-1.0.jar"]
    assert sorted(repository.asked) == ["one", "two"]
    assert first[0].read_bytes() == repository.content["one"]


def test_a_jar_that_was_changed_in_the_cache_is_fetched_again(tmp_path: Path) -> None:
    repository = Repository("one", "two")
    spoiled, _ = fetch(tmp_path, repository)
    spoiled.write_bytes(b"x" * len(repository.content["one"]))

    fetch(tmp_path, repository)

    assert spoiled.read_bytes() == repository.content["one"]
    assert repository.asked.count("one") == 2
    assert repository.asked.count("two") == 1


def test_another_file_under_the_right_name_is_refused(tmp_path: Path) -> None:
    repository = Repository("one")
    jars = repository.jars()
    repository.content["one"] = b"not what was promised"

    with pytest.raises(JarsUnavailable, match=r"one-1\.0\.jar: .*sha256 differs.*run it again"):
        fetch(tmp_path, repository, jars)

    assert missing(tmp_path, jars) == list(jars)


def test_a_broken_download_is_tried_again(tmp_path: Path) -> None:
    repository = Repository("one", "two")
    repository.broken["two"] = 2

    fetch(tmp_path, repository)

    assert repository.asked.count("two") == 3


def test_a_download_that_stays_broken_is_named_and_the_others_are_kept(tmp_path: Path) -> None:
    repository = Repository("one", "two")
    fetch(tmp_path, repository, repository.jars()[:1])
    repository.broken["two"] = 99

    with pytest.raises(JarsUnavailable, match=r"two-1\.0\.jar: the download broke off .*tried 3 times"):
        fetch(tmp_path, repository)

    assert [jar.file for jar in missing(tmp_path, repository.jars())] == ["two-1.0.jar"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fetch.lock", "one-1.0.jar"]


def test_a_full_disk_is_told_as_such(tmp_path: Path) -> None:
    def full(_jar: Jar, folder: Path) -> Path:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))

    with pytest.raises(LaptopProblem, match="No space is left on the disk of"):
        fetch_jars(tmp_path, Repository("one").jars(), QUIET, full)


def test_what_a_killed_fetch_left_is_swept_away(tmp_path: Path) -> None:
    (tmp_path / "fetch-killed").mkdir()
    (tmp_path / "fetch-killed" / "half.jar").write_bytes(b"half")

    fetch(tmp_path, Repository("one"))

    assert not (tmp_path / "fetch-killed").exists()


def test_two_at_a_time_fetch_each_jar_once(tmp_path: Path) -> None:
    repository = Repository(*(f"jar{number}" for number in range(20)))

    with ThreadPoolExecutor(2) as both:
        results = list(both.map(lambda _: fetch(tmp_path, repository), range(2)))

    assert results[0] == results[1]
    assert sorted(repository.asked) == sorted(repository.content)
