"""Crowds on one challenge, on a real Redis, through two processes' worth of verbs: no free guess, no second success.

A crowd that gets in each other's way may be told that the store is busy; who repeats then gets a verdict.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta

import pytest
from prometheus_client import CollectorRegistry

from services.chassis.keyring import digits
from services.otp.actions.issue import IssueCode
from services.otp.actions.sweep import AnnounceEntries
from services.otp.actions.verify import VerifyCode
from services.otp.metrics import OtpMetrics
from services.otp.outbound.redis_store import RedisChallengeStore, redis_client
from services.otp.ports import StoreUnavailable
from services.otp.rules.challenge import Challenge
from services.otp.rules.policy import SUBJECT_ROW, Policy
from services.otp.rules.subject import Subject
from services.otp.rules.verdict import Accepted, Locked, Used, Verdict, Wrong
from tests.contract.challenge_stores import DATABASE, PATIENT, Server
from tests.fakes.clock import NOON
from tests.fakes.otp import PURPOSE, Drawer, EventList, InMemoryQueue, named, ring
from tests.fakes.otp_quotas import AdmitsAll
from tests.fakes.otp_restraint import InMemoryRestraint
from tests.unit.otp.desk import REQUEST

AT_ONCE = replace(PURPOSE, cooldowns=(timedelta(microseconds=1),))  # other challenges of a subject need no waiting
POLICY = Policy({AT_ONCE.name: AT_ONCE})
CODE_KEYS = ring("c1", 1)
HOST_TIME = NOON  # chooses keys only; what happens in the crowd happens by the server's clock


class Replica:
    """One otp on a client of its own."""

    def __init__(self, store: RedisChallengeStore, mint: Drawer) -> None:
        self.store = store
        announce = AnnounceEntries(store, EventList())
        rings = {"handle_keys": ring("h1", 2), "index_keys": ring("i1", 3)}
        self.issue = IssueCode(store, mint, announce, InMemoryQueue(), POLICY, admit=AdmitsAll(), **rings)
        self.verify = VerifyCode(
            store, mint, announce, InMemoryQueue(), POLICY, code_keys=CODE_KEYS, restraint=InMemoryRestraint()
        )


class Crowd:
    """Two replicas, and many who type at the same time."""

    def __init__(self, replicas: Sequence[Replica]) -> None:
        self.replicas = replicas
        self.turned_away = 0
        """How many calls were told that the store is busy."""

    async def handle(self, key: str, context: str = "") -> str:
        """Ask for a code, or join the letter that waits."""
        request = replace(REQUEST, idempotency_key=key, context=context)
        return (await self.replicas[0].issue(request, HOST_TIME)).handle

    async def type_in(self, replica: Replica, handle: str, code: str, key: str = "") -> Verdict:
        """Type a code until there is a verdict."""
        while True:
            try:
                return await replica.verify("portal", handle, code, key, HOST_TIME)
            except StoreUnavailable:
                self.turned_away += 1

    async def verdicts(self, handles: Sequence[str], codes: Sequence[str], key: str = "") -> list[Verdict]:
        """Let everybody type at once: each code with one of the handles, at one of the replicas."""
        return await asyncio.gather(
            *(
                self.type_in(self.replicas[number % 2], handles[number // 2 % len(handles)], code, key)
                for number, code in enumerate(codes)
            )
        )

    async def stored(self, handle: str) -> tuple[Challenge, Subject]:
        """Return the records behind a handle."""
        store, challenge_id = self.replicas[0].store, handle.partition(".")[0]
        shard = store.shard_of(challenge_id)
        assert shard is not None
        made = (await store.load(shard, challenge_ids=[challenge_id])).challenges[challenge_id]
        subject = (await store.load(shard, subject_key=made.subject_key)).subject
        assert subject is not None
        return made, subject

    async def code(self, handle: str, context: str = "") -> str:
        """Return the code that the mailer would print."""
        made, _ = await self.stored(handle)
        parts = ("kip-code-v1", made.purpose, made.id, "1", hashlib.sha256(context.encode()).digest())
        return digits(CODE_KEYS.named(made.newest.code_kid), *parts, count=made.code_length)

    async def wrong(self, handle: str, count: int) -> list[str]:
        """Return as many different codes that are not the right one."""
        right = await self.code(handle)
        return [code for code in (f"{number:06}" for number in range(count + 1)) if code != right][:count]


@pytest.fixture
async def crowd(redis_server: Server) -> AsyncIterator[Crowd]:
    """Two replicas on an empty database, with one mint, as they have the same keys."""
    async with AsyncExitStack() as parts:
        url = f"redis://{redis_server.address}/{DATABASE}?{PATIENT}"
        clients = [await parts.enter_async_context(redis_client(url)) for _ in range(2)]
        await clients[0].flushdb()
        mint = Drawer()
        patience = timedelta(minutes=1)  # a busy machine is no fault of the store
        stores = [
            RedisChallengeStore(client, named, OtpMetrics(CollectorRegistry(), []), within=patience)
            for client in clients
        ]
        yield Crowd([Replica(store, mint) for store in stores])


def kinds(verdicts: Sequence[Verdict]) -> Counter[type]:
    return Counter(type(verdict) for verdict in verdicts)


async def test_of_200_right_codes_at_once_exactly_one_is_accepted(crowd: Crowd) -> None:
    handles = [await crowd.handle(f"key-{number}") for number in range(4)]
    code = await crowd.code(handles[0])

    verdicts = await crowd.verdicts(handles, [code] * 200)

    assert kinds(verdicts)[Accepted] == 1
    assert kinds(verdicts).keys() <= {Accepted, Used, Locked}  # locked: while others' codes were being compared
    made, subject = await crowd.stored(handles[0])
    assert (made.attempts, [handle.attempts for handle in made.handles], subject.failures) == (0, [0] * 4, 0)
    assert made.verified_at == next(verdict.verified_at for verdict in verdicts if isinstance(verdict, Accepted))
    assert kinds(await crowd.verdicts(handles, [code] * 2)) == {Used: 2}


async def test_500_wrong_codes_at_once_are_not_compared_beyond_the_budget_of_their_challenge(crowd: Crowd) -> None:
    handles = [await crowd.handle(f"key-{number}") for number in range(4)]

    verdicts = await crowd.verdicts(handles, await crowd.wrong(handles[0], 500))

    assert kinds(verdicts) == {Wrong: PURPOSE.attempts, Locked: 500 - PURPOSE.attempts}
    made, subject = await crowd.stored(handles[0])
    assert made.attempts == sum(handle.attempts for handle in made.handles) == subject.failures == PURPOSE.attempts
    assert max(handle.attempts for handle in made.handles) <= PURPOSE.attempts_per_handle
    assert isinstance(await crowd.type_in(crowd.replicas[1], handles[0], await crowd.code(handles[0])), Locked)


async def test_500_wrong_codes_at_once_are_not_compared_beyond_the_row_of_their_subject(crowd: Crowd) -> None:
    """Over four challenges, which would have allowed 12: one handle of each."""
    handles = [await crowd.handle(f"key-{number}", f"context {number}") for number in range(4)]

    verdicts = await crowd.verdicts(handles, await crowd.wrong(handles[0], 500))

    assert kinds(verdicts) == {Wrong: SUBJECT_ROW, Locked: 500 - SUBJECT_ROW}
    records = [await crowd.stored(handle) for handle in handles]
    assert len({made.id for made, _ in records}) == 4
    assert sum(made.attempts for made, _ in records) == records[0][1].failures == SUBJECT_ROW


async def test_50_repeats_of_a_wrong_code_at_once_are_one_attempt(crowd: Crowd) -> None:
    handle = await crowd.handle("key-1")
    (code,) = await crowd.wrong(handle, 1)

    verdicts = await crowd.verdicts([handle], [code] * 50, key="typed-1")

    assert set(verdicts) == {Wrong(PURPOSE.attempts_per_handle - 1)}
    made, subject = await crowd.stored(handle)
    assert (made.attempts, made.handles[0].attempts, len(made.entries), subject.failures) == (1, 1, 1, 1)


async def test_50_repeats_of_the_right_code_at_once_are_one_success(crowd: Crowd) -> None:
    handle = await crowd.handle("key-1", REQUEST.context)
    code = await crowd.code(handle, REQUEST.context)

    verdicts = await crowd.verdicts([handle], [code] * 50, key="typed-1")

    made, subject = await crowd.stored(handle)
    assert made.verified_at is not None
    assert set(verdicts) == {Accepted(made.verified_at, REQUEST.context)}
    assert (made.attempts, len(made.entries), subject.failures) == (0, 1, 0)
    assert isinstance(await crowd.type_in(crowd.replicas[1], handle, code, key="typed-2"), Used)


async def test_a_right_code_among_100_wrong_ones_is_accepted_or_was_never_compared(crowd: Crowd) -> None:
    handles = [await crowd.handle(f"key-{number}") for number in range(4)]
    code = await crowd.code(handles[0])
    typed = [*await crowd.wrong(handles[0], 50), code, *(await crowd.wrong(handles[0], 100))[50:]]

    verdicts = await crowd.verdicts(handles, typed)

    assert isinstance(verdicts[50], Accepted | Locked)
    assert kinds(verdicts)[Wrong] <= PURPOSE.attempts
    made, _ = await crowd.stored(handles[0])
    assert (made.verified_at is not None) == isinstance(verdicts[50], Accepted)
    assert made.attempts == kinds(verdicts)[Wrong]
