"""Debian's Chromium, driven by Playwright, for tests that look at a page as a person would.

`KIP_CHROMIUM` names another browser of its family.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
# Root has no sandbox in it; the rest keeps the browser from talking to anyone but the page under test.
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


def find_chromium() -> Path | None:
    """Return the browser's program: `KIP_CHROMIUM`, else the first known name on the path."""
    names = [chosen] if (chosen := os.environ.get("KIP_CHROMIUM")) else NAMES
    return next((Path(found) for found in map(shutil.which, names) if found), None)


def why_missing() -> str | None:
    """Say how to get it, when it is not there."""
    if find_chromium() is None:
        named = os.environ.get("KIP_CHROMIUM", "Chromium")
        return f"{named} is not installed. Debian: apt-get install --no-install-recommends chromium"
    return None


@contextmanager
def running_chromium() -> Iterator[Browser]:
    """Run a headless browser; call it outside an event loop."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=list(ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()
