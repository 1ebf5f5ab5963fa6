"""The service and the reference model side by side: each call is made in both, and both must answer alike.

A call is a `Deed`. The service has two replicas over one store that can lose the answer to a commit. Calls that come at
the same instant are made on both replicas at once; their answers must be those of one of the orders in which the
model's steps can come.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import permutations
from typing import Any

from services.chassis.errors import ServiceError
from services.otp.actions.follow import Unfollowed
from services.otp.actions.issue import Issued, QuotaExceeded
from services.otp.actions.resend import ResendAnswer
from services.otp.ports import IdempotencyKeyReused, StoreUnavailable
from services.otp.rules.challenge import Challenge
from services.otp.rules.generation import Delivery, Fate
from services.otp.rules.subject import Subject
from services.otp.rules.verdict import Accepted, Expired, Locked, Unknown, Used, Wrong
from services.otp.rules.view import ChallengeView
from tests.fakes.clock import NOON
from tests.fakes.otp import PURPOSE
from tests.fakes.otp_lossy import LossyStore
from tests.unit.otp import reference_records
from tests.unit.otp.desk import REQUEST, Desk
from tests.unit.otp.looks import MS, Look, expected_look, in_ms, look
from tests.unit.otp.reference_model import ReferenceModel
from tests.unit.otp.reference_records import FateWord, Numbers, Outcome, Steps

LONG_AGO = 3_600_000  # the longest lock that grows
LOOKED_AT = 4
"""Handles whose view is compared, the newest ones: looking at all of them would take most of the time."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that was made."""

    caller: str
    key: str
    wish: str


@dataclass(frozen=True, slots=True)
class Held:
    """A handle that somebody got."""

    caller: str
    key: str
    text: str
    challenge: int
    """Which, in the order in which they were made."""


@dataclass(frozen=True, slots=True)
class Event:
    """What the mailer says; it may be on its way for long."""

    challenge: int
    number: int
    fate: FateWord
    at: int
    also: int
    """Of a hand-over: when its body began. Of a deferral: until the next try, 0 = not told."""
    exposed: bool


@dataclass(frozen=True, slots=True)
class Deed:
    """One call, as the service does it and as the model does."""

    real: Callable[[Desk], Coroutine[Any, Any, object]]
    model: Callable[[ReferenceModel, int], Steps]
    """Its second argument: the answer to which of its commits was lost; 0: none."""
    noted: Callable[[object], None] = lambda _: None
    """Hears what the service answered."""


