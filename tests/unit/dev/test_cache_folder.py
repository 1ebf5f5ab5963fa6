"""The cache folder is the user's own, and processes that fill it take turns."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import pytest

from deploy.dev.cache_folder import cache_folder, one_at_a_time
from deploy.dev.terminal import Terminal
from tests.conditions import wait_until


def test_the_cache_is_where_the_user_wants_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    assert cache_folder() == tmp_path / "kip"


def test_without_a_wish_it_is_below_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))

    assert cache_folder() == tmp_path / ".cache" / "kip"


def test_the_second_waits_for_the_first_and_says_so(tmp_path: Path) -> None:
    lock, said, order = tmp_path / "new" / "x.lock", io.StringIO(), []

    def second() -> None:
        with one_at_a_time(lock, Terminal(said), "fetching"):
            order.append("second")

    waiting = threading.Thread(target=second)
    with one_at_a_time(lock, Terminal(None), "fetching"):
        waiting.start()
        wait_until(said.getvalue, what="the word that it waits")
        order.append("first")
    waiting.join(timeout=5)

    assert said.getvalue() == "waiting: another process is fetching\n"
    assert order == ["first", "second"]
