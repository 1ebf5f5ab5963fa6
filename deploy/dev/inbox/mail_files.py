"""Mails in a directory: `<id>.eml` holds the bytes, one line of `index.jsonl` the envelope.

A mail counts once its line is in the index, and the line is written after the bytes: a process killed between the two
leaves a file that no line names, and the next mail with that id overwrites it. Nothing is fsynced: mails outlive the
process, not a power cut. A line `{"newest_id": 41}` keeps ids from being given twice. The index is written anew
at the start and when it holds many more lines than mails, so it does not grow without end.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from deploy.dev.inbox.mailbox import Mail

SPARE_LINES = 50_000  # about 10 MB of index before it is written anew


class MailFiles:
    """Implements `MailArchive` in one directory, which it locks: two inboxes never share one."""

    def __init__(self, directory: Path, spare_lines: int = SPARE_LINES) -> None:
        self._directory = directory
        self._index_path = directory / "index.jsonl"
        self._spare_lines = spare_lines
        self._lines: dict[int, dict[str, Any]] = {}  # the index as it would be written anew
        self._written = 0  # lines in the file on disk
        self._newest_id = 0

    def __enter__(self) -> Self:
        """Create and lock the directory. Raises: OSError, also when another inbox holds the lock (BlockingIOError)."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)  # mails hold codes
        self._lock = (self._directory / "lock").open("wb")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise
        self._index = self._index_path.open("ab", buffering=0)
        return self

    def __exit__(self, *_: object) -> None:
        self._index.close()
        self._lock.close()

    def load(self) -> tuple[list[Mail], int]:
        """Read what an earlier process left; a torn last line is left out."""
        for line in self._read_index():
            self._newest_id = max(self._newest_id, line.get("id", 0), line.get("newest_id", 0))
            if "id" in line and self._path(line["id"]).is_file():
                self._lines[line["id"]] = line
        self._write_index()
        return [self._mail(line) for line in self._lines.values()], self._newest_id

    def add(self, mail: Mail) -> None:
        """Write the bytes, then the line that makes them count."""
        self._path(mail.id).write_bytes(mail.raw)
        line = {
            "id": mail.id,
            "received_at": mail.received_at.isoformat(),
            "mail_from": mail.mail_from,
            "rcpt_to": list(mail.rcpt_to),
        }
        encoded = b"\n" + _encoded(line)  # the line break in front shuts off a line that a full disk tore
        if self._index.write(encoded) != len(encoded):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._index_path))
        self._lines[mail.id] = line
        self._newest_id = mail.id
        self._written += 1

    def remove(self, ids: list[int]) -> None:
        """Delete the files of these mails; their lines stay behind until the index is written anew."""
        for mail_id in ids:
            self._path(mail_id).unlink(missing_ok=True)
            self._lines.pop(mail_id, None)
        if not self._lines or self._written > len(self._lines) + self._spare_lines:
            self._write_index()

    def _path(self, mail_id: int) -> Path:
        return self._directory / f"{mail_id}.eml"

    def _mail(self, line: dict[str, Any]) -> Mail:
        received_at = datetime.fromisoformat(line["received_at"])
        raw = self._path(line["id"]).read_bytes()
        return Mail(line["id"], received_at, line["mail_from"], tuple(line["rcpt_to"]), raw)

    def _read_index(self) -> list[dict[str, Any]]:
        if not self._index_path.exists():
            return []
        lines = []
        for text in self._index_path.read_bytes().splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:
                continue  # empty, or torn by a kill or a full disk: its mail was never confirmed
        return lines

    def _write_index(self) -> None:
        fresh = self._index_path.with_suffix(".new")
        lines = [{"newest_id": self._newest_id}, *self._lines.values()]
        fresh.write_bytes(b"".join(_encoded(line) for line in lines))
        fresh.replace(self._index_path)
        self._index.close()
        self._index = self._index_path.open("ab", buffering=0)
        self._written = len(lines)


def _encoded(line: dict[str, Any]) -> bytes:
    return json.dumps(line, separators=(",", ":")).encode() + b"\n"
