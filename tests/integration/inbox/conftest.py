"""One inbox for all tests of this folder; each test finds it empty and well-behaved."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.inbox.running_inbox import RunningInbox, start_inbox


@pytest.fixture(scope="package")
def shared_inbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningInbox]:
    inbox = start_inbox(tmp_path_factory.mktemp("inbox"))
    yield inbox
    assert inbox.stop() == 0


@pytest.fixture
def inbox(shared_inbox: RunningInbox) -> RunningInbox:
    shared_inbox.client.set_behaviour()
    shared_inbox.client.clear()
    return shared_inbox
