"""Two stacks of real processes: one that nothing ever happens to, and one whose processes are killed and come back.

Each starts when the first test asks and goes with the last; a test may count on a whole stack and leaves a whole one.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from deploy.dev.inbox.client import InboxClient
from tests.e2e.portal import Portal
from tests.e2e.stacks import Running, new_stack


@pytest.fixture(scope="session")
def peaceful(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Everything runs, and keeps running."""
    running = new_stack(tmp_path_factory.mktemp("peaceful"))
    with running.stack:
        yield running


@pytest.fixture(scope="session")
def shaken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Everything runs; tests may kill processes and must start them again."""
    running = new_stack(tmp_path_factory.mktemp("shaken"))
    with running.stack:
        yield running


@pytest.fixture
def portal(peaceful: Running) -> Iterator[Portal]:
    """A caller of the peaceful stack."""
    with peaceful.portal() as caller:
        yield caller


@pytest.fixture
def inbox(peaceful: Running) -> Iterator[InboxClient]:
    """The mailbox of the peaceful stack, well-behaved again after each test."""
    yield peaceful.inbox
    peaceful.inbox.set_behaviour()
