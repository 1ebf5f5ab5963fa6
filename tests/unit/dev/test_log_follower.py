"""Following logs: the end of what is there, then every whole line, with its writer's name."""

from __future__ import annotations

import io
import threading
from pathlib import Path

from deploy.dev.log_follower import FIRST_LINES, LogFollower

ENDED = threading.Event()
ENDED.set()  # one look


def look(follower: LogFollower, out: io.StringIO) -> list[str]:
    out.seek(0)
    out.truncate()
    follower.follow(ENDED)
    return out.getvalue().splitlines()


def test_a_long_log_begins_with_its_end(tmp_path: Path) -> None:
    (tmp_path / "otp.log").write_text("".join(f"line {number}\n" for number in range(100)))
    out = io.StringIO()

    seen = look(LogFollower(tmp_path, out, in_colour=False), out)

    assert len(seen) == FIRST_LINES
    assert seen[-1] == "otp      | line 99"


def test_new_lines_are_shown_once_and_whole(tmp_path: Path) -> None:
    log, out = tmp_path / "mailer.log", io.StringIO()
    log.write_text("one\n")
    follower = LogFollower(tmp_path, out, in_colour=False)
    look(follower, out)

    with log.open("a") as writer:
        writer.write("two\nhal")
    first = look(follower, out)
    with log.open("a") as writer:
        writer.write("f\n")
    second = look(follower, out)

    assert first == ["mailer   | two"]
    assert second == ["mailer   | half"]


def test_a_log_that_appears_later_and_one_that_starts_anew_are_followed(tmp_path: Path) -> None:
    out = io.StringIO()
    (tmp_path / "otp.log").write_text("a long first life\n")
    follower = LogFollower(tmp_path, out, in_colour=False)
    look(follower, out)

    (tmp_path / "otp.log").write_text("again\n")
    (tmp_path / "redis.log").write_text("hello\n")

    assert look(follower, out) == ["otp      | again", "redis    | hello"]


def test_each_name_has_a_colour_of_its_own(tmp_path: Path) -> None:
    for name in ("kafka", "otp"):
        (tmp_path / f"{name}.log").write_text("x\n")
    out = io.StringIO()

    seen = look(LogFollower(tmp_path, out, in_colour=True), out)

    assert seen == ["\x1b[36mkafka    |\x1b[0m x", "\x1b[33motp      |\x1b[0m x"]
