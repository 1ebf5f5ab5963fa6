"""What a test does when the server it needs is not on this machine: skip on a laptop, fail in CI."""

from __future__ import annotations

import os

import pytest


def require(why_missing: str | None) -> None:
    """Go on when nothing is missing; else skip with the reason, or fail with it when `CI` is set."""
    if why_missing is None:
        return
    if os.environ.get("CI"):
        pytest.fail(why_missing)
    pytest.skip(why_missing)
