"""Redis: every key that is built is in the table of its store, and every script says which keys it touches."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.quality.source_code import ROOT, parsed, quoted, service_modules, table_with

PART = re.compile(r"<[^>]+>")  # what differs from key to key, such as <id>
STORES = [file for name, file in sorted(service_modules().items()) if ".outbound.redis_" in name]
SCRIPTS = sorted((ROOT / "services").rglob("*.lua"))


def documented(store: Path) -> set[str]:
    table = table_with((ast.get_docstring(parsed(store)) or "") + "\n", "key")
    return {PART.sub("<>", name) for row in table for name in quoted(row["key"])}


def built(store: Path) -> set[str]:
    """Return what the functions `…_key` return, each filled-in part as `<>`, as the table writes it."""
    keys = set()
    for function in parsed(store).body:
        if isinstance(function, ast.FunctionDef) and function.name.endswith("_key"):
            (answer,) = [node.value for node in function.body if isinstance(node, ast.Return)]
            assert isinstance(answer, ast.JoinedStr), f"{function.name} must build its key in one f-string"
            parts = [str(part.value) if isinstance(part, ast.Constant) else "<>" for part in answer.values]
            keys.add("".join(parts))
    return keys


def test_the_stores_are_found() -> None:
    assert [store.name for store in STORES] == ["redis_ledger.py", "redis_store.py"]


@pytest.mark.parametrize("store", STORES, ids=lambda file: file.stem)
def test_the_table_of_a_store_lists_exactly_the_keys_that_it_builds(store: Path) -> None:
    assert documented(store) == built(store)


@pytest.mark.parametrize("store", STORES, ids=lambda file: file.stem)
def test_the_readme_of_a_service_lists_the_same_keys(store: Path) -> None:
    readme = (store.parents[1] / "README.md").read_text()

    listed = {name for row in table_with(readme, "key") for name in quoted(row["key"])}

    assert {PART.sub("<>", name) for name in listed} == documented(store)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda file: file.name)
def test_a_script_begins_with_what_it_does_and_every_key_it_touches(script: Path) -> None:
    text = script.read_text()
    header = "".join(line for line in text.splitlines(keepends=True) if line.startswith("--"))

    assert text.startswith(f"-- {script.stem}: ")
    assert text.index(header.splitlines()[-1]) < text.index("redis.call")
    assert re.search(r"^-- KEYS", header, re.MULTILINE)
    assert set(re.findall(r"\bKEYS\[\d+\]", text)) <= set(re.findall(r"\bKEYS\[\d+\]", header))
