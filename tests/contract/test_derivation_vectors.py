"""One code, three makers: openssl, otp and the mailer derive the same digits from the same vectors.

`code_vectors.json` holds made-up keys and the codes that an independent derivation makes of them: `openssl dgst` for
the HMAC, whole numbers for the digits. A change of label, order, prefix, key or arithmetic in either service fails
here before citizens hold codes that nobody accepts.
"""

from __future__ import annotations

import email.policy
import hashlib
import json
import math
import re
import shutil
import struct
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
import pytest

from services.chassis.events import Envelope
from services.chassis.keyring import Key, Keyring, digits
from services.mailer.actions.deliver import DeliverLetter
from services.mailer.inbound.kafka_inbox import CodeOrders
from services.mailer.outbound.jinja_texts import JinjaTexts
from services.mailer.ports import Owner
from services.mailer.rules.letter import Sender
from services.otp.actions.verify import VerifyCode
from services.otp.outbound.kafka_events import KafkaEncoder
from services.otp.outbound.keyring_mint import KeyringMint
from services.otp.outbound.sealed_parts import KeyringSealer
from services.otp.ports import Part
from services.otp.rules.announcement import LetterWanted
from services.otp.rules.challenge import Challenge, Handle
from services.otp.rules.generation import Cause, Generation
from services.otp.rules.handle import handle_text
from services.otp.rules.policy import Policy
from services.otp.rules.verdict import Accepted, Verdict, Wrong
from tests.fakes.clock import NOON, FakeClock
from tests.fakes.mailer import GatewayInMemory, InMemoryLedger, RecordingEvents
from tests.fakes.otp import PURPOSE, InMemoryChallengeStore, InMemoryQueue, LeavesIt, ring
from tests.fakes.otp_restraint import InMemoryRestraint
from tests.servers.require import require

SECRET = bytes(32)
SEALING = ring("s1", 4)
WORD_SPAN = 2**64


@dataclass(frozen=True, slots=True)
class Vector:
    """What goes in, and the code that must come out."""

    why: str
    key: bytes
    purpose: str
    challenge_id: str
    generation: int
    context: str
    digits: int
    code: str


def _vectors() -> list[Vector]:
    entries = json.loads(Path(__file__).with_name("code_vectors.json").read_text(encoding="utf-8"))["vectors"]
    return [Vector(**{**entry, "key": bytes.fromhex(entry["key"])}) for entry in entries]


VECTORS = _vectors()
each_vector = pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.why)


def _hmac_by_openssl(key: bytes, message: bytes) -> bytes:
    openssl = shutil.which("openssl")
    assert openssl is not None
    # The keys are made up and stand in the repository: an argument list may hold them.
    command = [openssl, "dgst", "-sha256", "-mac", "HMAC", "-macopt", f"hexkey:{key.hex()}", "-binary"]
    return subprocess.run(command, input=message, capture_output=True, check=True, timeout=30).stdout


def _code_by_openssl(vector: Vector) -> str:
    parts: Sequence[bytes] = (
        b"kip-code-v1",
        vector.purpose.encode(),
        vector.challenge_id.encode(),
        str(vector.generation).encode(),
        hashlib.sha256(vector.context.encode()).digest(),
    )
    block = _hmac_by_openssl(vector.key, b"".join(struct.pack(">I", len(part)) + part for part in parts))
    while True:
        for word in struct.unpack(">4Q", block):
            if word // 10**vector.digits < WORD_SPAN // 10**vector.digits:
                return str(word % 10**vector.digits).rjust(vector.digits, "0")
        block = _hmac_by_openssl(vector.key, block)


def _challenge(vector: Vector, sealing: Keyring) -> Challenge:
    letters = [
        Generation(
            number=number,
            reference="7KQ2M",
            cause=Cause.REQUESTED,
            code_kid="c1",
            made_at=NOON,
            wanted_until=NOON + PURPOSE.deadline,
            life=PURPOSE.life,
            max_life=PURPOSE.max_life,
        )
        for number in range(1, vector.generation + 1)
    ]
    part = Part("lan@example.vn", vector.context, decoy=False)
    return Challenge(
        id=vector.challenge_id,
        version=1,
        purpose=vector.purpose,
        subject_key="ab" * 32,
        same_wish="",
        locale="vi",
        code_length=vector.digits,
        context_sha256=hashlib.sha256(vector.context.encode()).digest(),
        sealed=KeyringSealer(sealing).seal(vector.challenge_id, vector.generation, part, NOON),
        made_at=NOON,
        ends_at=NOON + PURPOSE.challenge_life,
        generations=tuple(letters),
        handles=(Handle("portal", hashlib.sha256(SECRET).digest()),),
    )


def _code_ring(vector: Vector) -> Keyring:
    return Keyring([Key("c1", vector.key, NOON - timedelta(days=1))])


def _policy(vector: Vector) -> Policy:
    return Policy({vector.purpose: replace(PURPOSE, name=vector.purpose)})


class AnyId(InMemoryChallengeStore):
    """A store whose ids are those of the vectors."""

    def shard_of(self, challenge_id: str) -> int | None:
        return int(challenge_id[1:3], 16)


async def _typed_into_otp(vector: Vector, code: str) -> Verdict:
    store = AnyId()
    made = _challenge(vector, SEALING)
    shard = store.shard_of(made.id)
    assert shard is not None
    assert await store.commit(shard, challenge=made) == []
    code_keys = _code_ring(vector)
    mint = KeyringMint(KeyringSealer(SEALING), code_keys, store.clock)
    verify = VerifyCode(
        store, mint, LeavesIt(), InMemoryQueue(), _policy(vector), code_keys=code_keys, restraint=InMemoryRestraint()
    )
    return await verify("portal", handle_text(vector.challenge_id, SECRET), code, "", store.clock())


