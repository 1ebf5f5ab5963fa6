"""The ring of code keys is rolled while codes are made and typed: none is lost, and none is judged without its key.

Both keys are made up. What the mailer prints is derived here as it derives it, from what the outbox says of the letter.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import msgspec
import pytest
from kip.otp.v1 import otp_events_pb2

from services.chassis.errors import Kind
from services.chassis.events import Envelope
from services.chassis.keyring import Key, Keyring, digits
from services.otp.actions.issue import IssueCode
from services.otp.actions.verify import VerifyCode
from services.otp.outbound.kafka_events import KafkaEncoder
from services.otp.outbound.keyring_mint import KeyringMint
from services.otp.outbound.sealed_parts import KeyringSealer
from services.otp.ports import KeysUnknown, OutboxEntry
from services.otp.rules.verdict import Accepted, Wrong
from tests.fakes.clock import NOON, FakeClock
from tests.fakes.otp import POLICY, PURPOSE, InMemoryChallengeStore, InMemoryQueue, LeavesIt, ring
from tests.fakes.otp_quotas import AdmitsAll
from tests.fakes.otp_restraint import InMemoryRestraint
from tests.unit.otp.desk import REQUEST

ROLLS_AT = NOON + timedelta(seconds=1)
OLD = Key("c1", b"1" * 32, NOON - timedelta(days=30))
ENDING = replace(OLD, until=ROLLS_AT + timedelta(seconds=1))
NEW = Key("c2", b"2" * 32, ROLLS_AT)
SEALING = ring("s1", 4)
TURN = timedelta(milliseconds=10)


@dataclass(frozen=True, slots=True)
class Letter:
    """A letter that waits: what its citizen will type, and the handle of the page where."""

    handle: str
    code: str
    kid: str
    asked_at: datetime


class Replica:
    """One otp with a ring of its own."""

    def __init__(self, store: InMemoryChallengeStore, *keys: Key) -> None:
        self.store = store
        self.code_keys = Keyring(keys)
        self._announced = LeavesIt()
        mint = KeyringMint(KeyringSealer(SEALING), self.code_keys, store.clock)
        rings = {"handle_keys": ring("h1", 2), "index_keys": ring("i1", 3)}
        self._issue = IssueCode(store, mint, self._announced, InMemoryQueue(), POLICY, admit=AdmitsAll(), **rings)
        self.verify = VerifyCode(
            store,
            mint,
            self._announced,
            InMemoryQueue(),
            POLICY,
            code_keys=self.code_keys,
            restraint=InMemoryRestraint(),
        )

    async def ask(self, citizen: int = 0) -> Letter:
        """Ask for a code; return the letter that was queued for it."""
        name = f"citizen-{citizen}"
        issued = await self._issue(replace(REQUEST, subject=name, idempotency_key=name), self.store.clock())
        (entry,) = [each for each in self._announced.entries if each.letter == f"{issued.challenge.id}.1"]
        return self._printed(issued.handle, entry)

    def _printed(self, handle: str, entry: OutboxEntry) -> Letter:
        envelope = msgspec.msgpack.decode(entry.record[b"e"], type=Envelope)
        event = otp_events_pb2.CodeRequested.FromString(envelope.value)
        parts = ("kip-code-v1", event.purpose, event.challenge_id, str(event.generation), event.context_sha256)
        code = digits({"c1": OLD, "c2": NEW}[event.code_kid], *parts, count=event.code_length)
        return Letter(handle, code, event.code_kid, envelope.time)

    async def type_in(self, letter: Letter) -> object:
        """Type the code of a letter; return the verdict, or the refusal."""
        try:
            return await self.verify("portal", letter.handle, letter.code, "", self.store.clock())
        except KeysUnknown as refusal:
            return refusal


def new_store() -> InMemoryChallengeStore:
    return InMemoryChallengeStore(FakeClock(), KafkaEncoder(POLICY))


async def crowd_over_the_roll(replica: Replica) -> list[Letter]:
    """Let 200 citizens ask while `not_before` of the new key passes: one begins each turn, many are in hand at once."""
    asking: list[asyncio.Task[Letter]] = []
    for citizen in range(200):
        asking.append(asyncio.create_task(replica.ask(citizen)))
        await asyncio.sleep(0)
        replica.store.clock.pass_by(TURN)
    return await asyncio.gather(*asking)


def kids(letters: Sequence[Letter]) -> Counter[str]:
    return Counter(letter.kid for letter in letters)


async def test_codes_made_while_a_new_key_starts_are_accepted_by_who_has_both() -> None:
    store = new_store()
    letters = await crowd_over_the_roll(Replica(store, OLD, NEW))
    reader = Replica(store, NEW, OLD)

    verdicts = await asyncio.gather(*(reader.type_in(letter) for letter in letters))

    assert all(isinstance(verdict, Accepted) for verdict in verdicts)
    assert min(kids(letters).values()) >= 50  # of each key many
    assert [letter.kid for letter in letters] == ["c1"] * kids(letters)["c1"] + ["c2"] * kids(letters)["c2"]
    assert all((letter.kid == "c2") == (letter.asked_at >= ROLLS_AT) for letter in letters)


async def test_who_lacks_the_new_key_says_so_and_spends_nothing() -> None:
    store = new_store()
    letters = await crowd_over_the_roll(Replica(store, OLD, NEW))
    behind, ahead = Replica(store, OLD), Replica(store, OLD, NEW)
    before = [made for made in store.challenges() if made.newest.code_kid == "c2"]

    answers = await asyncio.gather(*(behind.type_in(letter) for letter in letters))

    refusals = [answer for answer in answers if isinstance(answer, KeysUnknown)]
    assert len(refusals) == kids(letters)["c2"] == len(before)
    assert {(refusal.kind, refusal.reason) for refusal in refusals} == {(Kind.UNAVAILABLE, "CODE_KEYS_UNKNOWN")}
    assert all(refusal.retry_after for refusal in refusals)
    assert sum(isinstance(answer, Accepted) for answer in answers) == kids(letters)["c1"]
    assert [made for made in store.challenges() if made.newest.code_kid == "c2"] == before
    late = [letter for letter in letters if letter.kid == "c2"]
    assert all([isinstance(await ahead.type_in(letter), Accepted) for letter in late])


async def test_without_the_new_key_wrong_codes_cost_nothing_either() -> None:
    store = new_store()
    store.clock.pass_by(ROLLS_AT - NOON)
    letter = await Replica(store, OLD, NEW).ask()
    behind = Replica(store, OLD)

    for guess in range(PURPOSE.attempts + 1):
        assert isinstance(await behind.type_in(replace(letter, code=f"{guess:06}")), KeysUnknown)

    assert store.challenges()[0].attempts == 0


@pytest.mark.parametrize("lateness", [timedelta(0), timedelta(milliseconds=1), timedelta(minutes=3)], ids=str)
async def test_an_ended_key_is_accepted_as_long_as_its_codes_live(lateness: timedelta) -> None:
    store = new_store()
    replica = Replica(store, ENDING, NEW)
    letter = await replica.ask()
    assert letter.kid == "c1"
    assert ENDING.until is not None

    store.clock.pass_by(ENDING.until + lateness - store.clock())

    wrong = replace(letter, code=f"{(int(letter.code) + 1) % 10**PURPOSE.digits:06}")
    assert isinstance(await replica.type_in(wrong), Wrong)
    assert isinstance(await replica.type_in(letter), Accepted)
    assert (await replica.ask(citizen=1)).kid == "c2"


async def test_where_every_key_has_ended_no_code_is_made_and_no_request_is_half_made() -> None:
    store = new_store()
    assert ENDING.until is not None
    store.clock.pass_by(ENDING.until - NOON)

    with pytest.raises(KeysUnknown):
        await Replica(store, ENDING).ask()

    assert (store.challenges(), await store.outbox_size()) == ([], 0)
    assert (await Replica(store, ENDING, NEW).ask()).kid == "c2"  # with the same key: it resumes
