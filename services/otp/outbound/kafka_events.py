"""The road to the mailer, `otp.code-requested.v1`: no code, no clear address, only what re-makes and opens them.

An event is encoded when it is committed, so what waits in the outbox is byte for byte what will be published, whoever
publishes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

import msgspec
from google.protobuf.timestamp_pb2 import Timestamp
from kip.otp.v1 import otp_events_pb2

from services.chassis.events import Envelope, current_trace
from services.chassis.kafka_producer import BrokerAway, Producer
from services.otp.ports import LetterWanted, OutboxEntry, PublishFailed

CODE_REQUESTED = "otp.code-requested.v1"


def encode(letter: LetterWanted) -> Mapping[bytes, bytes]:
    """Return the fields of an outbox entry: one, a packed envelope."""
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
        deadline=_timestamp(generation.deadline),
        sealed=otp_events_pb2.Sealed(
            kid=challenge.sealed.kid, nonce=challenge.sealed.nonce, ciphertext=challenge.sealed.ciphertext
        ),
    )
    envelope = Envelope(
        topic=CODE_REQUESTED,
        key=challenge.id.encode(),
        value=event.SerializeToString(),
        type="kip.otp.v1.CodeRequested",
        source="otp",
        subject=challenge.id,
        time=generation.made_at,
        expires=generation.deadline,
        id=f"{challenge.id}.{generation.number}",
        trace=current_trace(),
    )
    return {b"e": msgspec.msgpack.encode(envelope)}


class KafkaEvents:
    """Implements `EventSink`."""

    def __init__(self, producer: Producer) -> None:
        """Publish through the process's producer."""
        self._producer = producer

    async def publish(self, entry: OutboxEntry, *, within: timedelta) -> None:
        """Implements `EventSink`."""
        envelope = msgspec.msgpack.decode(entry.record[b"e"], type=Envelope)
        try:
            await self._producer.publish(envelope, within=within)
        except BrokerAway as error:
            raise PublishFailed(str(error)) from error


def _timestamp(instant: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(instant)
    return stamp
