"""What otp needs from outside, and what each part owes it.

A challenge lives in one **shard** (murmur2 of purpose and subject, mod 256), together with the record of its subject
and the shard's outbox. Everything that must change together is in one shard, and changes by one versioned commit: rules
decide over loaded records, the store writes only if nothing has changed since, else the verb loads and decides again.
So every race is a lost commit, and no rule is written twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from services.chassis.errors import Kind, ServiceError, Words
from services.otp.rules.challenge import Challenge, Generation, SealedPart
from services.otp.rules.request import Subject

SHARDS = 256


class StoreUnavailable(ServiceError):
    """The challenge store does not answer; nothing was decided. The same call with the same key may succeed later."""

    kind = Kind.UNAVAILABLE
    reason = "STORE_UNAVAILABLE"

    def __init__(self) -> None:
        """Tell to come back in a moment."""
        super().__init__(
            Words(
                vi="Hệ thống mã đang bận. Vui lòng thử lại sau giây lát; không cần nhập lại thông tin.",
                en="The store of codes does not answer. Repeat the call with the same idempotency key.",
            ),
            retry_after=timedelta(seconds=2),
        )


class PublishFailed(ConnectionError):
    """The broker did not acknowledge in time. What is in the outbox stays there."""


@dataclass(frozen=True, slots=True)
class LetterWanted:
    """Event for the mailer: this generation of this challenge is to be mailed."""

    challenge: Challenge
    generation: Generation


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """One event that a commit made durable and that nobody has published yet."""

    shard: int
    id: str
    """Of the store; sorts by age within the shard."""
    record: Mapping[bytes, bytes]
    """The event, encoded; only the event sink looks inside."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """Records of one shard at one instant of the store's clock."""

    now: datetime
    subject: Subject | None = None
    challenges: Mapping[str, Challenge] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Claim:
    """What is kept of an idempotency key: no body, only what recognises and resumes it."""

    fingerprint: bytes
    """HMAC of the request's body."""
    challenge_id: str
    """Minted before anything else, or the one that was joined."""
    handle_kid: str
    claimed_at: datetime
    """By the clock of the host that claimed."""


class ChallengeStore(Protocol):
    """Keeps challenges, subjects, claims and the outbox. Every method raises `StoreUnavailable` when it cannot know."""

    def mint_id(self, purpose: str, subject: str) -> str:
        """Return a new challenge id that carries the shard of purpose and subject; 128 random bits. Does no I/O."""

    def shard_of(self, challenge_id: str) -> int | None:
        """Return the shard that an id carries, or `None` for what is no id. Does no I/O."""

    async def load(self, shard: int, *, subject_key: str | None = None, challenge_ids: Sequence[str] = ()) -> Loaded:
        """Read the named records and the store's clock, at one instant. Missing records are absent from the answer."""

    async def commit(
        self, shard: int, *, challenge: Challenge, subject: Subject | None = None, letters: Sequence[LetterWanted] = ()
    ) -> list[OutboxEntry] | None:
        """Write records and outbox entries, all or nothing, if each record's stored version is one below the given one.

        Returns:
            the entries, to be published; `None` when somebody else was faster: load and decide again.
        """

    async def claim(self, key: str, claim: Claim) -> Claim:
        """Claim an idempotency key for 24 hours; return the claim that stands, which may be an earlier one."""

    async def settle_claim(self, key: str, claim: Claim) -> None:
        """Replace a standing claim, keeping its end."""

    async def unpublished(self, *, older_than: timedelta, most: int) -> list[OutboxEntry]:
        """Return up to `most` outbox entries that are older than that, the oldest of each shard first."""

    async def published(self, entry: OutboxEntry) -> None:
        """Forget an outbox entry; harmless when repeated."""

    async def outbox_size(self) -> int:
        """Count what is not published."""


class EventSink(Protocol):
    """Hands events to the road between services."""

    async def publish(self, entry: OutboxEntry, *, within: timedelta) -> None:
        """Publish one entry and wait for its acknowledgement. May publish it although it raises.

        Raises:
            PublishFailed: not acknowledged.
        """


class Announce(Protocol):
    """Publishes what a commit left in the outbox; fulfilled by `sweep`, used by `issue`."""

    async def __call__(self, entries: Sequence[OutboxEntry], *, within: timedelta) -> None:
        """Publish and forget; what fails stays for the sweep. Never raises for a broker or a store that is away."""


@dataclass(frozen=True, slots=True)
class Part:
    """What only the mailer may read."""

    email: str
    context: str
    decoy: bool


class Sealer(Protocol):
    """Encrypts parts for the mailer, bound to one challenge and generation."""

    def seal(self, challenge_id: str, generation: int, part: Part, now: datetime) -> SealedPart:
        """Encrypt."""

    def open(self, challenge_id: str, generation: int, sealed: SealedPart) -> Part:
        """Decrypt.

        Raises:
            UnknownKey: keys not rolled out yet.
            SealBroken: not sealed for this.
        """
