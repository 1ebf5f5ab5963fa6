"""Whole lines of a log file as it grows, each once, whatever is done to the file.

A **place** is an inode, an offset, and a mark: a digest of the octets before the offset. A file is the one that was
read if its octets there give the mark; so a reader that starts again finds its file under whatever name it has by then,
a copy that was taken before the file was cut (`copytruncate`) is as good as the file, and an inode that was given to
another file deceives nobody.

*Rotation.* The file that is read is read to its end, also when it has another name by now, and looked at a little
longer: whoever writes it opens the new one a moment after. Then comes the next: the oldest of `<name>*` beside it that
is younger, at last `<name>` itself. Compressed files are passed over: compress with a delay of one rotation.

*What is lost* is told: a place that no file has any more. Then reading begins at the beginning of the file itself. Not
told, because it cannot be seen: lines written between copy and cut, and a file that was cut before any of it was read.

A line without its end waits for it; one longer than `LONGEST` is passed over, however long it gets.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path
from time import monotonic

import msgspec

LONGEST = 16 * 1024  # octets of a line; Postfix ends its own at 2 KiB
AT_ONCE = 256 * 1024  # octets of a read
MARK_OVER = 128
LINGER_S = 2.0
PACKED = frozenset({".gz", ".xz", ".bz2", ".zst"})


@dataclass(frozen=True, slots=True)
class Place:
    """Up to where a log was read."""

    inode: int
    offset: int
    mark: bytes

    def packed(self) -> bytes:
        """Return it as it is kept."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def unpacked(cls, kept: bytes) -> Place | None:
        """Return a place that was kept; `None` for anything else."""
        try:
            return msgspec.msgpack.decode(kept, type=cls)
        except msgspec.MsgspecError:
            return None

    def after(self, octets: int, before: bytes) -> Place:
        """Return the place that many octets further on; `before` ends with those before it."""
        return replace(self, offset=self.offset + octets, mark=_mark(before))

    def is_in(self, file: FileIO) -> bool:
        """Say whether this is the file of the place, or a copy of it."""
        if os.fstat(file.fileno()).st_size < self.offset:
            return False
        over = min(self.offset, MARK_OVER)
        file.seek(self.offset - over)
        return _mark(file.read(over)) == self.mark


@dataclass(frozen=True, slots=True)
class Line:
    """One line, without its end."""

    text: str
    """What is no UTF-8 is replaced."""
    place: Place
    """Behind it."""


@dataclass(slots=True)
class _Open:
    """The file that is read."""

    file: FileIO
    place: Place
    ended_at: float | None = None
    """When its end was reached for the first time since anything came."""
    is_skipping: bool = False
    """In the middle of a line that is too long."""

    @property
    def size(self) -> int:
        return os.fstat(self.file.fileno()).st_size

    def lines(self, too_long: Callable[[], None]) -> Iterator[Line]:
        start = self.place
        over = min(start.offset, MARK_OVER)
        self.file.seek(start.offset - over)
        octets = self.file.read(over) + self.file.read(AT_ONCE)
        end = over
        *whole, rest = octets[over:].split(b"\n")
        for text in whole:
            end += len(text) + 1
            self.place = start.after(end - over, octets[max(end - MARK_OVER, 0) : end])
            if self.is_skipping or len(text) > LONGEST:
                self.is_skipping = False
                too_long()
            else:
                yield Line(text.decode(errors="replace"), self.place)
        if len(rest) > LONGEST:
            self.is_skipping = True
            self.place = start.after(len(octets) - over, octets[-MARK_OVER:])


class FileTail:
    """Reads one log.

    Args:
        path: its name, now and after each rotation.
        place: where to go on; none = at the beginning of the file.
        happened: told `rotated`, `truncated`, `lost`, `too_long`, each when it is found out.
        linger_s: how long a file that was rotated is looked at after its end was reached.
        seconds: a clock that only goes on.
    """

    def __init__(
        self,
        path: Path,
        place: Place | None,
        happened: Callable[[str], None],
        *,
        linger_s: float = LINGER_S,
        seconds: Callable[[], float] = monotonic,
    ) -> None:
        self._path = path
        self._place = place
        self._happened = happened
        self._linger_s = linger_s
        self._seconds = seconds
        self._open: _Open | None = None

    def read(self) -> list[Line]:
        """Return the lines that are there and were not returned yet, a piece at most; none when nothing is new.

        Raises:
            OSError: the file cannot be read, other than because it is not there.
        """
        reading = self._open or self._opened()
        if reading is None:
            return []
        if not reading.place.is_in(reading.file):
            self._happened("truncated")
            self._place = reading.place  # it may be in a copy
            self.close()
            return []
        before = reading.place
        lines = list(reading.lines(lambda: self._happened("too_long")))
        if reading.place != before:
            reading.ended_at = None
        else:
            self._turn_if_quiet(reading)
        return lines

    def behind(self) -> int:
        """Return how many octets of the file that is read were not read yet."""
        return max(self._open.size - self._open.place.offset, 0) if self._open else 0

    def close(self) -> None:
        """Let go of the file."""
        if self._open is not None:
            self._open.file.close()
            self._open = None

    def _opened(self) -> _Open | None:
        """Open the file of the place, else the one to begin with, if there is any."""
        if self._place is not None:
            self._open = self._found(self._place)
        if self._open is None and self._path.exists():  # between two files of a rotation it is not: look again
            if self._place is not None:
                self._happened("lost")
            self._open = _begun(self._path)
        if self._open is not None:
            self._place = None
        return self._open

    def _found(self, place: Place) -> _Open | None:
        """Look for a place: where its inode is first, then from the newest file on."""
        for _is_other, _age, path in sorted((inode != place.inode, -at, path) for inode, at, path in self._family()):
            file = FileIO(path)  # no buffer: a file that is cut and filled again must be seen as it is
            if place.is_in(file):
                return _Open(file, replace(place, inode=os.fstat(file.fileno()).st_ino))
            file.close()
        return None

    def _family(self) -> list[tuple[int, int, Path]]:
        """Return inode, time of the last change, and name of the file and of those it was rotated to."""
        found = []
        for path in self._path.parent.glob(f"{self._path.name}*"):
            try:
                known = path.stat()
            except FileNotFoundError:
                continue
            if path.suffix not in PACKED and path.is_file():
                found.append((known.st_ino, known.st_mtime_ns, path))
        return found

    def _successor(self, reading: _Open) -> Path | None:
        """Return the file to be read after this one; none while this is the one that is written."""
        mine = os.fstat(reading.file.fileno())
        family = self._family()
        if not any(path == self._path and inode != mine.st_ino for inode, _at, path in family):
            return None
        younger = [
            (path == self._path, at, path)
            for inode, at, path in family
            if inode != mine.st_ino and (path == self._path or at > mine.st_mtime_ns)
        ]
        return min(younger)[2]

    def _turn_if_quiet(self, reading: _Open) -> None:
        """Go on to the next file when this one was rotated, and has been quiet for long enough."""
        successor = self._successor(reading)
        if successor is None:
            return
        reading.ended_at = self._seconds() if reading.ended_at is None else reading.ended_at
        if self._seconds() - reading.ended_at >= self._linger_s:
            self._happened("rotated")
            self.close()
            self._open = _begun(successor)


def _begun(path: Path) -> _Open:
    file = FileIO(path)
    return _Open(file, Place(os.fstat(file.fileno()).st_ino, 0, b""))


def _mark(octets: bytes) -> bytes:
    return hashlib.blake2b(octets, digest_size=8).digest() if octets else b""
