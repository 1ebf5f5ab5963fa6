"""The command line of a demo: whom the letters are for, where it plays, and a problem told in words."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from deploy.dev.demo_screen import Screen
from deploy.dev.problem import LaptopProblem
from deploy.dev.python_process import CHECKOUT


def run_demo(
    name: str, description: str, play: Callable[[Path, Screen, str], str], arguments: Sequence[str] | None
) -> int:
    """Play a demo; return the exit code.

    Args:
        name: of its target of `make`.
        description: for `--help`.
        play: given a folder, the screen and the address; returns what the last line says.
        arguments: of the command line; those of the process when `None`.
    """
    parser = argparse.ArgumentParser(prog=f"python -m deploy.dev.{name.replace('-', '_')}", description=description)
    parser.add_argument("--to", required=True, metavar="ADDRESS", help="whom the code is for, such as lan@example.vn")
    parser.add_argument("--directory", type=Path, default=CHECKOUT / ".kip" / name, help="made anew each time")
    asked = parser.parse_args(arguments)
    logging.getLogger("kafka").addHandler(logging.NullHandler())  # else its warnings of a start stand in the story
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # as Ctrl-C: stop what was started, then go
    screen = Screen(sys.stdout)
    try:
        told = play(asked.directory.absolute(), screen, asked.to)
    except LaptopProblem as problem:
        sys.stdout.flush()
        print(f"\n{problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nBroken off; nothing was left running. Once more: make {name}", file=sys.stderr)
        return 130
    screen.last_line(f"{name}: {told}")
    return 0
