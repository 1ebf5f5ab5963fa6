"""Redis: every key that is built is in the table of its store, and every script says which keys it touches.

Channels are named in prose, by the store and by the README: nothing is kept in them.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.quality.source_code import ROOT, imported_names, parsed, quoted, service_modules, table_with

TAG = re.compile(r"\{[^{}]+\}")  # what decides the slot of a key in a cluster
ALONE = {"mailer:relayed:<>:<>", "mailer:log:<>"}  # nothing else is asked for together with these
PART = re.compile(r"<[^>]+>")  # what differs from key to key, such as <id>
ADAPTERS = [file for name, file in sorted(service_modules().items()) if ".outbound.redis_" in name]
SCRIPTS = sorted((ROOT / "services").rglob("*.lua"))


def documented(store: Path) -> set[str]:
    table = table_with((ast.get_docstring(parsed(store)) or "") + "\n", "key")
    return {PART.sub("<>", name) for row in table for name in quoted(row["key"])}


def built(adapter: Path, kind: str = "key") -> set[str]:
    """Return what the functions `…_key`, or of another kind, return, each filled-in part as `<>` as in a table."""
    names = set()
    for function in parsed(adapter).body:
        if isinstance(function, ast.FunctionDef) and function.name.endswith(f"_{kind}"):
            (answer,) = [node.value for node in function.body if isinstance(node, ast.Return)]
            assert isinstance(answer, ast.JoinedStr), f"{function.name} must build its {kind} in one f-string"
            parts = [str(part.value) if isinstance(part, ast.Constant) else "<>" for part in answer.values]
            names.add("".join(parts))
    return names


def _uses(store: Path, adapter: Path) -> bool:
    return any(name.endswith(f".{adapter.stem}") for name in imported_names(store))


STORES = [adapter for adapter in ADAPTERS if built(adapter)]


def test_the_stores_are_found() -> None:
    assert [store.name for store in STORES] == [
        "redis_ledger.py",
        "redis_quotas.py",
        "redis_store.py",
        "redis_tally.py",
    ]
    others = ["redis_receipts.py", "redis_batches.py", "redis_calls.py", "redis_changes.py", "redis_records.py"]
    assert [adapter.name for adapter in ADAPTERS if adapter not in STORES] == others


@pytest.mark.parametrize("store", STORES, ids=lambda file: file.stem)
def test_a_channel_is_named_by_its_store_and_by_the_readme(store: Path) -> None:
    siblings = [adapter for adapter in ADAPTERS if adapter.parent == store.parent]
    channels = set().union(*(built(adapter, "channel") for adapter in siblings if _uses(store, adapter)))

    for document in (ast.get_docstring(parsed(store)) or "", (store.parents[1] / "README.md").read_text()):
        assert channels <= {PART.sub("<>", name) for name in quoted(document)}


@pytest.mark.parametrize("store", STORES, ids=lambda file: file.stem)
def test_the_table_of_a_store_lists_exactly_the_keys_that_it_builds(store: Path) -> None:
    assert documented(store) == built(store)


@pytest.mark.parametrize("store", STORES, ids=lambda file: file.stem)
def test_the_readme_of_a_service_lists_the_keys_of_its_stores(store: Path) -> None:
    readme = (store.parents[1] / "README.md").read_text()
    siblings = [other for other in STORES if other.parent == store.parent]

    listed = {name for row in table_with(readme, "key") for name in quoted(row["key"])}

    assert {PART.sub("<>", name) for name in listed} == set().union(*map(documented, siblings))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda file: file.name)
def test_a_script_begins_with_what_it_does_and_every_key_it_touches(script: Path) -> None:
    text = script.read_text()
    header = "".join(line for line in text.splitlines(keepends=True) if line.startswith("--"))

    assert text.startswith(f"-- {script.stem}: ")
    assert text.index(header.splitlines()[-1]) < text.index("redis.call")
    assert re.search(r"^-- KEYS", header, re.MULTILINE)
    assert set(re.findall(r"\bKEYS\[\d+\]", text)) <= set(re.findall(r"\bKEYS\[\d+\]", header))


@pytest.mark.parametrize("store", STORES, ids=lambda file: file.stem)
def test_a_key_says_its_slot_or_is_always_asked_for_alone(store: Path) -> None:
    for key in built(store) - ALONE:
        assert len(TAG.findall(key)) == 1, key
