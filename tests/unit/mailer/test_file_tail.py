"""A log is read line by line, each once, whatever happens to the file and to the reader."""

from __future__ import annotations

import gzip
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.mailer.inbound.file_tail import AT_ONCE, LONGEST, FileTail, Place


class Log:
    """A log file, who writes it, and who reads it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "mail.log"
        self.happened: list[str] = []
        self.got: list[str] = []
        self.place: Place | None = None
        self._rotated = 0
        self.tail = self._tail()

    def write(self, *lines: str) -> None:
        with self.path.open("a") as file:
            file.writelines(f"{line}\n" for line in lines)

    def read(self) -> list[str]:
        """Read all there is; return it."""
        found: list[str] = []
        for _ in range(20):  # a turn to the next file takes a read of its own
            lines = self.tail.read()
            found += [line.text for line in lines]
            self.place = lines[-1].place if lines else self.place
        self.got += found
        return found

    def rotate(self) -> Path:
        """Give the file another name, as logrotate does; the next line makes a new one."""
        return self.path.rename(self._next_name())

    def copy_and_cut(self) -> None:
        """Copy the file and cut it (`copytruncate`); but not one that is open and of which nothing was read.

        That nobody can see: it begins anew, and it had not been begun.
        """
        if self.tail.behind() == self.path.stat().st_size > 0:
            return
        shutil.copy(self.path, self._next_name())
        os.truncate(self.path, 0)

    def begin_again(self) -> None:
        """Let the reader die; the next one has what was kept."""
        self.tail.close()
        self.place = Place.unpacked(self.place.packed()) if self.place else None
        self.tail = self._tail()

    def _next_name(self) -> Path:
        self._rotated += 1
        return self.path.with_name(f"mail.log.{100 - self._rotated}")

    def _tail(self) -> FileTail:
        return FileTail(self.path, self.place, self.happened.append, linger_s=0)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    made = Log(tmp_path)
    yield made
    made.tail.close()


def test_before_there_is_a_log_there_are_no_lines(log: Log) -> None:
    assert log.read() == []
    log.write("one")
    assert log.read() == ["one"]
    assert log.happened == []


def test_each_line_comes_once_and_one_without_its_end_waits(log: Log) -> None:
    log.path.write_text("one\ntwo\nthr")
    assert log.read() == ["one", "two"]
    log.write("ee", "four")
    assert log.read() == ["three", "four"]
    assert log.read() == []


def test_a_reader_that_begins_again_goes_on_where_it_was(log: Log) -> None:
    log.write("one", "two")
    log.read()
    log.begin_again()
    log.write("three")

    assert log.read() == ["three"]


def test_of_a_file_that_is_rotated_the_rest_is_read_before_the_new_one(log: Log) -> None:
    log.write("one")
    log.read()
    log.write("two")
    old = log.rotate()
    log.write("four")
    with old.open("a") as file:
        file.write("three\n")  # whoever writes opens the new file a moment later

    assert log.read() == ["two", "three", "four"]
    assert log.happened == ["rotated"]


def test_a_file_that_was_rotated_is_looked_at_until_it_was_quiet_for_a_while(tmp_path: Path) -> None:
    path, now = tmp_path / "mail.log", [0.0]
    path.write_text("one\n")
    old = tmp_path / "mail.log.1"

    def after(seconds: float) -> list[str]:
        now[0] += seconds
        return [line.text for line in tail.read()]

    def write(line: str) -> None:
        with old.open("a") as file:
            file.write(f"{line}\n")

    with closing(FileTail(path, None, lambda _: None, linger_s=2, seconds=lambda: now[0])) as tail:
        assert after(0) == ["one"]
        path.rename(old)
        path.write_text("four\n")
        assert after(1) == []
        write("two")
        assert after(1.9) == ["two"]
        assert after(0) == after(1.9) == []
        write("three")
        assert after(0) == ["three"]
        assert after(0) == after(2) == []
        assert after(0) == ["four"]


def test_two_rotations_while_nobody_read_lose_nothing(log: Log) -> None:
    log.write("one", "two")
    log.read()
    log.write("three")
    log.tail.close()
    first = log.rotate()
    log.write("four")
    second = log.rotate()
    log.write("five")
    for age, path in ((300, first), (200, second)):
        os.utime(path, (1_000_000_000 - age, 1_000_000_000 - age))
    log.begin_again()

    assert log.read() == ["three", "four", "five"]
    assert log.happened == ["rotated", "rotated"]


@pytest.mark.parametrize("is_read_before", [True, False])
def test_a_file_that_is_copied_and_cut_is_read_on_in_the_copy_and_then_from_its_beginning(
    log: Log, *, is_read_before: bool
) -> None:
    log.write("one")
    log.read()
    log.write("two")
    if is_read_before:
        log.read()
    log.copy_and_cut()
    log.write("a line that is longer than all there was before", "four")

    log.read()

    assert log.got == ["one", "two", "a line that is longer than all there was before", "four"]
    assert log.happened == ["truncated", "rotated"]


def test_a_file_that_is_cut_without_a_copy_is_read_from_its_beginning_and_the_loss_is_told(log: Log) -> None:
    log.write("one", "two")
    log.read()
    os.truncate(log.path, 0)
    log.write("three")

    assert log.read() == ["three"]
    assert log.happened == ["truncated", "lost"]


def test_when_the_file_that_was_read_is_packed_away_the_loss_is_told(log: Log) -> None:
    log.write("one", "two")
    log.read()
    log.write("three")
    log.tail.close()
    old = log.rotate()
    old.with_name("mail.log.1.gz").write_bytes(gzip.compress(old.read_bytes()))
    old.unlink()
    log.write("four")
    log.begin_again()

    assert log.read() == ["four"]
    assert log.happened == ["lost"]


def test_another_file_with_the_same_inode_deceives_nobody(log: Log) -> None:
    log.write("one", "two")
    log.read()
    assert log.place is not None
    log.path.write_text("something else of that length\n" * 9)
    log.begin_again()

    assert log.read() == ["something else of that length"] * 9
    assert log.happened == ["lost"]


def test_a_place_that_nobody_wrote_is_none() -> None:
    assert Place.unpacked(b"\xff\x00garbage") is None
    assert Place.unpacked(b"") is None


def test_octets_of_any_kind_are_lines(log: Log) -> None:
    log.path.write_bytes(b"\x00\xff\xfe\x80\r\nplain\n")

    first, second = log.read()

    assert (first[0], second) == ("\x00", "plain")


@pytest.mark.parametrize("octets", [LONGEST + 1, AT_ONCE, 3 * AT_ONCE + 7])
def test_a_line_that_is_too_long_is_passed_over_once(log: Log, octets: int) -> None:
    log.write("one", "x" * octets, "two")

    assert log.read() == ["one", "two"]
    assert log.happened == ["too_long"]


def test_how_far_it_is_behind_is_told_in_octets(log: Log) -> None:
    assert log.tail.behind() == 0
    log.write("one")
    log.read()
    log.write("four")

    assert log.tail.behind() == 5


FIRST = 1_000_000_000  # long ago: whatever is younger was just written
STEPS = st.lists(st.sampled_from(["write", "write", "read", "rotate", "copy and cut", "die"]), max_size=30)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(steps=STEPS)
def test_whatever_happens_no_line_is_lost_and_none_comes_twice(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str]
) -> None:
    log = Log(tmp_path_factory.mktemp("log"))
    written: list[str] = []
    log.write("begin")
    log.read()
    _age(log.path.parent, -1)

    def write() -> None:
        # Its own to the end, as lines of a log are: the mark looks at no more than 128 octets.
        written.append(f"line {len(written)} of {'x' * (len(written) % 3 * 90)} {len(written)}")
        log.write(written[-1])

    acts: dict[str, Callable[[], object]] = {
        "write": write,
        "read": log.read,
        "rotate": log.rotate,
        "copy and cut": log.copy_and_cut,
        "die": log.begin_again,
    }
    for number, step in enumerate(steps):
        if log.path.exists() or step not in {"rotate", "copy and cut"}:
            acts[step]()
            _age(log.path.parent, number)
    write()
    log.read()
    log.tail.close()

    assert log.got == ["begin", *written]
    assert "lost" not in log.happened


def _age(folder: Path, number: int) -> None:
    """Date the files by the order of what was done: a test is faster than a file system's clock."""
    for path in folder.iterdir():
        if path.stat().st_mtime > FIRST + 10_000:
            at = FIRST + number + (0.5 if path.name == "mail.log" else 0)
            os.utime(path, (at, at))
