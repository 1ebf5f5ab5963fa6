"""A missing server skips on a laptop and fails in CI, with the line that says how to get it."""

from __future__ import annotations

import pytest

from tests.servers.require import require

HOW = "Postfix is not installed. Debian: apt-get install --no-install-recommends postfix"


def test_nothing_missing_is_no_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")

    require(None)


def test_on_a_laptop_the_test_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)

    with pytest.raises(pytest.skip.Exception, match="apt-get install"):
        require(HOW)


def test_in_ci_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")

    with pytest.raises(pytest.fail.Exception, match="apt-get install"):
        require(HOW)
