from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator

import pytest


@pytest.fixture
def rubbish_collected() -> Iterator[None]:
    """Collect what the Kafka clients leave unclosed, sockets and event loops, before it is blamed on another test."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        for _ in range(3):  # what one round frees, another may close
            gc.collect()
