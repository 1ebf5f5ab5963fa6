from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.integration.inbox.running_inbox import RunningInbox, start_inbox
from tests.integration.mailer.smtp_wire import SmtpWire, smtp_wire


@pytest.fixture(scope="package")
def shared_inbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningInbox]:
    running = start_inbox(tmp_path_factory.mktemp("inbox"))
    yield running
    assert running.stop() == 0


@pytest.fixture
def inbox(shared_inbox: RunningInbox) -> RunningInbox:
    """The suite's relay, empty and well-behaved."""
    shared_inbox.client.set_behaviour()
    shared_inbox.client.clear()
    return shared_inbox


@pytest.fixture
async def smtp(inbox: RunningInbox) -> AsyncIterator[SmtpWire]:
    async with smtp_wire(inbox) as wire:
        yield wire
