"""What the mailer needs from outside, and what each part owes it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from services.chassis.dead_letter import DeadKind
from services.chassis.errors import Kind, ServiceError, Words
from services.mailer.rules.letter import Lane, LetterName, Message, Rendered
from services.mailer.rules.outcome import Deferred, DropReason, HandedOver, NoReply, Outcome, Refused
from services.mailer.rules.receipt import Receipt
from services.mailer.rules.schedule import Retry
from services.mailer.rules.wish import Wish


class TryAgain(ServiceError):
    """The letter may leave later: no relay, a 4xx, no reply to its body, a key or the ledger away."""

    kind = Kind.UNAVAILABLE
    reason = "TRY_AGAIN"

    def __init__(self, why: str, *, status: str = "") -> None:
        """Say why, without personal data; and what RFC 3463 status the relay gave, if any."""
        self.status = status
        super().__init__(Words(vi="Thư chưa gửi được, hệ thống sẽ thử lại.", en=why), retry_after=timedelta(seconds=1))


class TakenOver(ServiceError):
    """Another consumer has this very record, by a newer epoch: stop, and wait until it is taken from us."""

    kind = Kind.UNAVAILABLE
    reason = "TAKEN_OVER"

    def __init__(self) -> None:
        """Say so."""
        words = Words(
            vi="Thư đã được tiến trình khác nhận.", en="a newer owner of the record has taken the letter over"
        )
        super().__init__(words, retry_after=timedelta(seconds=1))


class MovedOn(Exception):
    """A later record of this letter exists, in a tier: this one has nothing left to do."""


class Unreadable(Exception):
    """No retry can mend this order; its text is for people, without personal data."""

    def __init__(self, why: str, kind: DeadKind = DeadKind.IMPOSSIBLE) -> None:
        """Say why, in a sentence and in a word."""
        super().__init__(why)
        self.kind = kind


class NoLongerWanted(Exception):
    """Raised by a check on the way: stop before anything more leaves."""

    def __init__(self, reason: DropReason) -> None:
        """Say why it is not wanted."""
        super().__init__(reason)
        self.reason = reason


class LedgerAway(ConnectionError):
    """The ledger does not answer within its budget."""


@dataclass(frozen=True, slots=True)
class Carried:
    """The record that carries an order, as it came. What is tried again carries all of it on, unchanged."""

    topic: str
    partition: int
    offset: int
    key: bytes = field(repr=False)
    value: bytes = field(repr=False)
    headers: Mapping[str, bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Owner:
    """Who tries a letter, so that of two that do, the ledger can tell the later one.

    Later is first who has the higher attempt: its record was written because the earlier attempt had failed. Of the
    same attempt from the same topic, who has the newer epoch: its consumer group has given the record to somebody else
    since. Epochs of different topics say nothing about each other.
    """

    attempt: int
    """0 for the first try, then as its record says."""
    topic: str
    epoch: int
    """Generation of the consumer group of that topic."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the ledger knows of a letter."""

    outcome: Outcome | None = None
    """How it ended; nothing more is to be sent."""
    body_started_at: datetime | None = None
    """Its body may have left at this time, and nobody recorded an outcome: it is unknown."""
    certain: bool = True
    """False when the ledger was away: then nothing is known, not even that no body left."""
    wish: Wish = field(default_factory=Wish)
    """What its owner said of it since."""


class Texts(Protocol):
    """The words of letters."""

    def render(self, letter: str, parameters: Mapping[str, str]) -> Mapping[str, Rendered]:
        """Return the words in every language.

        Raises:
            Unreadable: no such letter, or a parameter that its templates name is missing.
        """


class Checkpoints(Protocol):
    """What a gateway asks on its way, so that a letter which is late or unwanted stops before it leaves."""

    async def still_wanted(self) -> None:
        """Asked before `MAIL` and before `DATA`; may ask the ledger, once, so it takes at most its 50 ms and its turn.

        Raises:
            NoLongerWanted: stop.
        """

    async def handing_over(self, body_started_at: datetime) -> None:
        """Told before the first octet of the body leaves; returns when that is written down."""


