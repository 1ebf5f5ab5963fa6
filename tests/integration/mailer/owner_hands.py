"""What otp and dossier do with the mailer's topics, done by a test: order letters, hear what became of them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kip.mailer.v1 import mail_events_pb2, notice_events_pb2
from kip.otp.v1 import otp_events_pb2

from services.chassis.keyring import Key, Keyring, Seal, digits
from tests.conditions import wait_until
from tests.fakes.mailer import NOTICE_PARAMETERS
from tests.integration.mailer.mailer_process import RINGS, secret_of

CODE_REQUESTED, CODE_WANTED, NOTICE_REQUESTED = "otp.code-requested.v1", "otp.code-wanted.v1", "notice.requested.v1"
HEARD = (
    "mail.delivery.otp.v1",
    "mail.delivery.notice.v1",
    *(f"{asked}.dead" for asked in (CODE_REQUESTED, CODE_WANTED, NOTICE_REQUESTED)),
)
ANSWER_S = 20
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)
PURPOSE = "confirm-email"
CONTEXT_SHA256 = b"\x00" * 32


def key_of(ring: str, kid: str | None = None) -> Key:
    """Return the first key of a ring that `MailerProcess` writes, or a later one."""
    return Key(kid or RINGS[ring], secret_of(ring, kid), LONG_AGO)


@dataclass(frozen=True)
class Person:
    """Somebody who waits for a mail of their own."""

    mark: str

    @property
    def email(self) -> str:
        """Where the mail goes."""
        return f"lan.{self.mark}@example.vn"

    @property
    def code(self) -> str:
        """What the mail of a code must say."""
        return self.code_by(RINGS["code"])

    def code_by(self, kid: str) -> str:
        """What it must say when it was ordered with another key."""
        return digits(key_of("code", kid), "kip-code-v1", PURPOSE, self.mark, "1", CONTEXT_SHA256, count=6)


def people(count: int) -> list[Person]:
    """Return so many, each with a mark that is the id of their challenge or notice."""
    return [Person(str(uuid.uuid4())) for _ in range(count)]


def code_order(person: Person, *, seal_kid: str | None = None, **changes: Any) -> bytes:
    """Return a record of `otp.code-requested.v1`, sealed as otp seals it."""
    part = otp_events_pb2.SealedPart(email=person.email, name="Lan", context="Cấp lại sổ")
    about = ("kip.otp.v1.SealedPart", person.mark, "1")
    seal = _seal("seal-code", part.SerializeToString(), about, seal_kid)
    now = datetime.now(UTC)
    fields: dict[str, Any] = {
        "challenge_id": person.mark,
        "generation": 1,
        "purpose": PURPOSE,
        "reference": "7F3K",
        "locale": "vi",
        "code_length": 6,
        "code_kid": RINGS["code"],
        "context_sha256": CONTEXT_SHA256,
        "life_s": 300,
        "max_life_s": 600,
        "asked_at": _stamp(now),
        "deadline": _stamp(now + timedelta(minutes=14)),
        "challenge_ends_at": _stamp(now + timedelta(minutes=30)),
        "sealed": otp_events_pb2.Sealed(kid=seal.kid, nonce=seal.nonce, ciphertext=seal.ciphertext),
    }
    event = otp_events_pb2.CodeRequested(**(fields | changes))
    return event.SerializeToString()


class OwnerHands:
    """Hears what is told from when it is made."""

    def __init__(self, brokers: str) -> None:
        self._producer = KafkaProducer(bootstrap_servers=[brokers])
        self._consumer = KafkaConsumer(bootstrap_servers=[brokers], group_id=None)
        self._records: list[Any] = []
        partitions = [TopicPartition(topic, number) for topic in HEARD for number in self._partitions_of(topic)]
        self._consumer.assign(partitions)
        self._consumer.seek_to_end()
        for partition in partitions:
            self._consumer.position(partition)  # the seek is lazy; from here on nothing is missed

    def order_code(
        self,
        person: Person,
        *,
        key: bytes | None = None,
        seal_kid: str | None = None,
        expires: datetime | None = None,
        **changes: Any,
    ) -> None:
        """Ask for the mail of a code, as otp does."""
        headers = [("ce_type", b"kip.otp.v1.CodeRequested")]
        if expires is not None:
            headers.append(("expirytime", expires.isoformat().encode()))
        order = code_order(person, seal_kid=seal_kid, **changes)
        self.write(CODE_REQUESTED, key or person.mark.encode(), order, headers)

    def want_code(self, person: Person, *, until: datetime | None = None, withdrawn: bool = False) -> None:
        """Say more of a code that was or will be ordered, as otp does."""
        wanted_until = None if until is None else _stamp(until)
        event = otp_events_pb2.CodeWanted(
            challenge_id=person.mark, generation=1, wanted_until=wanted_until, withdrawn=withdrawn
        )
        self.write(CODE_WANTED, person.mark.encode(), event.SerializeToString())

    def order_notice(
        self, person: Person, *, parameters: Mapping[str, str] = NOTICE_PARAMETERS, **changes: Any
    ) -> None:
        """Ask for the mail of a step, as dossier does."""
        part = notice_events_pb2.SealedNotice(email=person.email, name="Lan", parameters=parameters)
        seal = _seal("seal-notice", part.SerializeToString(), ("kip.mailer.v1.SealedNotice", person.mark, "1"))
        now = datetime.now(UTC)
        fields: dict[str, Any] = {
            "notice_id": person.mark,
            "letter": "dossier-advanced",
            "locale": "vi",
            "asked_at": _stamp(now),
            "deadline": _stamp(now + timedelta(hours=48)),
            "sealed": notice_events_pb2.SealedBox(kid=seal.kid, nonce=seal.nonce, ciphertext=seal.ciphertext),
        }
        event = notice_events_pb2.NoticeRequested(**(fields | changes))
        headers = [("ce_type", b"kip.mailer.v1.NoticeRequested")]
        self.write(NOTICE_REQUESTED, person.mark.encode(), event.SerializeToString(), headers)

    def write(self, topic: str, key: bytes, value: bytes, headers: Sequence[tuple[str, bytes]] = ()) -> None:
        """Write whatever it is, and wait until it is written."""
        self._producer.send(topic, key=key, value=value, headers=[("ce_id", b"x"), *headers]).get(ANSWER_S)

    def fates(self) -> dict[str, set[str]]:
        """Return how the letters of each owner ended, as was told so far."""
        told: dict[str, set[str]] = {}
        for event in self._told():
            if event.WhichOneof("fate") != "deferred":
                told.setdefault(event.owner_id, set()).add(str(event.WhichOneof("fate")))
        return told

    def deferrals(self, person: Person) -> list[mail_events_pb2.MailDelivery]:
        """Return each time that a letter was deferred, as was told so far."""
        return [each for each in self._told() if each.owner_id == person.mark and each.WhichOneof("fate") == "deferred"]

    def wait_for_deferrals(self, person: Person, count: int) -> list[mail_events_pb2.MailDelivery]:
        """Wait until a letter was deferred at least so often, and return how."""
        what = f"a letter deferred {count} times"
        return (
            wait_until(lambda: (told := self.deferrals(person)) and len(told) >= count and told, within_s=60, what=what)
            or []
        )

    def end_of(self, person: Person) -> mail_events_pb2.MailDelivery:
        """Return how the letter of somebody ended, once it is told."""
        wait_until(lambda: person.mark in self.fates(), within_s=60, what="a letter's fate")
        ends = [each for each in self._told() if each.owner_id == person.mark and each.WhichOneof("fate") != "deferred"]
        return ends[0]

    def wait_for_drop(self, person: Person) -> mail_events_pb2.Dropped:
        """Return what is told of a letter that is dropped, once it is told."""
        event = self.end_of(person)
        assert event.WhichOneof("fate") == "dropped"
        return event.dropped

    def wait_for_fate(self, person: Person, fate: str, *, within_s: float = 60) -> mail_events_pb2.MailDelivery:
        """Return the first event of that fate about somebody's letter."""

        def look() -> list[mail_events_pb2.MailDelivery]:
            told = [mail_events_pb2.MailDelivery.FromString(each.value) for each in self._heard("mail.delivery.")]
            return [event for event in told if event.owner_id == person.mark and event.WhichOneof("fate") == fate]

        return wait_until(look, within_s=within_s, what=f"a letter that is {fate}")[0]

    def wait_for_hand_over(self, persons: list[Person], *, within_s: float = 60) -> None:
        """Wait until each of their letters is handed over."""
        marks = {person.mark for person in persons}
        wait_until(
            lambda: {mark for mark, fates in self.fates().items() if fates - {"deferred"} == {"handed_over"}} >= marks,
            within_s=within_s,
            what=f"{len(marks)} letters handed over",
        )

    def dead_letters(self) -> list[Any]:
        """Return what was dead-lettered so far."""
        return [record for record in self._heard("") if record.topic.endswith(".dead")]

    def close(self) -> None:
        """Let go of the broker."""
        for client in (self._producer, self._consumer):
            client.close()

    def _partitions_of(self, topic: str) -> set[int]:
        found: set[int] = wait_until(
            lambda: self._consumer.partitions_for_topic(topic), within_s=ANSWER_S, what=f"topic {topic}"
        )
        return found

    def _told(self) -> list[mail_events_pb2.MailDelivery]:
        return [mail_events_pb2.MailDelivery.FromString(each.value) for each in self._heard("mail.delivery.")]

    def _heard(self, prefix: str) -> list[Any]:
        for batch in self._consumer.poll(timeout_ms=100).values():
            self._records += batch
        return [record for record in self._records if record.topic.startswith(prefix)]


def _seal(ring: str, plain: bytes, about: tuple[str, ...], kid: str | None = None) -> Seal:
    return Keyring([key_of(ring, kid)]).seal(plain, about=about, now=datetime.now(UTC))


def _stamp(instant: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(instant)
    return stamp


@contextmanager
def owner_hands(brokers: str) -> Iterator[OwnerHands]:
    """Yield the hands, and let go at the end."""
    hands = OwnerHands(brokers)
    try:
        yield hands
    finally:
        hands.close()
