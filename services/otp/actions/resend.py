"""Resend: another letter of an open challenge, unless the last one still waits; it costs what any letter costs.

What is stored if the process dies: after the taking, what was taken of limits, which the repeat finds; after the
commit, the letter, with the name of the click that wanted it, so that its repeat queues no other; before both, nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import assert_never

from services.otp.ports import (
    ANNOUNCE_WITHIN,
    COMMIT_TRIES,
    NOWHERE,
    Admit,
    Announce,
    ChallengeStore,
    Loaded,
    Mint,
    Position,
    Queue,
    StoreUnavailable,
)
from services.otp.rules.announcement import announcements
from services.otp.rules.challenge import Challenge
from services.otp.rules.handle import Opened, parse_handle
from services.otp.rules.policy import Policy
from services.otp.rules.quota import LetterAsked
from services.otp.rules.refusal import not_admitted
from services.otp.rules.renewal import NotOpen, NotYet, Resent, ResentBefore, StillQueued, decide_resend
from services.otp.rules.view import ChallengeView, seen_by


class ResendOutcome(StrEnum):
    """What became of a click."""

    QUEUED = "queued"
    STILL_QUEUED = "still_queued"
    NOT_YET = "not_yet"
    NOT_OPEN = "not_open"


@dataclass(frozen=True, slots=True)
class ResendAnswer:
    """What became of a click, and the challenge then; for an unknown handle there is none."""

    outcome: ResendOutcome
    challenge: ChallengeView | None


Decision = Resent | StillQueued | ResentBefore | NotYet | NotOpen


class ResendCode:
    """Verb: ask for another letter."""

    def __init__(
        self, store: ChallengeStore, mint: Mint, announce: Announce, queue: Queue, policy: Policy, *, admit: Admit
    ) -> None:
        """Take the ports."""
        self._store = store
        self._mint = mint
        self._admit = admit
        self._announce = announce
        self._queue = queue
        self._policy = policy

    async def __call__(
        self, caller: str, handle: str, idempotency_key: str, now: datetime, *, client: str = ""
    ) -> ResendAnswer:
        """Decide about a click, from a network of `network_of`. An unknown handle is not open.

        `now` is this host's time, used to choose keys only.

        Raises:
            LimitReached, Overloaded: no other letter is made now.
            StoreUnavailable: not known; repeat with the same key.
            KeysUnknown: no letter can be made here yet.
        """
        parsed = parse_handle(caller, handle)
        shard = self._store.shard_of(parsed.challenge_id)
        asked_by = parsed.click(idempotency_key)
        toll = self._admit(now)
        for _ in range(COMMIT_TRIES):
            loaded = await self._store.load(NOWHERE if shard is None else shard, challenge_ids=[parsed.challenge_id])
            opened = parsed.opens(loaded.challenges.get(parsed.challenge_id), self._policy)
            if opened is None or shard is None:
                return ResendAnswer(ResendOutcome.NOT_OPEN, None)
            before = opened.challenge
            decided = decide_resend(before, asked_by, self._mint.again, opened.purpose, loaded.now)
            after, outcome = _settled(before, decided)
            letter = self._letter(opened, asked_by, client) if isinstance(decided, Resent) else None
            refused = await toll.settle(letter)
            if refused is not None:
                raise not_admitted(refused, opened.purpose)
            notes = loaded.notes.get(before.id)
            if after == before:
                if outcome is ResendOutcome.QUEUED:
                    await self._store.confirm(shard)
                return self._answer(outcome, opened, after, notes.position if notes else None, loaded.now)
            positions = await self._committed(shard, opened, after, loaded)
            if positions is not None:
                kept = notes.position if notes and isinstance(decided, StillQueued) else None
                return self._answer(outcome, opened, after, next(iter(positions), kept), loaded.now)
        raise StoreUnavailable

    async def _committed(self, shard: int, opened: Opened, after: Challenge, loaded: Loaded) -> list[Position] | None:
        told = announcements(opened.challenge, after, opened.purpose, loaded.now)
        entries = await self._store.commit(shard, challenge=after, announcements=told)
        if entries is None:
            return None
        return list((await self._announce(entries, within=ANNOUNCE_WITHIN)).values())

    def _letter(self, opened: Opened, asked_by: bytes, client: str) -> LetterAsked:
        return LetterAsked(
            token=asked_by.hex(),
            subject_key=opened.challenge.subject_key,
            email=self._mint.part(opened.challenge).email,
            challenge_id=opened.challenge.id,
            deadline=opened.purpose.deadline,
            client=client,
        )

    def _answer(
        self, outcome: ResendOutcome, opened: Opened, challenge: Challenge, position: Position | None, now: datetime
    ) -> ResendAnswer:
        outlook = self._queue.outlook(position, now)
        return ResendAnswer(outcome, seen_by(challenge, opened.place, opened.purpose, now, outlook))


def _settled(before: Challenge, decided: Decision) -> tuple[Challenge, ResendOutcome]:
    match decided:
        case Resent(challenge) | ResentBefore(challenge):
            return challenge, ResendOutcome.QUEUED
        case StillQueued(challenge):
            return challenge, ResendOutcome.STILL_QUEUED
        case NotYet():
            return before, ResendOutcome.NOT_YET
        case NotOpen():
            return before, ResendOutcome.NOT_OPEN
    assert_never(decided)
