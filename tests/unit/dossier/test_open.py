from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from services.dossier.actions.open import IdempotencyKeyReused, OpenDossier, Opened
from services.dossier.ports import ArchiveUnavailable, UnknownProcedure
from services.dossier.rules.dossier import Filing
from services.dossier.rules.procedure import State
from tests.fakes.dossier import CountingBell, Dice, FakeClock, InMemoryArchive, InMemoryCatalogue, filing


class Office:
    """The verb with its twins."""

    def __init__(self, draw: Callable[[int], int] | None = None) -> None:
        self.archive, self.clock, self.bell = InMemoryArchive(), FakeClock(), CountingBell()
        self._open = OpenDossier(
            self.archive, InMemoryCatalogue(), self.clock, self.bell, agency="K01", draw=draw or Dice()
        )

    async def open(self, filed: Filing | None = None, *, caller: str = "portal", key: str = "key") -> Opened:
        return await self._open(filed or filing(), caller=caller, idempotency_key=key, trace={})


async def test_a_filing_becomes_a_dossier_with_a_notice_waiting() -> None:
    office = Office()

    opened = await office.open()

    assert not opened.repeated
    assert await office.archive.dossier(opened.dossier.id) == opened.dossier
    assert opened.dossier.number.startswith("K01-261125-")
    assert opened.dossier.state is State.REGISTERED
    assert (await office.archive.backlog()).notices == 1
    assert office.bell.rings == 1


async def test_a_repeat_gets_the_same_dossier_and_mails_nothing_more() -> None:
    office = Office()
    first = await office.open()

    again = await office.open()

    assert again == Opened(first.dossier, repeated=True)
    assert (await office.archive.backlog()).notices == 1
    assert office.bell.rings == 1


@pytest.mark.parametrize("other", [filing(email="lan2@example.vn"), filing(subject="citizen-8"), filing("quiet")])
async def test_the_same_key_for_another_request_is_refused(other: Filing) -> None:
    office = Office()
    await office.open()

    with pytest.raises(IdempotencyKeyReused):
        await office.open(other)

    assert (await office.archive.backlog()).notices == 1


async def test_the_same_key_of_another_caller_is_another_key() -> None:
    office = Office()
    first = await office.open(caller="portal")

    second = await office.open(caller="counter")

    assert second.dossier.id != first.dossier.id


async def test_after_a_day_the_key_opens_a_new_dossier() -> None:
    office = Office()
    first = await office.open()
    office.clock.pass_by(timedelta(hours=24))

    second = await office.open()

    assert not second.repeated
    assert second.dossier.id != first.dossier.id


async def test_a_number_that_is_taken_is_drawn_again() -> None:
    office = Office(Dice(*[7] * 6, *[7] * 6, *[9] * 6))
    first = await office.open(key="one")

    second = await office.open(key="two")

    assert (first.dossier.number[-6:], second.dossier.number[-6:]) == ("777777", "999999")


async def test_a_dice_that_always_falls_the_same_is_a_fault() -> None:
    office = Office(lambda _: 7)
    await office.open(key="one")

    with pytest.raises(RuntimeError, match="random source"):
        await office.open(key="two")


async def test_an_unknown_procedure_is_refused_by_name_and_stores_nothing() -> None:
    office = Office()

    with pytest.raises(UnknownProcedure) as refusal:
        await office.open(filing("fishing-licence"))

    assert refusal.value.metadata == {"procedure": "fishing-licence"}
    assert (await office.open()).repeated is False  # the key was not used up


async def test_a_silent_procedure_opens_without_a_notice() -> None:
    office = Office()

    opened = await office.open(filing("quiet"))

    assert opened.dossier.steps[0].notice is None
    assert (await office.archive.backlog()).notices == 0


async def test_an_archive_that_is_away_is_told_with_when_to_come_back() -> None:
    office = Office()
    office.archive.away = True

    with pytest.raises(ArchiveUnavailable) as refusal:
        await office.open()

    assert refusal.value.retry_after is not None
    assert office.bell.rings == 0
