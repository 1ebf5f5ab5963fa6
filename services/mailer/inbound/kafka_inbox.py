"""What Kafka brings: orders of letters, one inbox per lane (→ `Order` → deliver), and wishes about codes (→ heed)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar
from zoneinfo import ZoneInfo

from google.protobuf.message import DecodeError, Message
from google.protobuf.timestamp_pb2 import Timestamp
from kip.mailer.v1 import notice_events_pb2
from kip.otp.v1 import otp_events_pb2

from services.chassis.dead_letter import DeadKind
from services.chassis.keyring import MOST_DIGITS, Keyring, Seal, SealBroken
from services.chassis.record_fate import Poison, Record
from services.chassis.telemetry import exemplar
from services.mailer.actions.bury import BuryLetter
from services.mailer.actions.defer import DeferLetter
from services.mailer.actions.deliver import DeliverLetter
from services.mailer.actions.heed import HeedWish
from services.mailer.metrics import MailerMetrics
from services.mailer.outbound.kafka_retries import ATTEMPT
from services.mailer.ports import Carried, MovedOn, Owner, TryAgain, Unreadable
from services.mailer.rules.letter import LOCALES, CodeRecipe, Lane, LetterName, Order, PrivatePart, letter_id_of
from services.mailer.rules.outcome import Dropped, HandedOver, Outcome
from services.mailer.rules.wish import LATEST, Wish

CODE_REQUESTED = "otp.code-requested.v1"
NOTICE_REQUESTED = "notice.requested.v1"
GROUPS = {Lane.OTP: "mailer-otp", Lane.NOTICE: "mailer-notice"}
TOPICS = {Lane.OTP: CODE_REQUESTED, Lane.NOTICE: NOTICE_REQUESTED}
CODE_WANTED = "otp.code-wanted.v1"
WANTED_GROUP = "mailer-wanted"
M = TypeVar("M", bound=Message)

MOST_ATTEMPT_DIGITS = 9  # a script's number is exact far beyond; a day of tries every second has 5
NOTICE_KEPT = timedelta(days=30)  # a notice stays true; mailboxes may put it away after this


class LetterInbox:
    """Turns records of one lane into orders and delivers them; what cannot leave yet is deferred.

    So a record is acknowledged when its outcome is announced, or when it stands in a tier and that is announced, or
    when a later record of its letter stands in a tier.
    """

    def __init__(
        self,
        read: Callable[[bytes], Order],
        deliver: DeliverLetter,
        defer: DeferLetter,
        metrics: MailerMetrics,
    ) -> None:
        """Read each record's value with `read`."""
        self._read = read
        self._deliver = deliver
        self._defer = defer
        self._metrics = metrics

    async def __call__(self, record: Record) -> None:
        """Handle one record.

        Raises:
            Poison: no order, or one that can never be mailed.
            TryAgain, TakenOver: not yet, and it must wait where it is.
        """
        try:
            order = self._read(record.value)
        except (DecodeError, ValueError, OverflowError) as error:
            raise Poison(f"{record.topic}: not an order: {error}") from error
        owner = Owner(_attempt(record), record.topic, record.epoch)
        try:
            outcome = await self._deliver(order, owner)
        except Unreadable as error:
            raise Poison(str(error), error.kind) from error
        except MovedOn:
            return
        except TryAgain as why:
            await self._defer(order, _carried(record), owner.attempt, why)
            return
        self._count(order, outcome)

    def _count(self, order: Order, outcome: Outcome) -> None:
        fate = (
            "handed_over"
            if isinstance(outcome, HandedOver)
            else "dropped"
            if isinstance(outcome, Dropped)
            else "refused"
        )
        self._metrics.letters.labels(order.lane, fate).inc()
        if isinstance(outcome, HandedOver):
            age = (outcome.at - order.asked_at).total_seconds()
            self._metrics.age.labels(order.lane).observe(age, exemplar())


def _attempt(record: Record) -> int:
    """Return which try this is; a header that is no number counts as none: better tried from the start than lost."""
    written = record.headers.get(ATTEMPT, b"0")
    return int(written) if written.isdigit() and len(written) <= MOST_ATTEMPT_DIGITS else 0


def _carried(record: Record) -> Carried:
    return Carried(record.topic, record.partition, record.offset, record.key, record.value, record.headers)


class DeadOrders:
    """Turns records of one lane that became dead letters into letters, and lets their owners know."""

    def __init__(self, lane: Lane, bury: BuryLetter, metrics: MailerMetrics) -> None:
        """Count each, whether or not somebody could be told."""
        self._lane = lane
        self._bury = bury
        self._metrics = metrics

    async def __call__(self, record: Record, _kind: DeadKind) -> None:
        """Take in one record that is in the dead letters by now.

        Raises:
            TryAgain: its owner was not told.
        """
        letter = owner_of(self._lane, record)
        if letter is not None:
            await self._bury(letter)
        self._metrics.letters.labels(self._lane, "dead_lettered").inc()


def owner_of(lane: Lane, record: Record) -> LetterName | None:
    """Return which letter an order asks for, also when nothing else of it can be read; `None` when it does not say.

    It says so in its value and in its key, and rubbish that happens to decode does not say the same twice.
    """
    try:
        if lane is Lane.OTP:
            code = otp_events_pb2.CodeRequested.FromString(record.value)
            letter = LetterName(lane, code.challenge_id, code.generation)
        else:
            letter = LetterName(lane, notice_events_pb2.NoticeRequested.FromString(record.value).notice_id, 1)
    except DecodeError:
        return None
    return letter if letter.generation and letter.owner_id and letter.owner_id.encode() == record.key else None