async def _printed_by_the_mailer(vector: Vector) -> list[str]:
    made = _challenge(vector, SEALING)
    record = KafkaEncoder(_policy(vector))(LetterWanted(made, made.newest))
    envelope = msgspec.msgpack.decode(record[b"e"], type=Envelope)
    order = CodeOrders(SEALING, ZoneInfo("Asia/Ho_Chi_Minh"))(envelope.value)
    clock = FakeClock()
    gateway = GatewayInMemory(clock)
    deliver = DeliverLetter(
        gateway,
        InMemoryLedger(clock),
        RecordingEvents(),
        JinjaTexts(),
        clock=clock,
        sender=Sender("Kịp", "no-reply@kip.example"),
        code_keys=_code_ring(vector),
    )
    await deliver(order, Owner(0, envelope.topic, 1))
    ((_, octets),) = gateway.relay.kept
    message = email.message_from_bytes(octets, policy=email.policy.default)
    body = message.get_body(preferencelist=("plain",))
    assert body is not None
    return re.findall(rf"(?<!\d)\d{{{vector.digits}}}(?!\d)", body.get_content())


@each_vector
def test_openssl_makes_the_code_of_the_vector(vector: Vector) -> None:
    require(None if shutil.which("openssl") else "openssl is not installed (Debian: apt-get install openssl)")

    assert _code_by_openssl(vector) == vector.code


@each_vector
async def test_otp_accepts_the_code_of_the_vector_and_no_neighbour(vector: Vector) -> None:
    neighbour = str((int(vector.code) + 1) % 10**vector.digits).rjust(vector.digits, "0")

    assert await _typed_into_otp(vector, vector.code) == Accepted(NOON, vector.context)
    assert isinstance(await _typed_into_otp(vector, neighbour), Wrong)


@each_vector
async def test_the_mailer_prints_the_code_of_the_vector(vector: Vector) -> None:
    printed = await _printed_by_the_mailer(vector)

    assert set(printed) == {vector.code}
    assert len(printed) == 2  # once in each language


def test_the_vectors_tell_every_part_of_the_derivation_apart() -> None:
    assert len({vector.code for vector in VECTORS}) == len(VECTORS)
    for part in ("key", "purpose", "challenge_id", "generation", "context", "digits"):
        assert len({getattr(vector, part) for vector in VECTORS}) > 1, part
    assert any(vector.code.startswith("0") for vector in VECTORS)


CODES = 1_000_000
COUNT = 6
WIDEST = 3
KEY = Key("c1", bytes(range(32)), NOON)
TAIL = 3.09  # standard deviations: the upper 0.1 %. Key and ids are fixed, so this passes always or never.


def _limit(freedom: int) -> float:
    """Return the upper 0.1 % point of chi-square (Wilson-Hilferty)."""
    part = 2 / (9 * freedom)
    return freedom * (1 - part + TAIL * math.sqrt(part)) ** 3


def _chi_square(seen: Mapping[str, int], cells: int) -> float:
    expected = sum(seen.values()) / cells
    missing = cells - len(seen)
    return sum((count - expected) ** 2 for count in seen.values()) / expected + missing * expected


def _tally(seen: Mapping[str, int], start: int, width: int) -> dict[str, int]:
    """Return how often each value stands in that many places from `start` on."""
    tally: dict[str, int] = {}
    for text, times in seen.items():
        value = text[start : start + width]
        tally[value] = tally.get(value, 0) + times
    return tally


def _windows(codes: Mapping[str, int]) -> Iterator[tuple[int, int, Mapping[str, int]]]:
    """Yield width, start and tally of each digit, pair and triple; only triples are counted over all codes."""
    triples = [_tally(codes, start, WIDEST) for start in range(COUNT - WIDEST + 1)]
    for width in range(1, WIDEST + 1):
        for start in range(COUNT - width + 1):
            held = min(start, COUNT - WIDEST)
            yield width, start, _tally(triples[held], start - held, width)


def _biased(codes: Mapping[str, int]) -> list[tuple[int, int]]:
    """Return width and start of what is not uniform."""
    return [
        (width, start)
        for width, start, seen in _windows(codes)
        if _chi_square(seen, 10**width) >= _limit(10**width - 1)
    ]


def test_a_million_codes_are_uniform_in_every_digit_pair_and_triple_and_as_a_whole() -> None:
    context = hashlib.sha256(b"").digest()
    codes = Counter(
        digits(KEY, "kip-code-v1", "confirm-email", f"c00{number:026}", "1", context, count=COUNT)
        for number in range(CODES)
    )

    assert codes.total() == CODES
    assert _biased(codes) == []
    assert _chi_square(codes, 10**COUNT) < _limit(10**COUNT - 1)


def test_the_measure_of_uniformity_finds_the_bias_of_a_plain_remainder() -> None:
    """24 bits modulo 10^6, a usual shortcut, make the codes below 777 216 more likely than the others by 1 in 16."""
    octets = hashlib.shake_256(b"made up").digest(3 * CODES)
    words = (int.from_bytes(octets[at : at + 3]) for at in range(0, len(octets), 3))

    codes = Counter(f"{word % 10**COUNT:06}" for word in words)

    assert _biased(codes) == [(1, 0), (2, 0), (3, 0)]


@pytest.mark.parametrize(("freedom", "tabled"), [(9, 27.88), (99, 148.23), (999, 1142.85)])
def test_the_limit_is_the_tabled_one(freedom: int, tabled: float) -> None:
    assert _limit(freedom) == pytest.approx(tabled, rel=0.01)
