"""Everything that can happen to a challenge, in any order: people and the mailer are told what the design says.

Time moves by leaps and to every limit, a millisecond before and after it; what the mailer says comes never, late, twice
or in another order; answers are lost and calls repeated; two replicas do two things at the same instant.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from hypothesis import Phase, settings
from hypothesis import event as counted
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from services.otp.actions.issue import Issued
from services.otp.rules.challenge import Stall
from services.otp.rules.verdict import Unknown
from tests.fakes.otp import PURPOSE
from tests.unit.otp.bounded import taken
from tests.unit.otp.desk import REQUEST
from tests.unit.otp.looks import MS
from tests.unit.otp.reference_records import FateWord
from tests.unit.otp.two_worlds import Asked, Deed, Event, Held, TwoWorlds
from tests.unit.otp.way_out import way_out

FORMS: tuple[Callable[[str], str], ...] = (
    str,
    lambda code: f" {code[:3]} {code[3:]}\n",
    "\u2013".join,
    lambda code: code.translate({ord("0") + digit: chr(0xFF10 + digit) for digit in range(10)}),  # full-width
)
TRUSTED: list[FateWord] = ["handed_over", "delivered", "deferred", "bounced", "refused", "dropped", "dropped"]
HEARSAY: list[FateWord] = ["said_delivered", "said_bounced"]
HEARD = TRUSTED + HEARSAY
COPIED: list[FateWord] = ["handed_over", "handed_over", "delivered"]
TRIED_AGAIN = [0, 3, 71, 300, 469, 471, 1000]
"""Seconds from a deferral to the relay's next try; 0: it does not say."""
FORBIDDEN = [None, None, "quota", "overload"]
DAY = 90_000
LEAPS = [*[0.001, 1, 20, 51, 51, 96, 96, 206, 241, 241, 300, 541, 600, 756] * 3, 1300, 3601, DAY]
KINDS = st.sampled_from(["ask", "ask", "click", "cancel", "type", "type", "guess", "hand over", "drop"])
RARE = [
    "a page is closed",
    "a stranger has the handle",
    "a clerk unlocks",
    "the outbox is swept",
    "the broker goes",
    "the broker returns",
]
THEN = ["nothing", "a click", "a click and a drop"]
BESIDE = st.sampled_from([-1, 0, 1])
REPLICAS = st.integers(0, 1)
WISHES = st.tuples(st.sampled_from(["portal"] * 3 + ["clinic"]), st.sampled_from(["lan"] * 3 + ["minh", "hoa"]))


