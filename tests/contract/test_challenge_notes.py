"""What any `ChallengeStore` owes to who watches a challenge: notes beside its record, and hints of its changes.

The twin in memory and the one on Redis pass the same suite. A commit of another process comes from a second store with
a client of its own, where there is one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import timedelta

import pytest

from services.otp.ports import NOWHERE, Notes, OutboxEntry, Position
from tests.contract.challenge_stores import (
    HEARD_WITHIN,
    KEPT_AFTER_END,
    MS,
    STORES,
    World,
    heard,
    letter_of,
    subject_of,
    with_second_letter,
    withdrawal_of,
    world_of,
)

STANDS = Position(3, 41)
NO_LETTER = OutboxEntry(NOWHERE, "1-0", {})


class ChallengeNotesContract:
    @pytest.fixture(params=STORES)
    async def world(self, request: pytest.FixtureRequest) -> AsyncIterator[World]:
        async with world_of(request) as world:
            yield world

    async def test_nothing_is_noted_of_a_new_challenge(self, world: World) -> None:
        made = await world.challenge()

        await world.commit(made)

        assert await world.notes(made) == Notes()

    async def test_that_a_challenge_is_watched_is_noted_and_renewed(self, world: World) -> None:
        made = await world.challenge()
        await world.commit(made)

        for until in (made.ends_at, made.ends_at + 5 * MS):
            noted = until.replace(microsecond=0)
            await world.store.note_watched(made.id, noted)

            assert await world.notes(made) == Notes(watched_until=noted)

    async def test_where_a_letter_stands_is_noted_when_it_is_published(self, world: World) -> None:
        made = await world.challenge()
        letter, withdrawal = await world.told(made, letter_of(made), withdrawal_of(made))

        await world.store.published([(letter, STANDS)])
        await world.store.published([(withdrawal, Position(5, 99))])

        assert await world.notes(made) == Notes(position=STANDS)

    async def test_that_nobody_knows_where_a_letter_stands_can_be_noted(self, world: World) -> None:
        made = await world.challenge()
        (letter,) = await world.told(made, letter_of(made))

        await world.store.published([(letter, Position(2, -1))])

        assert await world.notes(made) == Notes(position=Position(2, -1))

    async def test_the_place_of_an_earlier_letter_tells_nothing_of_the_newest(self, world: World) -> None:
        made = await world.challenge()
        (first,) = await world.told(made, letter_of(made))
        await world.store.published([(first, STANDS)])
        again = with_second_letter(made)
        (second,) = await world.told(again, letter_of(again))
        before = await world.notes(made)

        await world.store.published([(second, Position(4, 7))])

        assert before == Notes()
        assert await world.notes(made) == Notes(position=Position(4, 7))

    async def test_an_earlier_letter_that_is_published_again_never_stands_for_the_newest(self, world: World) -> None:
        made = await world.challenge()
        (first,) = await world.told(made, letter_of(made))
        await world.commit(with_second_letter(made))

        await world.store.published([(first, STANDS)])

        assert await world.notes(made) == Notes()

    async def test_notes_outlive_changes_of_the_challenge_and_change_no_version(self, world: World) -> None:
        made = await world.challenge()
        (letter,) = await world.told(made, letter_of(made))
        noted = made.ends_at.replace(microsecond=0)
        await world.store.note_watched(made.id, noted)
        await world.store.published([(letter, STANDS)])

        assert await world.commit(replace(made, version=2, attempts=1)) == []

        assert await world.notes(made) == Notes(watched_until=noted, position=STANDS)

    async def test_a_note_brings_no_challenge_back(self, world: World) -> None:
        made = await world.challenge(ends_at=await world.now() - KEPT_AFTER_END + 50 * MS)
        (letter,) = await world.told(made, letter_of(made))
        await world.pass_by(60 * MS)

        await world.store.note_watched(made.id, made.ends_at)
        await world.store.published([(letter, STANDS)])

        loaded = await world.load(made)
        assert (loaded.challenges, loaded.notes) == ({}, {})
        anew = await world.challenge(id=made.id)
        await world.commit(anew)
        assert await world.notes(anew) == Notes()

    @pytest.mark.parametrize("challenge_id", ["", "nonsense }{*", "c00x"])
    async def test_a_note_about_what_is_no_challenge_is_harmless(self, world: World, challenge_id: str) -> None:
        await world.store.note_watched(challenge_id, await world.now())
        await world.store.published([(replace(NO_LETTER, letter=f"{challenge_id}.1"), STANDS)])

        assert (await world.store.load(NOWHERE, challenge_ids=[challenge_id])).notes == {}

    async def test_a_change_by_another_process_is_heard(self, world: World) -> None:
        made = await world.challenge()
        await world.commit(made)
        with world.store.changes(made.id) as changes:
            await world.listened_to(made, changes)

            await world.commit_elsewhere(replace(made, version=2))

            await heard(changes)

    async def test_a_change_between_two_looks_is_heard_by_the_second(self, world: World) -> None:
        made = await world.challenge()
        with world.store.changes(made.id) as changes:
            await world.listened_to(made, changes)
            for version in (1, 2, 3):
                await world.commit_elsewhere(replace(made, version=version))

                await heard(changes)

    async def test_a_change_is_heard_once(self, world: World) -> None:
        made, other = await world.challenge(), await world.challenge()
        with world.store.changes(made.id) as changes, world.store.changes(other.id) as others:
            await world.listened_to(made, changes, others)
            await world.commit_elsewhere(made)
            await heard(changes)

            waiting = asyncio.create_task(heard(changes))
            await world.commit_elsewhere(other)
            await heard(others)  # by now a hint that is not forgotten would have been heard again

            assert not waiting.done()
            await world.commit_elsewhere(replace(made, version=2))
            await waiting

    async def test_all_who_listen_to_a_challenge_are_woken_and_nobody_else(self, world: World) -> None:
        mine, other = await world.challenge(), await world.challenge()  # of one subject, so of one shard
        store = world.store
        with store.changes(mine.id) as one, store.changes(mine.id) as two, store.changes(other.id) as strangers:
            await world.listened_to(mine, one, two, strangers)
            strange = asyncio.create_task(heard(strangers))

            await world.commit_elsewhere(mine)
            await asyncio.gather(heard(one), heard(two))

            assert not strange.done()
            await world.commit_elsewhere(other)
            await strange

    async def test_changes_of_many_shards_are_heard_by_who_began_to_listen_to_all_at_once(self, world: World) -> None:
        made = [await world.challenge(f"citizen-{number}") for number in range(12)]
        with ExitStack() as listening:
            ears = [listening.enter_context(world.store.changes(each.id)) for each in made]
            for each in made:
                await world.listened_to(each)

            for each in made:
                await world.commit_elsewhere(each)

            await asyncio.gather(*map(heard, ears))

    async def test_what_changes_no_challenge_wakes_nobody(self, world: World) -> None:
        made, other = await world.challenge(), await world.challenge()
        shard = world.shard(made)
        await world.commit(made)
        with world.store.changes(made.id) as changes, world.store.changes(other.id) as others:
            await world.listened_to(made, changes, others)
            waiting = asyncio.create_task(heard(changes))

            assert await world.other.commit(shard, subject=subject_of(made)) == []
            assert await world.other.commit(shard, challenge=made) is None
            await world.other.note_watched(made.id, made.ends_at)
            await world.commit_elsewhere(other)
            await heard(others)  # came after whatever the others would have brought

            assert not waiting.done()
            waiting.cancel()
            with suppress(asyncio.CancelledError):
                await waiting

    @pytest.mark.parametrize("challenge_id", ["", "nonsense }{*"])
    async def test_of_what_is_no_challenge_nothing_is_heard(self, world: World, challenge_id: str) -> None:
        with world.store.changes(challenge_id) as changes:
            waiting = asyncio.create_task(changes.next(within=timedelta(milliseconds=50)))

            await world.pass_by(timedelta(milliseconds=60))

            async with asyncio.timeout(HEARD_WITHIN.total_seconds() / 2):
                await waiting


class TestChallengeNotes(ChallengeNotesContract):
    """The suite, over each store."""
