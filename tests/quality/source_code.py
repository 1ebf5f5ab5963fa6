"""Reading our own code and documents without running them: what the "two places agree" tests look at."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
SERVICES = ("otp", "mailer", "dossier", "lagwatch")
FENCED = re.compile(r"^( *)```.*?^\1```", re.DOTALL | re.MULTILINE)


def project_files(pattern: str = "*") -> list[Path]:
    """Return the files that are, or with the next commit would be, in the repository."""
    git = shutil.which("git")
    if git is None:
        raise RuntimeError("git is needed to know which files belong to the project")
    command = [git, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", pattern]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [file for file in (ROOT / name for name in listed.split("\0") if name) if file.is_file()]


@cache
def parsed(file: Path) -> ast.Module:
    """Return the syntax tree of a Python file."""
    return ast.parse(file.read_text(), filename=str(file))


def texts(file: Path) -> Iterator[str]:
    """Yield the string constants of a Python file that are no docstrings."""
    bare = {id(node.value) for node in ast.walk(parsed(file)) if isinstance(node, ast.Expr)}
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in bare:
            yield node.value


@cache
def service_modules() -> Mapping[str, Path]:
    """Return every module below `services/` by its name."""
    names = {file: ".".join(file.relative_to(ROOT).with_suffix("").parts) for file in (ROOT / "services").rglob("*.py")}
    return {name.removesuffix(".__init__"): file for file, name in names.items()}


@cache
def imported_names(file: Path) -> frozenset[str]:
    """Return the dotted names that a file imports; `from a import b` gives `a` and `a.b`."""
    names: set[str] = set()
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(names)


def tables(document: str) -> list[list[dict[str, str]]]:
    """Return the tables of a Markdown document, each a list of rows by the names in its head."""
    found = []
    for block in re.findall(r"(?:^ *\|.*\|\n)+", document, re.MULTILINE):
        head, _, *rows = [_cells(line) for line in block.splitlines()]
        found.append([dict(zip(head, row, strict=True)) for row in rows])
    return found


def table_with(document: str, column: str) -> Sequence[Mapping[str, str]]:
    """Return the one table that has this column."""
    (table,) = [table for table in tables(document) if column in table[0]]
    return table


def quoted(cell: str) -> list[str]:
    """Return what stands in backticks."""
    return re.findall(r"`([^`]+)`", cell)


def section(document: str, heading: str) -> str:
    """Return the text below `## heading`, up to the next heading of that level; empty when there is none."""
    match = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", document, re.DOTALL | re.MULTILINE)
    return match.group(1) if match else ""


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
