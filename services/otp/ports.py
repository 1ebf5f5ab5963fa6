"""What otp needs from outside, and what each part owes it.

A challenge lives in one **shard** (murmur2 of purpose and subject, mod 256), together with the record of its subject
and the shard's outbox. Everything that must change together is in one shard, and changes by one versioned commit: rules
decide over loaded records, the store writes only if nothing has changed since, else the verb loads and decides again.
So every race is a lost commit, and no rule is written twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from services.chassis.errors import Kind, ServiceError, Words
from services.otp.rules.admission import Load
from services.otp.rules.announcement import Announcement
from services.otp.rules.challenge import Challenge, Fresh, Stall
from services.otp.rules.code_fate import Milestone
from services.otp.rules.guesses import Tally
from services.otp.rules.outlook import Outlook
from services.otp.rules.policy import Purpose
from services.otp.rules.quota import LetterAsked, NoRoom, Quota
from services.otp.rules.subject import Subject
from services.otp.rules.verdict import Verdict

SHARDS = 256
COMMIT_TRIES = 64
"""Lost races in a row before a verb says so; each means that somebody else's change of the same challenge went in."""
ANNOUNCE_WITHIN = timedelta(milliseconds=500)
"""A broker that is there answers within 50 ms, waiting for company included; the outbox keeps what is not published."""
NOWHERE = 0
"""The shard where what is no challenge id is looked for."""


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


class KeysUnknown(ServiceError):
    """Something of this challenge was made with a key that this replica does not have yet; nothing was changed."""

    kind = Kind.UNAVAILABLE
    reason = "CODE_KEYS_UNKNOWN"

    def __init__(self) -> None:
        """Tell to come back when the keys have been rolled out."""
        super().__init__(
            Words(
                vi="Hệ thống đang cập nhật khóa. Vui lòng thử lại sau giây lát.",
                en="A key of this challenge is not rolled out to this replica yet. Try again in a moment.",
            ),
            retry_after=timedelta(seconds=5),
        )


class IdempotencyKeyReused(ServiceError):
    """The key was used with another body, or for something that ended long ago."""

    kind = Kind.CONFLICT
    reason = "IDEMPOTENCY_KEY_REUSED"

    def __init__(self, *, is_over: bool = False) -> None:
        """Say which of the two."""
        super().__init__(
            Words(
                vi="Yêu cầu của khóa idempotency này đã kết thúc từ lâu.",
                en="What this idempotency key asked for ended long ago. Use a new key to ask for a new code.",
            )
            if is_over
            else Words(
                vi="Khóa idempotency đã dùng cho một yêu cầu khác.",
                en="This idempotency key was used with another body. Use a new key for a new request.",
            )
        )


@dataclass(frozen=True, slots=True)
class Position:
    """Where the event that asks for a letter stands on the road to the mailer."""

    partition: int
    offset: int
    """Below 0 when the broker has it and does not say where."""


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """One event that a commit made durable and that nobody has published yet."""

    shard: int
    id: str
    """Of the store; sorts by age within the shard."""
    record: Mapping[bytes, bytes]
    """The event, encoded; only the event sink looks inside."""
    letter: str = ""
    """`challenge id.generation` of an event that queues a letter; empty for others."""


@dataclass(frozen=True, slots=True)
class Notes:
    """What stands beside a challenge without a version: worth knowing, and harmless to lose."""

    watched_until: datetime | None = None
    """Somebody holds a stream open until then, and renews it."""
    position: Position | None = None
    """Of the newest letter, once it is published."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """Records of one shard at one instant of the store's clock."""

    now: datetime
    subject: Subject | None = None
    challenges: Mapping[str, Challenge] = field(default_factory=dict)
    notes: Mapping[str, Notes] = field(default_factory=dict)
    """By challenge id; for those that were found."""


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


class Changes(Protocol):
    """Hints that a challenge has changed, heard since this was opened."""

    async def next(self, within: timedelta) -> None:
        """Return at the first hint since the last call, or after `within`. One may be lost, or tell of nothing new."""


