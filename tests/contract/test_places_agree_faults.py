"""Faults: each test that the mailer's table of faults names is there, and each line names one."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.quality.source_code import ROOT, parsed, section

README = ROOT / "services" / "mailer" / "README.md"
PROOF = re.compile(r"\[`(test_\w+)`\]\(([^)]+\.py)\)")
HEAD = 2  # lines of a table that are no rows


def rows() -> list[str]:
    lines = section(README.read_text(), "When something fails").splitlines()
    return [line for line in lines if line.startswith("|")][HEAD:]


def functions_of(file: Path) -> set[str]:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(parsed(file)) if isinstance(node, functions)}


def test_every_line_of_the_table_names_a_test() -> None:
    assert len(rows()) >= 12
    assert [row for row in rows() if not PROOF.search(row.rsplit("|", 2)[-2])] == []


def test_every_test_that_the_table_names_is_there() -> None:
    named = {(name, (README.parent / link).resolve()) for row in rows() for name, link in PROOF.findall(row)}

    assert {(name, file) for name, file in named if not file.exists() or name not in functions_of(file)} == set()