class WantedInbox:
    """Turns records of `otp.code-wanted.v1` into wishes and heeds them."""

    def __init__(self, heed: HeedWish, metrics: MailerMetrics) -> None:
        """Count what each changed."""
        self._heed = heed
        self._metrics = metrics

    async def __call__(self, record: Record) -> None:
        """Handle one record.

        Raises:
            Poison: no wish.
            TryAgain: not yet.
        """
        try:
            letter_id, wish = read_wish(record.value)
        except (DecodeError, ValueError, OverflowError) as error:
            raise Poison(f"{record.topic}: not a wish: {error}") from error
        self._metrics.wishes.labels(await self._heed(letter_id, wish)).inc()


def read_wish(value: bytes) -> tuple[str, Wish]:
    """Read a `kip.otp.v1.CodeWanted`: of which letter, and what.

    Raises:
        DecodeError, ValueError, OverflowError: not such a message.
    """
    event = otp_events_pb2.CodeWanted.FromString(value)
    if not event.challenge_id or not event.generation:
        raise ValueError("a CodeWanted without challenge or generation")
    wanted_until = _instant(event.wanted_until) if event.HasField("wanted_until") else None
    if wanted_until is None and not event.withdrawn:
        raise ValueError("a CodeWanted that neither extends nor withdraws")
    if wanted_until is not None and wanted_until > LATEST:
        raise ValueError(f"a CodeWanted until {wanted_until:%Y}")
    return letter_id_of(event.challenge_id, event.generation), Wish(wanted_until, withdrawn=event.withdrawn)


class CodeOrders:
    """Reads `kip.otp.v1.CodeRequested`."""

    def __init__(self, ring: Keyring, zone: ZoneInfo) -> None:
        """Open seals with `ring`; print times of `zone`."""
        self._ring = ring
        self._zone = zone

    def __call__(self, value: bytes) -> Order:
        """Return the order; its seal is opened later, when the deadline has been looked at.

        Raises:
            DecodeError, ValueError, OverflowError: not such a message.
        """
        event = otp_events_pb2.CodeRequested.FromString(value)
        if not event.challenge_id or not event.generation or not event.HasField("deadline"):
            raise ValueError("a CodeRequested without challenge, generation or deadline")
        if not 1 <= event.code_length <= MOST_DIGITS:
            raise ValueError(f"a CodeRequested for a code of {event.code_length} digits")
        asked_at, ends_at = _instant(event.asked_at), _instant(event.challenge_ends_at)

        def open_part() -> PrivatePart:
            about = ("kip.otp.v1.SealedPart", event.challenge_id, str(event.generation))
            seal = Seal(event.sealed.kid, event.sealed.nonce, event.sealed.ciphertext)
            part = _decoded(otp_events_pb2.SealedPart, self._ring.open(seal, about=about))
            return PrivatePart(part.email, {"name": part.name, "context": part.context}, decoy=part.decoy)

        return Order(
            lane=Lane.OTP,
            owner_id=event.challenge_id,
            generation=event.generation,
            letter="code",
            locale=event.locale if event.locale in LOCALES else LOCALES[0],
            asked_at=asked_at,
            deadline=_instant(event.deadline),
            useless_at=ends_at,
            parameters={
                "reference": event.reference,
                "replaces": ", ".join(event.replaces),
                "code_in_subject": "yes" if event.code_in_subject else "",
                "asked_at": asked_at.astimezone(self._zone).strftime("%H:%M:%S, %d/%m/%Y"),
                "life_minutes": f"{event.life_s / 60:g}",
                "ends_at": ends_at.astimezone(self._zone).strftime("%H:%M"),
            },
            open=open_part,
            code=CodeRecipe(event.code_kid, event.purpose, event.context_sha256, event.code_length),
        )


class NoticeOrders:
    """Reads `kip.mailer.v1.NoticeRequested`."""

    def __init__(self, ring: Keyring, patience: timedelta) -> None:
        """Open seals with `ring`; let no notice wait longer than `patience` after it was asked for."""
        self._ring = ring
        self._patience = patience

    def __call__(self, value: bytes) -> Order:
        """Return the order.

        Raises:
            DecodeError, ValueError, OverflowError: not such a message.
        """
        event = notice_events_pb2.NoticeRequested.FromString(value)
        if not event.notice_id or not event.letter or not event.HasField("deadline"):
            raise ValueError("a NoticeRequested without id, letter or deadline")
        asked_at = _instant(event.asked_at)

        def open_part() -> PrivatePart:
            about = ("kip.mailer.v1.SealedNotice", event.notice_id, "1")
            seal = Seal(event.sealed.kid, event.sealed.nonce, event.sealed.ciphertext)
            part = _decoded(notice_events_pb2.SealedNotice, self._ring.open(seal, about=about))
            return PrivatePart(part.email, {**part.parameters, "name": part.name})

        return Order(
            lane=Lane.NOTICE,
            owner_id=event.notice_id,
            generation=1,
            letter=event.letter,
            locale=event.locale if event.locale in LOCALES else LOCALES[0],
            asked_at=asked_at,
            deadline=min(_instant(event.deadline), asked_at + self._patience),
            useless_at=asked_at + NOTICE_KEPT,
            parameters={},
            open=open_part,
        )


def _decoded(kind: type[M], plain: bytes) -> M:
    try:
        return kind.FromString(plain)
    except DecodeError as error:
        raise SealBroken("what was sealed is no such part") from error


def _instant(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(tzinfo=UTC)
