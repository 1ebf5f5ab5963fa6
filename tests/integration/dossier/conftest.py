from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from tests.integration.dossier.dossier_process import DossierProcess
from tests.integration.dossier.mailer_hands import MailerHands, mailer_hands


class Broker(Protocol):
    """The suite's broker."""

    @property
    def address(self) -> str:
        """HOST:PORT."""


@pytest.fixture
def mailer(kafka: Broker) -> Iterator[MailerHands]:
    """A test in the mailer's place, who hears what is asked from now on."""
    with mailer_hands(kafka.address) as hands:
        yield hands


@pytest.fixture
def dossier(kafka: Broker, tmp_path: Path) -> Iterator[DossierProcess]:
    """The service on the suite's broker, not started yet."""
    process = DossierProcess(tmp_path, kafka.address)
    yield process
    process.kill()