class TwoWorlds:
    """What people, the mailer and time do, done in both."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.store = LossyStore()
        first = Desk(store=self.store)
        self.desks = (first, Desk(store=self.store, mint=first.mint))
        self.model = ReferenceModel(_numbers())
        self.ids: list[str] = []
        """Of the challenges, in the order in which they were made."""
        self.holders: list[Held] = []
        self.words: set[str] = set()
        """All that anybody was told, for statistics."""
        self._keys_used = 0
        self._shown: dict[str, ChallengeView] = {}
        self._told_expired: set[tuple[int, int]] = set()
        self._accepted: dict[int, tuple[str, str]] = {}
        self.compared: dict[tuple[str, str], Held] = {}
        """Entries that were told wrong, by handle and key; an answer that is told again is the same entry."""

    def run(self, call: Coroutine[Any, Any, Any]) -> Any:
        """Await it."""
        return self.loop.run_until_complete(call)

    def new_key(self) -> str:
        """Return an idempotency key that nobody has used."""
        self._keys_used += 1
        return f"key-{self._keys_used}"

    def turn(self, by: int) -> None:
        """Let milliseconds pass."""
        self.store.clock.pass_by(by * MS)
        self.model.time_passes(by)

    def code(self, challenge: int, number: int) -> str:
        """Return the code of a letter."""
        return self.desks[0].code_of(self.ids[challenge], number)

    def found(self, held: Held) -> tuple[reference_records.Challenge, reference_records.Handle]:
        """Return what the model knows of a handle."""
        return _found(self.model, held)

    def newest(self, held: Held) -> int:
        """Return the number of the newest letter."""
        return len(self.model.challenges[held.challenge].letters)

    # Deeds.

    def request(self, asked: Asked) -> Deed:
        """Ask for a code."""
        return Deed(
            lambda desk: desk.ask(asked.key, caller=asked.caller, email=f"{asked.wish}@example.vn"),
            lambda model, lost: model.request(asked.caller, asked.key, asked.wish, is_answered=not lost),
            lambda answer: self._handed_out(asked, answer),
        )

    def click(self, held: Held, key: str) -> Deed:
        """Ask for another letter."""
        return Deed(
            lambda desk: desk.click(held.text, key, held.caller),
            lambda model, _: model.click(*_found(model, held), key),
        )

    def cancel(self, held: Held) -> Deed:
        """Give a handle back."""
        return Deed(
            lambda desk: desk.cancel(held.caller, held.text),
            lambda model, _: model.cancel(*_found(model, held)),
        )

    def verify(self, held: Held, code: str, key: str = "", form: Callable[[str], str] = str) -> Deed:
        """Type a code in some form."""
        right = self._right(held, code)
        return Deed(
            lambda desk: desk.type_in(held.text, form(code), held.caller, key),
            lambda model, lost: model.verify(*_found(model, held), code, right, key, dies=lost == 1),
            lambda answer: self._judged(held, right, key or self.new_key(), answer),
        )

    def hear(self, event: Event) -> Deed:
        """Hear of a letter."""
        fate = event.fate.removeprefix("said_")
        delivery = Delivery(Fate(fate), NOON + event.at * MS, exposed=event.exposed, is_hearsay=event.fate != fate)
        if event.fate == "handed_over":
            delivery = replace(delivery, body_started_at=NOON + event.also * MS)
        if event.fate == "deferred" and event.also:
            delivery = replace(delivery, next_try_at=delivery.at + event.also * MS)
        return Deed(
            lambda desk: desk.follow(self.ids[event.challenge], event.number, delivery),
            lambda model, _: model.hear(
                model.challenges[event.challenge],
                event.number,
                event.fate,
                event.at,
                event.also,
                exposed=event.exposed,
            ),
        )

    # Doing them.

    def do(self, deed: Deed, replica: int = 0, loses: int = 0) -> object:
        """Do it in both worlds; return what the service answered, an exception when that was lost."""
        self.store.loses_commit = loses
        answer = self.run(_caught(deed.real(self.desks[replica])))
        self.store.loses_commit = 0
        self._name_what_is_new()
        is_lost = isinstance(answer, StoreUnavailable)
        assert loses or not is_lost
        expected = _through(deed.model(self.model, loses if is_lost else 0))
        self.words.add(str(expected[0]))
        if not is_lost:
            assert self.said(answer) == expected
        deed.noted(answer)
        return answer

    def do_at_once(self, first: Deed, second: Deed) -> None:
        """Do both at the same instant, each on its replica."""
        deeds = (first, second)

        async def both() -> list[object]:
            return list(await asyncio.gather(*map(_called, deeds, self.desks)))

        answers: list[object] = self.run(both())
        self._name_what_is_new()
        said, looks, counted = [self.said(answer) for answer in answers], self.looks(), self._counted()
        orders = sorted(set(permutations([0, 0, 1, 1])))
        worlds = (self._in_order(deeds, order) for order in orders)
        fitting = next((model for told, model in worlds if told == said and self._fits(model, looks, counted)), None)
        possible = [] if fitting else [self._in_order(deeds, order)[0] for order in orders]
        assert fitting, f"no order gives {said} and what is shown then; possible were {possible}"
        self.model = fitting
        for deed, answer in zip(deeds, answers, strict=True):
            deed.noted(answer)

    def have_failed(self, times: int) -> None:
        """Let the subject have typed that many wrong codes in a row, so long ago that no lock stands."""
        subject = self._subject()
        assert subject is not None
        failed = replace(
            subject, version=subject.version + 1, failures=times, counted_at=self.store.clock() - LONG_AGO * MS
        )
        self.run(self.store.commit(self._shard(), subject=failed))
        self.model.failures = [self.model.now - LONG_AGO] * times

    def _shard(self) -> int:
        shard = self.store.shard_of(self.ids[0])
        assert shard is not None
        return shard

    def _subject(self) -> Subject | None:
        (key,) = {challenge.subject_key for challenge in self.store.challenges()}
        subject: Subject | None = self.run(self.store.load(self._shard(), subject_key=key)).subject
        return subject

    def _counted(self) -> tuple[int, list[int]]:
        """Return what nobody is shown and yet tells orders apart: the row of failures, the attempts of challenges."""
        subject = self._subject()
        return subject.failures if subject else 0, [challenge.attempts for challenge in self.store.challenges()]

    def _fits(self, model: ReferenceModel, looks: list[Look], counted: tuple[int, list[int]]) -> bool:
        if counted != (len(model.failures), [challenge.attempts for challenge in model.challenges]):
            return False
        if len(model.challenges) != len(self.ids) or self.expected_looks(model) != looks:
            return False
        return self.expected_announcements(model) == self.announced()

    def _in_order(self, deeds: tuple[Deed, Deed], order: tuple[int, ...]) -> tuple[list[Outcome], ReferenceModel]:
        model = deepcopy(self.model)
        running = [deed.model(model, 0) for deed in deeds]
        outcomes: list[Outcome] = [(), ()]
        for place in (*order, 0, 1):
            try:
                next(running[place])
            except StopIteration as end:
                outcomes[place] = end.value or outcomes[place]
        return outcomes, model

    # Comparing.

    def said(self, answer: object) -> Outcome:  # noqa: C901, PLR0911 - a case per answer
        """Return an answer of the service in the words of the model."""
        match answer:
            case Issued(challenge=seen, joined=joined, outcome=outcome):
                return (outcome, self.ids.index(seen.id), len(seen.letters), joined)
            case QuotaExceeded(retry_after=timedelta() as wait):
                return ("too soon", wait // MS)
            case IdempotencyKeyReused():
                return ("reused",)
            case ResendAnswer(outcome):
                return (outcome.value,)
            case bool():
                return (answer,)
            case Accepted(verified_at):
                return ("accepted", in_ms(verified_at))
            case Wrong(attempts_left):
                return ("wrong", attempts_left)
            case Expired(reference):
                return ("expired", self._numbered(reference))
            case Locked(retry_at):
                return ("locked", in_ms(retry_at))
            case Used() | Unknown():
                return (type(answer).__name__.lower(),)
            case Challenge():
                return ("merged",)
            case Unfollowed():
                return ("unknown" if answer is Unfollowed.UNKNOWN else "nothing new",)
        raise AssertionError(answer)

    def looks(self) -> list[Look]:
        """Return what the newest handles are shown; what is shown changes under a version that grows."""
        holders = self.holders[-LOOKED_AT:]
        views: list[ChallengeView | None] = self.run(self._views(holders))
        for held, seen in zip(holders, views, strict=True):
            before = self._shown.get(held.text)
            if seen is not None and before is not None:
                assert seen.version >= before.version
                assert seen.version > before.version or look(seen) == look(before)
            if seen is not None:
                assert (seen.advice is None) == (seen.verified_at is not None)
                self._shown[held.text] = seen
        return [look(seen) for seen in views]

    async def _views(self, holders: list[Held]) -> list[ChallengeView | None]:
        return [await self.desks[0].get(held.caller, held.text) for held in holders]

    def expected_looks(self, model: ReferenceModel) -> list[Look]:
        """Return what the model would show them."""
        return [expected_look(model, *_found(model, held)) for held in self.holders[-LOOKED_AT:]]

    def announced(self) -> Counter[str]:
        """Return what was published or waits to be."""
        published = Counter(name for desk in self.desks for name in desk.events.published)
        return published + Counter(self.store.outbox())

    def expected_announcements(self, model: ReferenceModel) -> Counter[str]:
        """Return what the model tells the mailer."""
        words = {"letter": "", "wanted": " wanted", "withdrawn": " withdrawn"}
        return Counter(f"{self.ids[name]}.{number}{words[what]}" for name, number, what in model.announced)

    def _name_what_is_new(self) -> None:
        self.ids += [each.id for each in self.store.challenges() if each.id not in self.ids]

    def _handed_out(self, asked: Asked, answer: object) -> None:
        if isinstance(answer, Issued):
            held = Held(asked.caller, asked.key, answer.handle, self.ids.index(answer.challenge.id))
            if held not in self.holders:
                self.holders.append(held)

    def _judged(self, held: Held, right: set[int], key: str, verdict: object) -> None:
        """Look at verdicts for themselves, beside what the model thinks of them."""
        letters = {(held.challenge, number) for number in right}
        match verdict:
            case Wrong():
                self.compared[held.text, key] = held
            case Expired():
                self._told_expired |= letters
            case Accepted(context=context):
                assert context == REQUEST.context
                assert not letters & self._told_expired, "a code that was told expired is accepted"
                first = self._accepted.setdefault(held.challenge, (held.text, key))
                assert first == (held.text, key), "accepted twice"
            case _:
                pass

    def _right(self, held: Held, code: str) -> set[int]:
        numbers = range(1, self.newest(held) + 1)
        return {number for number in numbers if self.code(held.challenge, number) == code}

    def _numbered(self, reference: str) -> int | None:
        letters = [letter for challenge in self.store.challenges() for letter in challenge.generations]
        return next((letter.number for letter in letters if letter.reference == reference), None)


def _numbers() -> Numbers:
    return Numbers(
        life=PURPOSE.life // MS,
        max_life=PURPOSE.max_life // MS,
        challenge_life=PURPOSE.challenge_life // MS,
        deadline=(PURPOSE.patience - PURPOSE.reserve) // MS,
        reserve=PURPOSE.reserve // MS,
        cooldowns=[pause // MS for pause in PURPOSE.cooldowns],
        attempts_per_handle=PURPOSE.attempts_per_handle,
        attempts=PURPOSE.attempts,
    )


def _found(model: ReferenceModel, held: Held) -> tuple[reference_records.Challenge, reference_records.Handle]:
    challenge = model.challenges[held.challenge]
    handle = challenge.handle(held.caller, held.key)
    assert handle is not None
    return challenge, handle


def _through(steps: Steps) -> Outcome:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            outcome: Outcome = end.value
            return outcome


async def _called(deed: Deed, desk: Desk) -> object:
    return await _caught(deed.real(desk))


async def _caught(call: Awaitable[object]) -> object:
    try:
        return await call
    except ServiceError as refusal:
        return refusal
