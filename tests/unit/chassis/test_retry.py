from __future__ import annotations

from datetime import timedelta

import pytest

from services.chassis.retry import LONGEST_PAUSE, patiently


class Sleeps:
    """Stands in for waiting: remembers how long it would have been."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


class Fails:
    """An operation that fails some times, then answers."""

    def __init__(self, times: int, error: type[Exception] = ConnectionError) -> None:
        self.left = times
        self.error = error

    async def __call__(self) -> str:
        if self.left:
            self.left -= 1
            raise self.error
        return "answer"


async def test_an_operation_is_repeated_until_it_answers() -> None:
    sleeps = Sleeps()

    answer = await patiently(Fails(9), what="x", on=(ConnectionError,), sleep=sleeps)

    assert answer == "answer"
    assert len(sleeps.seconds) == 9
    assert max(sleeps.seconds) <= LONGEST_PAUSE.total_seconds()


async def test_a_function_that_returns_a_coroutine_is_awaited() -> None:
    operation = Fails(1)

    answer = await patiently(lambda: operation(), what="x", on=(ConnectionError,), sleep=Sleeps())  # noqa: PLW0108 - the point

    assert answer == "answer"


async def test_an_error_of_another_kind_passes_at_once() -> None:
    sleeps = Sleeps()

    with pytest.raises(KeyError):
        await patiently(Fails(1, KeyError), what="x", on=(ConnectionError,), sleep=sleeps)

    assert sleeps.seconds == []


async def test_patience_has_an_end() -> None:
    with pytest.raises(ConnectionError):
        await patiently(Fails(10**6), what="x", on=(ConnectionError,), within=timedelta(milliseconds=1))