class ChallengeStore(Protocol):
    """Keeps challenges, subjects, claims and the outbox. Every method raises `StoreUnavailable` when it cannot know."""

    def mint_id(self, purpose: str, subject: str) -> str:
        """Return a new challenge id that carries the shard of purpose and subject; 128 random bits. Does no I/O."""

    def shard_of(self, challenge_id: str) -> int | None:
        """Return the shard that an id carries, or `None` for what is no id. Does no I/O."""

    async def load(self, shard: int, *, subject_key: str | None = None, challenge_ids: Sequence[str] = ()) -> Loaded:
        """Read the named records and the store's clock, at one instant. Missing records are absent from the answer."""

    async def commit(
        self,
        shard: int,
        *,
        challenge: Challenge | None = None,
        subject: Subject | None = None,
        announcements: Sequence[Announcement] = (),
        milestones: Sequence[Milestone] = (),
    ) -> list[OutboxEntry] | None:
        """Write records and outbox entries, all or nothing, if each record's stored version is one below the given one.

        Each record is kept until its `kept_until`. Whoever watches the challenge is given a hint. The end of a new
        challenge is remembered for `over`. Milestones are counted if, and after, the commit went in: never twice, and
        not at all when the process dies or the answer is lost in between. What is returned survives as much as the
        store is set up to survive; what was written and does not, yet, is `StoreUnavailable`.

        Returns:
            the entries, to be published; `None` when somebody else was faster: load and decide again.
        """

    async def confirm(self, shard: int) -> None:
        """Return when what was read of a shard is as safe as what a commit there has told.

        For a repeat that writes nothing: what it found may be a commit that told `StoreUnavailable`.
        """

    async def rehearse(self, shard: int, *, challenge: Challenge, subject: Subject) -> None:
        """Do all that reading these records and committing them would cost, and keep nothing."""

    def changes(self, challenge_id: str) -> AbstractContextManager[Changes]:
        """Listen for changes of a challenge by any process; does no I/O."""

    async def note_watched(self, challenge_id: str, until: datetime) -> None:
        """Note that somebody watches a challenge; nothing happens when it is gone."""

    async def claim(self, key: str, claim: Claim) -> Claim:
        """Claim an idempotency key for 24 hours; return the claim that stands, which may be an earlier one."""

    async def find_claim(self, key: str) -> Claim | None:
        """Return the claim that stands, without claiming."""

    async def settle_claim(self, key: str, claim: Claim) -> None:
        """Replace a standing claim, keeping its end."""

    async def unpublished(self, *, older_than: timedelta, most: int) -> list[OutboxEntry]:
        """Return up to `most` outbox entries that are older than that, the oldest of each shard first."""

    async def published(self, entries: Sequence[tuple[OutboxEntry, Position]]) -> None:
        """Forget outbox entries, and note where their letters stand; harmless when repeated."""

    async def outbox_size(self) -> int:
        """Count what is not published."""

    async def outbox_oldest(self) -> datetime | None:
        """Return when the oldest entry that is not published was committed, to the millisecond; `None` = there is none.

        Takes a look at each shard.
        """

    async def over(self, *, longer_than: timedelta, most: int) -> list[str]:
        """Return up to `most` ids of challenges whose end lies that far behind and is not forgotten, the first first.

        Their records may be gone.
        """

    async def forget_end(self, challenge_ids: Sequence[str]) -> None:
        """Let `over` not return them any more; harmless when repeated."""


class QuotaStore(Protocol):
    """Keeps what was taken of limits, under the store's clock. Raises `StoreUnavailable` when it cannot know.

    What each call means: `rules/quota`. Buckets are apart, and so are calls about them: nothing is atomic over two.
    """

    async def take(self, token: str, quotas: Sequence[Quota]) -> list[timedelta]:
        """Take one of each quota that has room; a token that took from one already takes no more of it.

        Returns:
            for each, how long to wait before one fits; 0 where the token has its take.
        """

    async def give_back(self, token: str, quotas: Sequence[Quota]) -> None:
        """Undo what a token took, as if it never had; harmless for one that did not, and when repeated."""

    async def refill(self, quotas: Sequence[tuple[Quota, timedelta]]) -> None:
        """Let each quota be whole that much sooner, as if so much time had passed; what is whole stays whole."""


class GuessTally(Protocol):
    """Counts, over all processes, what was compared."""

    async def add(self, seen: Tally) -> Tally:
        """Add what was compared here; return what was compared everywhere in the last 5 to 10 minutes.

        Raises:
            StoreUnavailable: not known; it was added or not.
        """


class Judge(Protocol):
    """Judges what a citizen typed; fulfilled by `verify`."""

    async def __call__(self, caller: str, handle: str, typed: str, idempotency_key: str, now: datetime) -> Verdict:
        """Judge. Raises as `verify` does: after `StoreUnavailable` nobody knows what was compared."""