class LifeOfAChallenge(RuleBasedStateMachine):
    """One subject, its callers and pages, a mailer that says anything or nothing, and two replicas."""

    handles: Bundle[Held] = Bundle("handles")
    events: Bundle[Event] = Bundle("events")

    def __init__(self) -> None:
        super().__init__()
        self.worlds = TwoWorlds()

    @initialize(target=handles, row=st.sampled_from([0, 0, 0, 9, 99]), wish=WISHES)
    def somebody_asks_after_others_have_guessed(self, *, row: int, wish: tuple[str, str]) -> Any:
        held = self._ask(Asked(wish[0], self.worlds.new_key(), wish[1]))
        if row:
            self.worlds.have_failed(row)
        return held

    # People.

    @rule(target=handles, wish=WISHES, replica=REPLICAS, loses=st.sampled_from([0, 0, 0, 1]))
    def somebody_asks(self, *, wish: tuple[str, str], replica: int, loses: int) -> Any:
        return self._ask(Asked(wish[0], self.worlds.new_key(), wish[1]), replica, loses)

    @rule(target=handles, held=handles, replica=REPLICAS)
    def somebody_asks_for_the_same_again(self, *, held: Held, replica: int) -> Any:
        return self._ask_again(held, replica)

    @rule(target=handles, pick=st.integers(0, 9), wish=st.sampled_from(["", "", "", "minh"]), replica=REPLICAS)
    def a_request_is_repeated(self, *, pick: int, wish: str, replica: int) -> Any:
        """Also one whose answer was lost, and perhaps for another wish."""
        made = sorted(self.worlds.model.claims.items())
        (caller, key), claim = made[-1 - pick % len(made)]
        return self._ask(Asked(caller, key, wish or claim.body), replica)

    @rule(held=handles, key=st.sampled_from(["", "click-1", "click-2"]), replica=REPLICAS, loses=st.integers(0, 1))
    def somebody_clicks(self, *, held: Held, key: str, replica: int, loses: int) -> None:
        self._click_twice(held, key, replica, loses)

    @rule(
        held=handles,
        back=st.integers(0, 3),
        form=st.integers(0, len(FORMS) - 1),
        key=st.sampled_from(["", "", "entry-1", "entry-2"]),
        replica=REPLICAS,
        loses=st.sampled_from([0, 0, 0, 0, 1, 2]),
    )
    def somebody_types_a_code(self, *, held: Held, back: int, form: int, key: str, replica: int, loses: int) -> None:
        code = self.worlds.code(held.challenge, max(1, self.worlds.newest(held) - back))
        self.worlds.do(self.worlds.verify(held, code, key, FORMS[form]), replica, loses)

    @rule(
        held=handles,
        guesses=st.sampled_from([1, 1, 1, 4]),
        key=st.sampled_from(["", "", "entry-1"]),
        replica=REPLICAS,
        loses=st.sampled_from([0, 0, 0, 1]),
    )
    def somebody_guesses(self, *, held: Held, guesses: int, key: str, replica: int, loses: int) -> None:
        for guess in range(guesses):
            self.worlds.do(self.worlds.verify(held, self._wrong(held, guess), key), replica, loses)

    @rule(held=handles, ms=st.sampled_from([0, 59_999, 60_000, 60_001]), is_right=st.booleans(), replica=REPLICAS)
    def an_entry_is_repeated_within_or_after_its_minute(
        self, *, held: Held, ms: int, is_right: bool, replica: int
    ) -> None:
        code = self.worlds.code(held.challenge, self.worlds.newest(held)) if is_right else self._wrong(held, 0)
        entry = self.worlds.verify(held, code, self.worlds.new_key())
        self.worlds.do(entry, replica)
        self.worlds.turn(ms)
        self.worlds.do(entry, 1 - replica)

    @rule(target=handles, held=handles, replica=REPLICAS)
    def every_page_of_a_challenge_is_guessed_at(self, *, held: Held, replica: int) -> Any:
        for other in self.worlds.holders:
            if other.challenge == held.challenge:
                for guess in range(PURPOSE.attempts_per_handle):
                    self.worlds.do(self.worlds.verify(other, self._wrong(held, guess)))
        return self._ask_again(held, replica)

    @rule(held=handles, resumes=st.booleans(), replica=REPLICAS)
    def somebody_watches(self, *, held: Held, resumes: bool, replica: int) -> None:
        self._watch(held, replica, resumes=resumes)

    @rule(held=handles, first=KINDS, other=handles, second=KINDS)
    def two_things_happen_at_the_same_instant(self, *, held: Held, first: str, other: Held, second: str) -> None:
        self.worlds.do_at_once(self._deed(first, held), self._deed(second, other))

    @rule(held=handles, what=st.sampled_from(RARE), replica=REPLICAS)
    def something_rare_happens(self, *, held: Held, what: str, replica: int) -> None:
        worlds, desk = self.worlds, self.worlds.desks[replica]
        match what:
            case "a page is closed":
                worlds.do(worlds.cancel(held), replica)
            case "a stranger has the handle":
                self._stranger(held, replica)
            case "a clerk unlocks":
                done = worlds.run(desk.unlock(PURPOSE.name, REQUEST.subject, worlds.store.clock()))
                assert (done.was_locked,) == worlds.model.unlock()
            case "the outbox is swept":
                worlds.run(desk.sweep())
            case _:
                desk.events.is_away = what == "the broker goes"

    def _stranger(self, held: Held, replica: int) -> None:
        desk, run = self.worlds.desks[replica], self.worlds.run
        before = self.worlds.store.challenges()
        mistyped = held.text[:-1] + ("0" if held.text[-1] != "0" else "1")
        for caller, text in ((f"{held.caller}-2", held.text), (held.caller, mistyped)):
            assert run(desk.get(caller, text)) is None
            assert run(desk.type_in(text, self.worlds.code(held.challenge, 1), caller)) == Unknown()
            assert run(desk.click(text, caller=caller)).challenge is None
            assert run(desk.cancel(caller, text)) is False

        assert self.worlds.store.challenges() == before

    # Time and the mailer.

    @rule(seconds=st.sampled_from(LEAPS))
    def time_passes(self, *, seconds: float) -> None:
        self.worlds.turn(round(seconds * 1000))

    @rule(pick=st.integers(0, 4), beside=BESIDE)
    def a_limit_comes(self, *, pick: int, beside: int) -> None:
        model = self.worlds.model
        ahead = sorted(at for at in model.instants() if at + beside > model.now)
        if ahead:
            self._turn_to(ahead[pick % len(ahead)] + beside)

    @rule(held=handles, seconds=st.sampled_from([0, 51, 96, 206, 241]), then=st.sampled_from(THEN), replica=REPLICAS)
    def a_letter_arrives(self, *, held: Held, seconds: int, then: str, replica: int) -> None:
        held = self._open(held, replica)
        self._hear_now(held, "handed_over", replica)
        self.worlds.turn(seconds * 1000)
        if then != "nothing":
            self._click_twice(held, "", replica)
        if then == "a click and a drop":
            self._hear_now(held, "dropped", replica, exposed=True)

    @rule(
        held=handles,
        seconds=st.sampled_from([0, 241]),
        is_typed=st.sampled_from([True, True, False]),
        fate=st.sampled_from(["delivered", "handed_over", "dropped", "refused"]),
        replica=REPLICAS,
    )
    def a_code_is_typed_before_and_after_news(
        self, *, held: Held, seconds: int, is_typed: bool, fate: FateWord, replica: int
    ) -> None:
        held = self._open(held, replica)
        worlds, number = self.worlds, self.worlds.newest(held)
        entry = worlds.verify(held, worlds.code(held.challenge, number))
        if is_typed:
            self._hear_now(held, "handed_over", replica)
            worlds.turn(seconds * 1000)
            worlds.do(entry, replica)
        self._hear_now(held, fate, replica, number=number)
        worlds.do(entry, replica)

    @rule(held=handles, back=st.integers(0, 1), beside=BESIDE, replica=REPLICAS)
    def a_code_is_typed_at_its_last_instant(self, *, held: Held, back: int, beside: int, replica: int) -> None:
        held = self._open(held, replica)
        worlds, (challenge, _) = self.worlds, self.worlds.found(held)
        letter = challenge.letters[-1 - back % len(challenge.letters)]
        self._turn_to(worlds.model.good_until(challenge, letter) + beside)
        worlds.do(worlds.verify(held, worlds.code(held.challenge, letter.number)), replica)

    @rule(held=handles, times=st.integers(2, 3), replica=REPLICAS)
    def letters_are_dropped_in_a_row_and_somebody_clicks(self, *, held: Held, times: int, replica: int) -> None:
        held = self._open(held, replica)
        for _ in range(times):
            self._hear_now(held, "dropped", replica)
        self.worlds.turn(206_000)
        self._click_twice(held, "", replica)

    @rule(held=handles, watched=st.booleans(), beside=BESIDE, replica=REPLICAS)
    def a_letter_is_dropped_at_its_deadline(self, *, held: Held, watched: bool, beside: int, replica: int) -> None:
        held = self._open(held, replica)
        letter = self.worlds.found(held)[0].newest
        if watched:  # which keeps it wanted, but only once
            self._turn_to(letter.wanted - PURPOSE.reserve // MS)
            self._watch(held, replica, resumes=False)
        self._turn_to(letter.wanted + beside)
        if watched:
            self._watch(held, replica, resumes=False)
        self._hear_now(held, "dropped", replica, number=letter.number)

    @rule(held=handles, seconds=st.sampled_from([171, 300, 500]), replica=REPLICAS)
    def a_letter_arrives_too_late(self, *, held: Held, seconds: int, replica: int) -> None:
        held = self._open(held, replica)
        number = self.worlds.newest(held)
        self._hear_now(held, "handed_over", replica)
        self.worlds.turn(seconds * 1000)
        self._hear_now(held, "delivered", replica, number=number)

    @rule(
        held=handles,
        fate=st.sampled_from(COPIED),
        ago=st.lists(st.sampled_from([0, 60, 120, 180]), min_size=2, max_size=3),
        replica=REPLICAS,
    )
    def copies_of_a_letter_are_told_in_any_order(
        self, *, held: Held, fate: FateWord, ago: list[int], replica: int
    ) -> None:
        held = self._open(held, replica)
        number = self.worlds.newest(held)
        self.worlds.turn(181_000)
        now = self.worlds.model.now
        for each in ago:
            event = Event(held.challenge, number, fate, now - each * 1000, now - each * 1000, exposed=False)
            self.worlds.do(self.worlds.hear(event), replica)

    @rule(held=handles, again=st.sampled_from(TRIED_AGAIN), times=st.integers(1, 3), replica=REPLICAS)
    def a_relay_defers_a_letter(self, *, held: Held, again: int, times: int, replica: int) -> None:
        held = self._open(held, replica)
        for _ in range(times):
            self._hear_now(held, "handed_over", replica)
            self.worlds.turn(1000)
            self._hear_now(held, "deferred", replica, also=again * 1000)
            self.worlds.turn(241_000)

    @rule(forbids=st.sampled_from(FORBIDDEN))
    def limits_on_mails_change(self, *, forbids: str | None) -> None:
        self.worlds.model.forbids = forbids
        for desk in self.worlds.desks:
            desk.restraint.forbids = Stall(forbids) if forbids else None

    @rule(
        target=events,
        held=handles,
        back=st.sampled_from([0, 0, 0, 1, 2, -1]),
        fate=st.sampled_from(HEARD),
        ago=st.sampled_from([0, 0, 0, 5, 100, 400, -60]),
        again=st.sampled_from(TRIED_AGAIN),
        exposed=st.booleans(),
        is_late=st.sampled_from([False, False, True]),
    )
    def the_mailer_says(
        self, *, held: Held, back: int, fate: FateWord, ago: int, again: int, exposed: bool, is_late: bool
    ) -> Event:
        at = self.worlds.model.now - ago * 1000
        also = again * 1000 if fate == "deferred" else at - 30_000
        event = Event(held.challenge, max(1, self.worlds.newest(held) - back), fate, at, also, exposed)
        if not is_late:
            self.worlds.do(self.worlds.hear(event))
        return event

    @rule(event=events, replica=REPLICAS, loses=st.integers(0, 1))
    def an_event_comes_late_or_again(self, *, event: Event, replica: int, loses: int) -> None:
        self.worlds.do(self.worlds.hear(event), replica, loses)

    # What must hold after each step.

    @invariant()
    def everybody_is_shown_what_the_model_shows(self) -> None:
        assert self.worlds.looks() == self.worlds.expected_looks(self.worlds.model)

    @invariant()
    def each_letter_and_each_wish_is_announced_exactly_once(self) -> None:
        assert self.worlds.announced() == self.worlds.expected_announcements(self.worlds.model)

    @invariant()
    def at_most_one_letter_of_a_challenge_waits(self) -> None:
        now = self.worlds.store.clock()
        for challenge in self.worlds.store.challenges():
            assert sum(letter.waits(now) for letter in challenge.generations) <= 1

    @invariant()
    def two_codes_live_at_most(self) -> None:
        now = self.worlds.store.clock()
        assert all(len(challenge.live(now)) <= 2 for challenge in self.worlds.store.challenges())

    @invariant()
    def no_budget_is_exceeded(self) -> None:
        for challenge in self.worlds.store.challenges():
            assert 0 <= challenge.attempts <= PURPOSE.attempts
            assert all(0 <= handle.attempts <= PURPOSE.attempts_per_handle for handle in challenge.handles)
            assert sum(not handle.cancelled for handle in challenge.handles) <= 4
            assert sum(letter.cause == "reissued" for letter in challenge.generations) <= 2

    @invariant()
    def no_more_is_compared_than_the_budget(self) -> None:
        wrong = self.worlds.compared.values()
        assert max(Counter(held.text for held in wrong).values(), default=0) <= PURPOSE.attempts_per_handle
        assert max(Counter(held.challenge for held in wrong).values(), default=0) <= PURPOSE.attempts

    def teardown(self) -> None:
        """Wherever it ended: whoever waits and asks again gets a letter, and its code opens the challenge."""
        worlds = self.worlds
        for word in sorted(worlds.words):
            counted(f"somebody was told: {word}")
        counted(f"letters of one challenge: {max((len(each.letters) for each in worlds.model.challenges), default=0)}")
        try:
            for desk in worlds.desks:
                desk.events.is_away = False
            worlds.run(way_out(worlds))
            worlds.turn(6000)
            assert worlds.run(worlds.desks[0].sweep()) == 0
        finally:
            worlds.loop.close()

    def _ask(self, asked: Asked, replica: int = 0, loses: int = 0) -> Any:
        worlds = self.worlds
        answer = worlds.do(worlds.request(asked), replica, loses)
        if not isinstance(answer, Issued):
            return multiple()
        return next(held for held in worlds.holders if held.text == answer.handle)

    def _ask_again(self, held: Held, replica: int) -> Any:
        wish = self.worlds.model.claims[held.caller, held.key].body
        return self._ask(Asked(held.caller, self.worlds.new_key(), wish), replica)

    def _open(self, held: Held, replica: int) -> Held:
        """Return a handle of an open challenge, if one can be had: most stories need one."""
        for each in (held, self.worlds.holders[-1]):
            challenge, handle = self.worlds.found(each)
            if self.worlds.model.state(challenge) == "open" and not handle.given_back:
                return each
        asked = self._ask_again(held, replica)
        return asked if isinstance(asked, Held) else held

    def _click_twice(self, held: Held, key: str, replica: int, loses: int = 0) -> None:
        key = key or self.worlds.new_key()
        self.worlds.do(self.worlds.click(held, key), replica, loses)
        self.worlds.do(self.worlds.click(held, key), 1 - replica)

    def _watch(self, held: Held, replica: int, *, resumes: bool) -> None:
        worlds, desk = self.worlds, self.worlds.desks[replica]
        before = worlds.run(desk.get(held.caller, held.text))
        version = before.version if before and resumes else 0

        views, _ = worlds.run(taken(desk.watch(held.caller, held.text, version)))

        is_kept = worlds.model.watch(*worlds.found(held))
        assert len(views) == (before is not None and not resumes) + is_kept
        assert not views or views[-1] == worlds.run(desk.get(held.caller, held.text))

    def _hear_now(
        self,
        held: Held,
        fate: FateWord,
        replica: int,
        *,
        number: int | None = None,
        exposed: bool = False,
        also: int = -1,
    ) -> None:
        now = self.worlds.model.now
        number = number or self.worlds.newest(held)
        event = Event(held.challenge, number, fate, now, now if also < 0 else also, exposed)
        self.worlds.do(self.worlds.hear(event), replica)

    def _turn_to(self, instant: int) -> None:
        self.worlds.turn(max(instant - self.worlds.model.now, 0))

    def _wrong(self, held: Held, guess: int) -> str:
        return self.worlds.desks[0].wrong_code(self.worlds.ids[held.challenge], guess)

    def _deed(self, kind: str, held: Held) -> Deed:
        worlds, now = self.worlds, self.worlds.model.now
        number = worlds.newest(held)
        match kind:
            case "ask":
                wish = worlds.model.claims[held.caller, held.key].body
                return worlds.request(Asked(held.caller, worlds.new_key(), wish))
            case "click":
                return worlds.click(held, worlds.new_key())
            case "cancel":
                return worlds.cancel(held)
            case "type":
                return worlds.verify(held, worlds.code(held.challenge, number))
            case "guess":
                return worlds.verify(held, self._wrong(held, 0))
        fate: FateWord = "dropped" if kind == "drop" else "handed_over"
        return worlds.hear(Event(held.challenge, number, fate, now, now, exposed=False))


TestLifeOfAChallenge = LifeOfAChallenge.TestCase
# Without the phase that explains: it traces every line, which takes minutes here and tells little of forty steps.
TestLifeOfAChallenge.settings = settings(
    max_examples=max(200, settings().max_examples // 10),  # an example is forty calls
    stateful_step_count=40,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)
