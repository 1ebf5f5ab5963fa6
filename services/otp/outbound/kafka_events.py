"""The roads to the mailer: no code, no clear address, only what re-makes and opens them.

`otp.code-requested.v1` queues a letter; `otp.code-wanted.v1`, which the mailer reads beside it, overtakes the backlog
and says that a letter is wanted for longer, or no more.

An event is encoded when it is committed, so what waits in the outbox is byte for byte what will be published, whoever
publishes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

import msgspec
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from kip.otp.v1 import otp_events_pb2

from services.chassis.events import Envelope, current_trace
from services.chassis.kafka_producer import BrokerAway, Producer
from services.otp.metrics import OtpMetrics
from services.otp.ports import OutboxEntry, Position, PublishFailed
from services.otp.rules.announcement import Announcement, LetterWanted, WishChanged
from services.otp.rules.generation import Cause
from services.otp.rules.policy import Policy

CODE_REQUESTED = "otp.code-requested.v1"
CODE_WANTED = "otp.code-wanted.v1"


class KafkaEncoder:
    """Turns announcements into the fields of an outbox entry: one, a packed envelope."""

    def __init__(self, policy: Policy) -> None:
        """Take what the policy says of letters."""
        self._policy = policy

    def __call__(self, announcement: Announcement) -> Mapping[bytes, bytes]:
        """Encode."""
        if isinstance(announcement, LetterWanted):
            purpose = self._policy.find(announcement.challenge.purpose)
            envelope = _letter(announcement, code_in_subject=purpose is not None and purpose.code_in_subject)
        else:
            envelope = _wish(announcement)
        return {b"e": msgspec.msgpack.encode(envelope)}


def _letter(letter: LetterWanted, *, code_in_subject: bool) -> Envelope:
    challenge, generation = letter.challenge, letter.generation
    event = otp_events_pb2.CodeRequested(
        challenge_id=challenge.id,
        generation=generation.number,
        purpose=challenge.purpose,
        reference=generation.reference,
        locale=challenge.locale,
        code_length=challenge.code_length,
        code_kid=generation.code_kid,
        context_sha256=challenge.context_sha256,
        life_s=int(generation.life.total_seconds()),
        max_life_s=int(generation.max_life.total_seconds()),
        challenge_ends_at=_timestamp(challenge.ends_at),
        asked_at=_timestamp(generation.made_at),
        deadline=_timestamp(generation.wanted_until),
        replaces=_replaced(letter),
        code_in_subject=code_in_subject,
        sealed=otp_events_pb2.Sealed(
            kid=challenge.sealed.kid, nonce=challenge.sealed.nonce, ciphertext=challenge.sealed.ciphertext
        ),
    )
    name = f"{challenge.id}.{generation.number}"
    return _envelope(letter, CODE_REQUESTED, "kip.otp.v1.CodeRequested", event, name=name, at=generation.made_at)


def _replaced(letter: LetterWanted) -> list[str]:
    """Return the references of the letters that this one was made for by itself, because they were late."""
    if letter.generation.cause is not Cause.REISSUED:
        return []
    return [each.reference for each in letter.challenge.generations if each.number < letter.generation.number]


def _wish(wish: WishChanged) -> Envelope:
    challenge, generation = wish.challenge, wish.generation
    event = otp_events_pb2.CodeWanted(
        challenge_id=challenge.id,
        generation=generation.number,
        wanted_until=_timestamp(generation.wanted_until),
        withdrawn=wish.withdrawn,
    )
    name = f"{challenge.id}.{generation.number}.wanted.{challenge.version}"
    return _envelope(wish, CODE_WANTED, "kip.otp.v1.CodeWanted", event, name=name, at=wish.at)


def _envelope(about: Announcement, topic: str, kind: str, event: Message, *, name: str, at: datetime) -> Envelope:
    """Return an event about a letter, of no use once the letter is wanted no longer."""
    return Envelope(
        topic=topic,
        key=about.challenge.id.encode(),
        value=event.SerializeToString(),
        type=kind,
        source="otp",
        subject=about.challenge.id,
        time=at,
        expires=about.generation.wanted_until,
        id=name,
        trace=current_trace(),
    )


class KafkaEvents:
    """Implements `EventSink`."""

    def __init__(self, producer: Producer, metrics: OtpMetrics) -> None:
        """Publish through the process's producer."""
        self._producer = producer
        self._metrics = metrics

    async def publish(self, entry: OutboxEntry, *, within: timedelta) -> Position:
        """Implements `EventSink`."""
        envelope = msgspec.msgpack.decode(entry.record[b"e"], type=Envelope)
        with self._metrics.publish_seconds.time():
            try:
                stands = await self._producer.publish(envelope, within=within)
            except BrokerAway as error:
                self._metrics.publish_failures.inc()
                raise PublishFailed(str(error)) from error
        return Position(stands.partition, stands.offset)


def _timestamp(instant: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(instant)
    return stamp