class MailGateway(Protocol):
    """One relay. Holds a bounded number of slots: waiting for one is back-pressure, and it is free at the reply."""

    async def send(self, message: Message, checkpoints: Checkpoints) -> HandedOver | Refused | NoReply:
        """Take a slot and send.

        Raises:
            TryAgain: no body has left, or the relay said clearly that it did not take it.
            NoLongerWanted: from a checkpoint; no body has left.
        """

    async def imitate(self, checkpoints: Checkpoints) -> HandedOver:
        """Take a slot, hold it as long as a real letter lately did, send nothing."""


class Ledger(Protocol):
    """Remembers each letter until it can matter no more.

    Every method, once its turn has come, answers within 50 ms or raises `LedgerAway`; `settle`, of a letter that a
    relay took, within half a second.
    """

    async def claim(self, letter_id: str, owner: Owner, keep_until: datetime) -> Seen:
        """Note that this owner works on the letter, from whoever did before, in one step; return what was known.

        A letter whose outcome is known is told to everybody.

        Raises:
            MovedOn: a later attempt has claimed it.
            TakenOver: a newer epoch has, within the last minutes. Longer ago it is forgotten: no consumer is so slow to
                notice, but a group that was made anew counts its epochs from one.
        """

    async def handing_over(self, letter_id: str, owner: Owner, body_started_at: datetime) -> None:
        """Note that the body is about to leave. Durable before the first octet.

        Raises:
            MovedOn, TakenOver: as `claim`; or the outcome is known. No body must leave.
        """

    async def not_taken(self, letter_id: str, body_started_at: datetime) -> None:
        """Forget the body that left at this time: the relay said no to it. One that left earlier is not forgotten."""

    async def settle(self, letter_id: str, outcome: Outcome) -> None:
        """Note how it ended; later ones do not replace it.

        Of one that a relay took, note then by which name, for `ReceiptBook`; of each copy, if there are two.
        """

    async def heed(self, letter_id: str, wish: Wish, keep_until: datetime) -> Wish:
        """Merge what the owner says of a letter, claimed or not, in one step; return what was known before.

        It is kept until the latest `keep_until` that was given, whatever is claimed or settled.
        """

    async def wish(self, letter_id: str) -> Wish:
        """Return what the owner said of a letter so far. `claim` tells it too, in the same round trip."""


class Letter(Protocol):
    """Which letter, and so whose; an `Order` is one."""

    @property
    def lane(self) -> Lane:
        """Road of its owner."""

    @property
    def owner_id(self) -> str:
        """Challenge id or notice id."""

    @property
    def generation(self) -> int:
        """Of a code; 1 for a notice."""

    @property
    def id(self) -> str:
        """One per letter, over all its repeats."""


class EventSink(Protocol):
    """Tells the owner of a letter what became of it."""

    async def announce(self, letter: Letter, news: Outcome | Deferred | Receipt) -> None:
        """Publish on the lane's own topic and wait for the acknowledgement.

        Raises:
            TryAgain: not acknowledged; it may have been published.
        """


@dataclass(frozen=True, slots=True)
class Relayed:
    """A letter that a relay took."""

    letter: LetterName
    accepted_at: datetime
    """When, by the mailer's clock (SMTP 250)."""


class ReceiptBook(Protocol):
    """Remembers by what names relays know our letters, and what was told of them. Every method raises `LedgerAway`."""

    async def relayed(self, route: str, relay_ids: Collection[str]) -> Mapping[str, Relayed]:
        """Return the letters that a route's relay took by these names; those of others, or long ago, are absent."""

    async def let_go(self, route: str, relay_id: str) -> None:
        """Forget a name, because the relay may give it to another mail; harmless when repeated."""

    async def told(self, letter_id: str) -> Collection[str]:
        """Return the keys of the receipts of a letter that were noted; they are kept for a week."""

    async def note(self, letter_id: str, receipt: Receipt) -> None:
        """Note a receipt; harmless when repeated."""

    async def bookmark(self, log: str) -> bytes | None:
        """Return how far a log was read, as it was kept."""

    async def keep_bookmark(self, log: str, place: bytes) -> None:
        """Keep how far a log was read."""


class Retries(Protocol):
    """The tiers of a lane, where letters wait that could not leave."""

    async def put(self, carried: Carried, retry: Retry) -> None:
        """Write the record to its tier, and return when that is durable: then the record that came may go.

        Raises:
            TryAgain: not acknowledged; it may be there.
        """
