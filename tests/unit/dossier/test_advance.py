from __future__ import annotations

import pytest

from services.dossier.actions.advance import Advanced, AdvanceDossier, MoveNotAllowed, VersionConflict
from services.dossier.actions.find import FindDossier
from services.dossier.actions.open import OpenDossier
from services.dossier.ports import ArchiveUnavailable, UnknownDossier, UnknownProcedure
from services.dossier.rules.dossier import Dossier, DossierId, Order, move_of
from services.dossier.rules.procedure import State
from tests.fakes.dossier import BOOK, NOON, CountingBell, Dice, FakeClock, InMemoryArchive, InMemoryCatalogue, filing


class Office:
    """The verb with its twins."""

    def __init__(self) -> None:
        self.archive, self.catalogue, self.bell = InMemoryArchive(), InMemoryCatalogue(), CountingBell()
        clock = FakeClock()
        self.advance = AdvanceDossier(self.archive, self.catalogue, clock, self.bell)
        self._open = OpenDossier(self.archive, self.catalogue, clock, CountingBell(), agency="K01", draw=Dice())

    async def open(self) -> Dossier:
        return (await self._open(filing(), caller="portal", idempotency_key="key", trace={})).dossier


def _order(
    dossier: Dossier, to: State = State.ACCEPTED, *, seen: int | None = None, remark: str = "", by: str = "portal"
) -> Order:
    return Order(dossier.id, dossier.version if seen is None else seen, to, remark, by)


async def test_a_move_is_stored_with_its_notice_and_the_bell_rings() -> None:
    office = Office()
    dossier = await office.open()

    advanced = await office.advance(_order(dossier, remark="Hẹn 3/12"))

    assert advanced == Advanced(await office.archive.dossier(dossier.id), repeated=False)
    assert (advanced.dossier.version, advanced.dossier.state) == (2, State.ACCEPTED)
    assert advanced.dossier.steps[1].remark == "Hẹn 3/12"
    assert (await office.archive.backlog()).notices == 2
    assert office.bell.rings == 1


async def test_the_very_same_move_again_gets_the_same_answer_and_mails_nothing_more() -> None:
    office = Office()
    order = _order(await office.open())
    first = await office.advance(order)

    again = await office.advance(order)

    assert again == Advanced(first.dossier, repeated=True)
    assert (await office.archive.backlog()).notices == 2


async def test_a_repeat_that_comes_after_further_moves_is_told_where_the_dossier_is_now() -> None:
    office = Office()
    order = _order(await office.open())
    first = await office.advance(order)
    await office.advance(_order(first.dossier, State.IN_PROGRESS))

    again = await office.advance(order)

    assert again.repeated
    assert again.dossier.state is State.IN_PROGRESS


@pytest.mark.parametrize("seen", [1, 3, 2**64 - 1])
async def test_another_version_than_seen_is_a_conflict_that_names_both(seen: int) -> None:
    office = Office()
    dossier = await office.open()
    await office.advance(_order(dossier))

    with pytest.raises(VersionConflict) as refusal:
        await office.advance(_order(dossier, State.REJECTED, seen=seen))

    assert refusal.value.metadata == {"expected_version": str(seen), "version": "2"}


async def test_the_same_move_by_somebody_else_is_a_conflict() -> None:
    office = Office()
    dossier = await office.open()
    await office.advance(_order(dossier))

    with pytest.raises(VersionConflict):
        await office.advance(_order(dossier, by="counter"))


async def test_who_is_overtaken_between_look_and_move_is_told_so() -> None:
    office = Office()
    dossier = await office.open()
    theirs = move_of(dossier, _order(dossier, State.REJECTED, by="counter"), BOOK, NOON)
    office.archive.before_move = lambda: office.archive.move_at_once(theirs)

    with pytest.raises(VersionConflict):
        await office.advance(_order(dossier))

    assert (await office.archive.dossier(dossier.id)).state is State.REJECTED
    assert office.bell.rings == 0


async def test_who_is_overtaken_by_their_own_repeat_gets_its_answer() -> None:
    office = Office()
    dossier = await office.open()
    order = _order(dossier)
    office.archive.before_move = lambda: office.archive.move_at_once(move_of(dossier, order, BOOK, NOON))

    advanced = await office.advance(order)

    assert advanced.repeated
    assert advanced.dossier.version == 2


async def test_a_move_outside_the_procedure_is_refused_and_names_the_allowed_ones() -> None:
    office = Office()
    dossier = await office.open()

    with pytest.raises(MoveNotAllowed) as refusal:
        await office.advance(_order(dossier, State.DONE))

    assert refusal.value.metadata == {"from": "REGISTERED", "to": "DONE", "allowed": "ACCEPTED,REJECTED"}
    assert (await office.archive.dossier(dossier.id)).version == 1


async def test_an_unknown_dossier_is_refused() -> None:
    with pytest.raises(UnknownDossier):
        await Office().advance(Order(DossierId("6f6e1f4e-4c3b-4b8e-9d0a-0c4b5f0f7d11"), 1, State.DONE, "", "portal"))


async def test_a_dossier_whose_procedure_was_taken_away_stays_where_it_is() -> None:
    office = Office()
    dossier = await office.open()
    office.catalogue.procedures.clear()

    with pytest.raises(UnknownProcedure):
        await office.advance(_order(dossier))

    assert (await office.archive.dossier(dossier.id)).version == 1


async def test_an_archive_that_is_away_moves_nothing() -> None:
    office = Office()
    dossier = await office.open()
    office.archive.away = True

    with pytest.raises(ArchiveUnavailable):
        await office.advance(_order(dossier))


async def test_a_dossier_is_found_as_it_is_now() -> None:
    office = Office()
    dossier = await office.open()
    advanced = await office.advance(_order(dossier))

    found = await FindDossier(office.archive)(dossier.id)

    assert found == advanced.dossier