class EventSink(Protocol):
    """Hands events to the road between services."""

    async def publish(self, entry: OutboxEntry, *, within: timedelta) -> Position:
        """Publish one entry and return where it stands, once acknowledged. May publish it although it raises.

        Raises:
            PublishFailed: not acknowledged.
        """


class Announce(Protocol):
    """Publishes what a commit left in the outbox; fulfilled by `sweep`, used by every verb that commits."""

    async def __call__(self, entries: Sequence[OutboxEntry], *, within: timedelta) -> Mapping[str, Position]:
        """Publish and forget; what fails stays for the sweep. Never raises for a broker or a store that is away.

        Returns:
            where the letters that were acknowledged in time stand, by `OutboxEntry.letter`.
        """


class Toll(Protocol):
    """What one call of a verb has taken of limits for the letter that it is about to make."""

    async def settle(self, letter: LetterAsked | None) -> NoRoom | None:
        """Take what the letter costs of every limit, once, or say why not; without a letter give back what was taken.

        To be called with each decision, before it is committed. What is refused leaves everything as it was, but for
        the client's limit. Nothing is given back by itself: what a crash leaves taken is found when its token repeats.

        Raises:
            StoreUnavailable: not known; something may have been taken, which the repeat finds.
        """


class Admit(Protocol):
    """Lets every verb that makes letters ask whether one more may be made; fulfilled by `admit`."""

    def __call__(self, now: datetime) -> Toll:
        """Return the toll of one call of a verb; `now` is this host's time, used to choose keys only. Does no I/O."""


@dataclass(frozen=True, slots=True)
class Part:
    """What only the mailer may read."""

    email: str
    context: str
    decoy: bool


class Mint(Protocol):
    """Draws and keys what a new generation needs; does no I/O."""

    def first(self, challenge_id: str, number: int, part: Part) -> Fresh:
        """Return what a generation with this part needs.

        Raises:
            KeysUnknown: no key may be used now.
        """

    def again(self, challenge: Challenge, number: int) -> Fresh:
        """Return what another generation of the challenge needs: its part, sealed anew.

        Raises:
            KeysUnknown: the part was sealed with a key that is not rolled out here yet.
            SealBroken: the record was changed by somebody without the key.
        """

    def part(self, challenge: Challenge) -> Part:
        """Return the part of the challenge. Raises as `again` does."""


class Restraint(Protocol):
    """Says whether a letter that the machine would make by itself may be made.

    Against it speak a channel on which too few codes come in time, limits on mails, and the queue's length.

    It takes what a letter costs, once per letter: of a challenge with the same newest generation it may be asked again,
    after a race that was lost or a crash, and says the same without taking more. A letter that is not made after all
    has cost what it cost.
    """

    async def __call__(self, challenge: Challenge, purpose: Purpose, /) -> Stall | None:
        """Take what the newest letter of this challenge, which is not stored yet, costs.

        Returns:
            `None` when it may be made, else `Stall.CHANNEL_SLOW`, `Stall.QUOTA` or `Stall.OVERLOAD`.

        Raises:
            StoreUnavailable: not known, and nothing is made.
        """

    def heard(self, challenge: Challenge, reached: Sequence[Milestone], /) -> None:
        """Hear what a commit reached: a code that came in time speaks for its channel. Does no I/O and never raises."""


class Queue(Protocol):
    """Samples the mailer's queue in the background and tells from the last sample. Calls do no I/O and never raise."""

    def outlook(self, position: Position | None, now: datetime) -> Outlook:
        """Return the place of the letter at a position, and when it should leave.

        Nothing is known without a position, when the last sample is older than 15 s, and of a partition that does not
        exist. The time alone is unknown while letters wait and do not move, and while nobody knows how fast they are
        handed over.

        `now` is of whatever clock the caller tells time by, and so is `leaves_at`. For one sample and one `now`, a
        later place never leaves earlier.
        """

    def load(self, challenge_id: str) -> Load:
        """Return what is known of the queue for a letter of that challenge, if it were asked for now."""

    def unpublished(self, letters: int) -> None:
        """Hear how many letters wait in the outbox; the last number counts."""

    def handed_over(self, at: datetime) -> None:
        """Hear that the relay took a letter then; to be told once for each. Old news teaches nothing."""
