"""What any `ChallengeStore` owes otp: the twin in memory and the one on Redis pass the same suite.

Notes and hints are in `test_challenge_notes.py`; what only the one on Redis can break (ends of keys, a server that is
away or slow) is in `test_challenge_store_redis.py`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, timedelta

import pytest
from hypothesis import HealthCheck, given, settings

from services.otp.ports import SHARDS, Loaded, Position
from services.otp.rules.announcement import Announcement
from services.otp.rules.challenge import Challenge
from services.otp.rules.subject import ROW_KEPT, Subject
from tests.contract.challenge_stores import (
    CHALLENGES,
    KEPT_AFTER_END,
    MS,
    PURPOSE,
    STORES,
    SUBJECT_KEY,
    SUBJECTS,
    World,
    claim,
    encode,
    letter_of,
    subject_of,
    withdrawal_of,
    world_of,
)


class ChallengeStoreContract:
    @pytest.fixture(params=STORES)
    async def world(self, request: pytest.FixtureRequest) -> AsyncIterator[World]:
        async with world_of(request) as world:
            yield world

    def test_an_id_carries_the_shard_of_its_purpose_and_subject(self, world: World) -> None:
        subjects = [f"citizen-{number}" for number in range(500)]

        shards = [world.store.shard_of(world.store.mint_id(PURPOSE, subject)) for subject in subjects]

        assert shards == [world.store.shard_of(world.store.mint_id(PURPOSE, subject)) for subject in subjects]
        assert all(shard is not None and 0 <= shard < SHARDS for shard in shards)
        assert len(set(shards)) > SHARDS / 2
        others = [world.store.shard_of(world.store.mint_id("login", subject)) for subject in subjects]
        assert others != shards

    def test_no_two_ids_are_alike_and_a_handle_can_hold_them(self, world: World) -> None:
        ids = [world.store.mint_id(PURPOSE, "citizen-7") for _ in range(1000)]

        assert len(set(ids)) == 1000
        assert all(one.isascii() and one.isalnum() and len(one) <= 62 for one in ids)

    @pytest.mark.parametrize(
        "text", ["", "c", "c00", "x" * 29, "c00" + "0" * 99, "C00" + "0" * 32, "c00}" + "0" * 31, "cgg" + "0" * 26]
    )
    def test_what_is_no_id_has_no_shard(self, world: World, text: str) -> None:
        assert world.store.shard_of(text) is None

    @pytest.mark.parametrize("change", [str.upper, lambda one: one + "0", lambda one: one[:-1], lambda one: f" {one}"])
    def test_what_is_almost_an_id_has_no_shard(self, world: World, change: object) -> None:
        assert callable(change)

        assert world.store.shard_of(change(world.store.mint_id(PURPOSE, "citizen-7"))) is None

    async def test_of_nothing_only_the_time_is_loaded(self, world: World) -> None:
        loaded = await world.store.load(7, subject_key=SUBJECT_KEY, challenge_ids=["c07a", "c07b", "nonsense }{*"])

        assert loaded == Loaded(loaded.now, None, {})
        assert loaded.now.tzinfo is UTC

    async def test_the_clock_of_the_store_moves(self, world: World) -> None:
        before = await world.now()

        await world.pass_by(5 * MS)

        assert await world.now() >= before + 5 * MS

    async def test_a_commit_creates_records_and_entries_together(self, world: World) -> None:
        made = await world.challenge()
        told: list[Announcement] = [letter_of(made), withdrawal_of(made)]

        entries = await world.commit(made, subject=subject_of(made), announcements=told)

        assert entries is not None
        assert [(entry.shard, entry.record) for entry in entries] == [(world.shard(made), encode(one)) for one in told]
        assert [entry.letter for entry in entries] == [f"{made.id}.1", ""]
        assert entries[0].id != entries[1].id
        loaded = await world.load(made, subject_key=SUBJECT_KEY)
        assert (loaded.subject, loaded.challenges) == (subject_of(made), {made.id: made})
        assert await world.store.outbox_size() == 2

    async def test_a_commit_replaces_the_version_before_it_and_leaves_what_it_does_not_name(self, world: World) -> None:
        made = await world.challenge()
        await world.commit(made, subject=subject_of(made))

        entries = await world.commit(replace(made, version=2, attempts=1))

        assert entries == []
        loaded = await world.load(made, subject_key=SUBJECT_KEY)
        assert loaded.challenges[made.id].attempts == 1
        assert loaded.subject == subject_of(made)

    @pytest.mark.parametrize("names", [{"challenge", "subject"}, {"challenge"}, {"subject"}, set[str]()], ids=str)
    async def test_any_record_may_be_left_out_of_a_commit(self, world: World, names: set[str]) -> None:
        made = await world.challenge()
        challenge, subject = (
            (made if "challenge" in names else None),
            (subject_of(made) if "subject" in names else None),
        )

        entries = await world.store.commit(
            world.shard(made), challenge=challenge, subject=subject, announcements=[letter_of(made)]
        )

        assert entries is not None
        assert [entry.record for entry in entries] == [encode(letter_of(made))]
        loaded = await world.load(made, subject_key=SUBJECT_KEY)
        assert (loaded.challenges.get(made.id), loaded.subject) == (challenge, subject)

    async def test_a_subject_alone_has_versions_too(self, world: World) -> None:
        made = await world.challenge()
        shard = world.shard(made)
        await world.commit(made, subject=subject_of(made))

        second = await world.store.commit(shard, subject=subject_of(made, 2, failures=1))
        late = await world.store.commit(shard, subject=subject_of(made, 2, failures=9), announcements=[letter_of(made)])

        assert (second, late) == ([], None)
        loaded = await world.load(made, subject_key=SUBJECT_KEY)
        assert (loaded.subject, loaded.challenges) == (subject_of(made, 2, failures=1), {made.id: made})
        assert await world.store.outbox_size() == 0

    @pytest.mark.parametrize(
        ("challenge_version", "subject_version"),
        [(1, 2), (3, 2), (2, 1), (2, 3), (1, 1), (3, 3), (0, 2)],
        ids=str,
    )
    async def test_a_version_that_does_not_follow_writes_nothing_at_all(
        self, world: World, challenge_version: int, subject_version: int
    ) -> None:
        made = await world.challenge()
        await world.commit(made, subject=subject_of(made))
        late = replace(made, version=challenge_version, attempts=9)
        letter = letter_of(late)

        entries = await world.commit(late, subject=subject_of(late, subject_version), announcements=[letter])

        assert entries is None
        loaded = await world.load(made, subject_key=SUBJECT_KEY)
        assert (loaded.subject, loaded.challenges) == (subject_of(made), {made.id: made})
        assert await world.store.outbox_size() == 0

    async def test_a_rehearsal_keeps_nothing_and_may_be_repeated(self, world: World) -> None:
        made = await world.challenge()

        for _ in range(2):
            await world.store.rehearse(world.shard(made), challenge=made, subject=subject_of(made))

        loaded = await world.load(made, subject_key=subject_of(made).key)
        assert (loaded.subject, loaded.challenges) == (None, {})
        assert await world.store.outbox_size() == 0

    async def test_a_record_that_is_not_there_can_only_be_created(self, world: World) -> None:
        made = await world.challenge(version=2)

        assert await world.commit(made) is None
        assert (await world.load(made)).challenges == {}

    async def test_of_100_writers_of_one_version_exactly_one_wins(self, world: World) -> None:
        made = await world.challenge()
        await world.commit(made, subject=subject_of(made))
        writers = [replace(made, version=2, attempts=number) for number in range(100)]

        answers = await asyncio.gather(
            *(world.commit(mine, subject=subject_of(mine, 2), announcements=[letter_of(mine)]) for mine in writers)
        )

        (winner,) = [place for place, answer in enumerate(answers) if answer is not None]
        assert (await world.load(made)).challenges == {made.id: writers[winner]}
        assert await world.store.outbox_size() == 1

    async def test_of_100_writers_of_a_new_subject_exactly_one_wins(self, world: World) -> None:
        writers = [await world.challenge("citizen-7") for _ in range(100)]

        answers = await asyncio.gather(*(world.commit(mine, subject=subject_of(mine)) for mine in writers))

        (winner,) = [place for place, answer in enumerate(answers) if answer is not None]
        loaded = await world.load(*writers, subject_key=SUBJECT_KEY)
        assert loaded.challenges == {writers[winner].id: writers[winner]}
        assert loaded.subject == subject_of(writers[winner])

    async def test_30_counters_that_load_decide_and_commit_lose_no_count(self, world: World) -> None:
        made = await world.challenge()
        await world.commit(made)

        async def count() -> int:
            lost = 0
            while True:
                known = (await world.load(made)).challenges[made.id]
                if await world.commit(replace(known, version=known.version + 1, attempts=known.attempts + 1)) == []:
                    return lost
                lost += 1

        lost = await asyncio.gather(*(count() for _ in range(30)))

        known = (await world.load(made)).challenges[made.id]
        assert (known.attempts, known.version) == (30, 31)
        assert sum(lost) > 0  # there was a race

    async def test_records_of_a_shard_are_not_seen_from_another(self, world: World) -> None:
        made = await world.challenge()
        await world.commit(made, subject=subject_of(made))

        loaded = await world.store.load(
            (world.shard(made) + 1) % SHARDS, subject_key=SUBJECT_KEY, challenge_ids=[made.id]
        )

        assert (loaded.subject, loaded.challenges) == (None, {})

    async def test_a_subject_and_a_challenge_of_the_same_name_are_two_records(self, world: World) -> None:
        made = await world.challenge()
        await world.commit(made, subject=replace(subject_of(made), key=made.id))

        loaded = await world.load(made, subject_key=made.id)

        assert loaded.challenges == {made.id: made}
        assert loaded.subject == replace(subject_of(made), key=made.id)

    async def test_records_are_kept_an_hour_past_the_end_of_the_challenge_and_not_longer(self, world: World) -> None:
        ends_at = await world.now() - KEPT_AFTER_END + timedelta(milliseconds=400)
        made = await world.challenge(ends_at=ends_at)
        await world.commit(made, subject=subject_of(made))
        assert (await world.load(made, subject_key=SUBJECT_KEY)).challenges == {made.id: made}

        await world.pass_by(timedelta(milliseconds=450))

        loaded = await world.load(made, subject_key=SUBJECT_KEY)
        assert (loaded.subject, loaded.challenges) == (None, {})
        assert await world.commit(replace(made, version=2)) is None

    async def test_each_record_is_kept_for_its_own_time(self, world: World) -> None:
        now = await world.now()
        made = await world.challenge(ends_at=now - KEPT_AFTER_END + timedelta(milliseconds=200))
        guessed_at = subject_of(made, failures=1, counted_at=now)  # a row of failures outlives the challenge
        await world.commit(made, subject=guessed_at)

        await world.pass_by(timedelta(milliseconds=250))

        loaded = await world.load(made, subject_key=SUBJECT_KEY)
        assert (loaded.subject, loaded.challenges) == (guessed_at, {})

    @pytest.mark.parametrize("has_wishes", [False, True], ids=["nothing in it", "only what has ended"])
    async def test_a_record_of_which_nothing_is_worth_keeping_goes_with_its_commit(
        self, world: World, *, has_wishes: bool
    ) -> None:
        now = await world.now()
        made = await world.challenge(ends_at=now - 2 * KEPT_AFTER_END)
        wishes = subject_of(made).wishes if has_wishes else ()
        row = Subject(SUBJECT_KEY, 1, wishes, failures=3, counted_at=now - ROW_KEPT / 2)
        await world.store.commit(world.shard(made), subject=row)

        assert await world.store.commit(world.shard(made), subject=row.forgiven()) == []

        assert (await world.load(made, subject_key=SUBJECT_KEY)).subject is None
        assert await world.store.commit(world.shard(made), subject=row) == []  # as if there had never been one

    async def test_a_claim_is_the_first_ones(self, world: World) -> None:
        first = await world.store.claim("key", claim("c00first"))
        second = await world.store.claim("key", claim("c00second"))
        other = await world.store.claim("another key", claim("c00second"))

        assert first == second == claim("c00first")
        assert other == claim("c00second")

    async def test_of_100_claims_at_once_one_stands_for_all(self, world: World) -> None:
        standing = await asyncio.gather(*(world.store.claim("key", claim(f"c00{n}")) for n in range(100)))

        assert len(set(standing)) == 1

    async def test_a_settled_claim_stands_with_what_it_was_settled_to(self, world: World) -> None:
        await world.store.claim("key", claim("c00minted"))

        await world.store.settle_claim("key", claim("c00joined"))

        assert await world.store.claim("key", claim("c00other")) == claim("c00joined")

    async def test_what_was_never_claimed_cannot_be_settled(self, world: World) -> None:
        await world.store.settle_claim("key", claim("c00joined"))

        assert await world.store.claim("key", claim("c00fresh")) == claim("c00fresh")

    async def test_a_claim_is_found_as_it_stands_and_finding_claims_nothing(self, world: World) -> None:
        before = await world.store.find_claim("key")
        await world.store.claim("key", claim("c00minted"))
        claimed = await world.store.find_claim("key")
        await world.store.settle_claim("key", claim("c00joined"))

        assert (before, claimed) == (None, claim("c00minted"))
        assert await world.store.find_claim("key") == claim("c00joined")
        assert await world.store.find_claim("another key") is None

    async def test_the_outbox_gives_the_oldest_first_over_all_shards(self, world: World) -> None:
        entries = []
        for number in range(12):
            entries += await world.queued(f"citizen-{number}")
            await world.pass_by(2 * MS)

        assert await world.store.unpublished(older_than=timedelta(0), most=99) == entries
        assert await world.store.unpublished(older_than=timedelta(0), most=5) == entries[:5]
        assert len({entry.shard for entry in entries}) > 1

    async def test_entries_of_one_commit_keep_their_order(self, world: World) -> None:
        entries = await world.queued(letters=20)

        await world.pass_by(2 * MS)

        assert await world.store.unpublished(older_than=timedelta(0), most=99) == entries

    async def test_an_entry_is_left_alone_until_it_is_old_enough(self, world: World) -> None:
        entries = await world.queued()
        assert await world.store.unpublished(older_than=timedelta(milliseconds=300), most=9) == []
        assert await world.store.unpublished(older_than=timedelta(hours=1), most=9) == []

        await world.pass_by(timedelta(milliseconds=301))

        assert await world.store.unpublished(older_than=timedelta(milliseconds=300), most=9) == entries

    async def test_what_was_published_is_forgotten_and_saying_so_again_is_harmless(self, world: World) -> None:
        first, second = await world.queued(letters=2)

        for _ in range(2):
            await world.store.published([(first, Position(0, 1))])
        await world.store.published([(replace(second, shard=(second.shard + 1) % SHARDS), Position(0, 2))])
        await world.pass_by(2 * MS)

        assert await world.store.outbox_size() == 1
        assert await world.store.unpublished(older_than=timedelta(0), most=9) == [second]

    async def test_the_outbox_of_an_ended_challenge_is_not_lost_with_it(self, world: World) -> None:
        made = await world.challenge(ends_at=await world.now() - KEPT_AFTER_END + 50 * MS)
        await world.commit(made, announcements=[letter_of(made)])

        await world.pass_by(60 * MS)

        assert await world.store.outbox_size() == 1

    async def test_the_oldest_entry_of_the_outbox_is_known_by_its_time(self, world: World) -> None:
        assert await world.store.outbox_oldest() is None
        before = await world.now()
        first, second = await world.queued(), await world.queued("citizen-8")
        between = await world.now()

        oldest = await world.store.outbox_oldest()
        await world.pass_by(2 * MS)
        await world.store.published([(first[0], Position(0, 1))])
        next_oldest = await world.store.outbox_oldest()
        await world.store.published([(second[0], Position(0, 2))])

        assert oldest is not None
        assert next_oldest is not None
        assert before - MS <= oldest <= next_oldest <= between
        assert await world.store.outbox_oldest() is None

    async def test_a_challenge_that_is_over_is_remembered_until_its_end_is_forgotten(self, world: World) -> None:
        now = await world.now()
        for subject, ends in (("citizen-1", 40 * MS), ("citizen-2", 20 * MS), ("citizen-3", timedelta(minutes=1))):
            made = await world.challenge(subject, ends_at=now + ends)
            await world.commit(made)
            await world.commit(replace(made, version=2, attempts=1))
        sooner, later, _ = await world.store.over(longer_than=timedelta(hours=-1), most=9)

        await world.pass_by(60 * MS)

        assert await world.store.over(longer_than=timedelta(0), most=9) == [sooner, later]
        assert await world.store.over(longer_than=timedelta(0), most=1) == [sooner]
        assert await world.store.over(longer_than=timedelta(minutes=1), most=9) == []
        for _ in range(2):
            await world.store.forget_end([sooner])
        assert await world.store.over(longer_than=timedelta(0), most=9) == [later]

    async def test_a_commit_that_is_lost_remembers_no_end(self, world: World) -> None:
        made = await world.challenge()
        await world.commit(made)
        await world.store.forget_end([made.id])

        assert await world.commit(made) is None
        await world.commit(replace(made, version=2))

        assert await world.store.over(longer_than=timedelta(hours=-1), most=9) == []

    @given(made=CHALLENGES, subject=SUBJECTS)
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    async def test_every_field_survives(self, world: World, made: Challenge, subject: Subject) -> None:
        made = replace(made, id=world.store.mint_id(PURPOSE, "citizen-7"))
        known = (await world.load(made, subject_key=SUBJECT_KEY)).subject
        subject = replace(subject, version=known.version + 1 if known else 1)

        assert await world.commit(made, subject=subject) == []

        loaded = await world.load(made, subject_key=SUBJECT_KEY)
        assert (loaded.challenges, loaded.subject) == ({made.id: made}, subject)

    async def test_a_crowd_of_500_calls_at_once_is_served(self, world: World) -> None:
        made = await world.challenge()
        await world.commit(made)

        loaded = await asyncio.gather(*(world.load(made) for _ in range(500)))

        assert Counter(made.id in one.challenges for one in loaded) == {True: 500}


class TestChallengeStore(ChallengeStoreContract):
    """The suite, over each store."""
