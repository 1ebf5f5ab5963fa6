"""Challenge stores under test: a world to act in, and made-up records to put there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Protocol

from hypothesis import strategies as st

from services.otp.ports import ChallengeStore, Claim, LetterWanted, Loaded, OutboxEntry
from services.otp.rules.challenge import Cause, Challenge, Generation, Handle, SealedPart
from services.otp.rules.request import Subject
from tests.conditions import eventually
from tests.fakes.otp import InMemoryChallengeStore

PURPOSE = "confirm-email"
KEPT_AFTER_END = timedelta(hours=1)
MS = timedelta(milliseconds=1)
DATABASE = 9  # nobody else's, and emptied before each test
PATIENT = "socket_timeout=60&socket_connect_timeout=60"  # a busy machine is no fault of the store


class Server(Protocol):
    """The suite's Redis."""

    @property
    def address(self) -> str:
        """HOST:PORT."""


def encode(letter: LetterWanted) -> Mapping[bytes, bytes]:
    """Encode an event as two fields that are no text."""
    return {b"\x00e": f"{letter.challenge.id}.{letter.generation.number}".encode(), b"\xff": b"\x00\xff\r\n"}


class World:
    """A store, and what a test needs to know of its time."""

    def __init__(self, store: ChallengeStore) -> None:
        self.store = store

    async def now(self) -> datetime:
        """Return what the store's clock shows."""
        return (await self.store.load(0)).now

    async def pass_by(self, duration: timedelta) -> None:
        """Return when the store's clock shows that much more; a clock that cannot be turned is waited for."""
        until = await self.now() + duration
        if isinstance(self.store, InMemoryChallengeStore):
            self.store.clock.pass_by(duration)

        async def is_there() -> bool:
            return await self.now() >= until

        look: Callable[[], bool | Awaitable[bool]] = is_there
        await eventually(look, within_s=duration.total_seconds() + 10, what="the store's clock")

    async def challenge(self, subject: str = "citizen-7", **fields: object) -> Challenge:
        """Return a new challenge of a subject, of now."""
        now = await self.now()
        letter = Generation(
            number=1,
            reference="7KQ2M",
            cause=Cause.REQUESTED,
            code_kid="c1",
            made_at=now,
            deadline=now + timedelta(minutes=14),
            life=timedelta(minutes=5),
            max_life=timedelta(minutes=10),
        )
        made = Challenge(
            id=self.store.mint_id(PURPOSE, subject),
            version=1,
            purpose=PURPOSE,
            same_wish="5f" * 32,
            locale="vi",
            code_length=6,
            context_sha256=bytes(32),
            sealed=SealedPart("s1", b"n" * 12, b"sealed\x00\xff"),
            made_at=now,
            ends_at=now + timedelta(minutes=30),
            generations=(letter,),
            handles=(Handle("portal", bytes(range(32))),),
        )
        return replace(made, **fields)  # type: ignore[arg-type] # named by each test

    def shard(self, challenge: Challenge) -> int:
        """Return the shard that a challenge's id carries."""
        shard = self.store.shard_of(challenge.id)
        assert shard is not None
        return shard

    async def commit(self, challenge: Challenge, **more: object) -> list[OutboxEntry] | None:
        """Commit to the challenge's shard."""
        return await self.store.commit(self.shard(challenge), challenge=challenge, **more)  # type: ignore[arg-type] # named by each test

    async def load(self, *challenges: Challenge, subject_key: str | None = None) -> Loaded:
        """Load challenges of one shard."""
        ids = [challenge.id for challenge in challenges]
        return await self.store.load(self.shard(challenges[0]), subject_key=subject_key, challenge_ids=ids)

    async def queued(self, subject: str = "citizen-7", letters: int = 1) -> list[OutboxEntry]:
        """Commit a new challenge with letters; return their entries."""
        made = await self.challenge(subject)
        entries = await self.commit(made, letters=[LetterWanted(made, made.newest)] * letters)
        assert entries is not None
        return entries


def subject_of(challenge: Challenge, version: int = 1) -> Subject:
    """Return a record that names the challenge as its subject's latest."""
    return Subject("ab" * 32, version, challenge.id)


def claim(challenge_id: str = "c00x") -> Claim:
    """Return a made-up claim."""
    return Claim(b"\x00fingerprint\xff", challenge_id, "h1", datetime(2026, 11, 25, 12, 0, 0, 123456, tzinfo=UTC))


INSTANTS = st.datetimes(datetime(2100, 1, 1), datetime(2150, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - bounds are naive by contract
DURATIONS = st.timedeltas(timedelta(0), timedelta(days=1))
GENERATIONS = st.builds(
    Generation,
    number=st.integers(1, 99),
    reference=st.text(),
    code_kid=st.text(),
    made_at=INSTANTS,
    deadline=INSTANTS,
    life=DURATIONS,
    max_life=DURATIONS,
    body_started_at=st.none() | INSTANTS,
    handed_over_at=st.none() | INSTANTS,
    delivered_at=st.none() | INSTANTS,
    deferred_at=st.none() | INSTANTS,
    bounced_at=st.none() | INSTANTS,
    refused_at=st.none() | INSTANTS,
    dropped_at=st.none() | INSTANTS,
)
CHALLENGES = st.builds(
    Challenge,
    id=st.just("set by the test"),
    version=st.just(1),
    code_length=st.integers(0, 18),
    made_at=INSTANTS,
    ends_at=INSTANTS,
    generations=st.lists(GENERATIONS, min_size=1, max_size=3).map(tuple),
    handles=st.lists(st.builds(Handle, attempts=st.integers(0, 99)), max_size=4).map(tuple),
    attempts=st.integers(0, 99),
    verified_at=st.none() | INSTANTS,
)
