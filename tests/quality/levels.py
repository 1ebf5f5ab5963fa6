"""Tests and minutes per level, from the JUnit files of a run: `python -m tests.quality.levels FOLDER`.

Exits 1 when a level is missing, ran no test, or skipped one: in CI a skipped test is a server that was not installed.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

LEVELS = ("unit", "contract", "integration", "e2e")


@dataclass(frozen=True, slots=True)
class Level:
    """What one level did."""

    name: str
    tests: int
    skipped: tuple[str, ...]
    seconds: float


def read_level(file: Path) -> Level:
    """Read one JUnit file, written by our own pytest."""
    suites = ET.parse(file).getroot().iter("testsuite")  # noqa: S314 - our own file
    tests, seconds, skipped = 0, 0.0, []
    for suite in suites:
        tests += int(suite.get("tests", "0"))
        seconds += float(suite.get("time", "0"))
        skipped += [
            f"{case.get('classname')}.{case.get('name')}: {_reason(case)}"
            for case in suite.iter("testcase")
            if case.find("skipped") is not None
        ]
    return Level(file.stem, tests, tuple(skipped), seconds)


def _reason(case: ET.Element) -> str:
    skipped = case.find("skipped")
    return "" if skipped is None else skipped.get("message", "")


def main() -> int:
    """Print the table; return the exit code."""
    parser = argparse.ArgumentParser(description="Tests and minutes per level.")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    problems = []
    print(f"{'level':<12} {'tests':>6} {'minutes':>8}")
    for name in LEVELS:
        file = folder / f"{name}.xml"
        if not file.exists():
            problems.append(f"{name}: did not run")
            continue
        level = read_level(file)
        print(f"{level.name:<12} {level.tests:>6} {level.seconds / 60:>8.1f}")
        problems += [f"{name}: skipped {test}" for test in level.skipped]
        if level.tests == 0:
            problems.append(f"{name}: ran no test")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
