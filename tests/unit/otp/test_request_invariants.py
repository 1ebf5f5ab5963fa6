"""Whatever citizens do and whatever the mailer says, in any order: what must hold of asking for codes."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.otp.rules.challenge import Challenge, State, with_delivery, without_handle
from services.otp.rules.generation import Delivery, Fate, Generation
from services.otp.rules.policy import MAX_HANDLES, MAX_LIVE, WANTED_STEP
from services.otp.rules.request import Joined, Queued, TooSoon
from tests.fakes.otp import PURPOSE
from tests.unit.otp.made_up import Counter

HEARD = [Fate.HANDED_OVER, Fate.DELIVERED, Fate.DEFERRED, Fate.BOUNCED, Fate.REFUSED, Fate.DROPPED]


class Asking(RuleBasedStateMachine):
    """One citizen with two wishes, pages in abundance, and a mailer that says anything."""

    def __init__(self) -> None:
        super().__init__()
        self.counter = Counter()

    @rule(seconds=st.sampled_from([0.001, 1, 20, 31, 51, 120, 241, 600, 800]))
    def time_passes(self, seconds: float) -> None:
        self.counter.now += timedelta(seconds=seconds)

    @rule(wish=st.sampled_from(["wish-a", "wish-b"]))
    def somebody_asks(self, wish: str) -> None:
        before = dict(self.counter.challenges)
        subject = self.counter.subject

        decided = self.counter.ask(same_wish=wish)

        match decided:
            case Queued(challenge, named):
                assert challenge.newest.waits(self.counter.now)
                assert len(challenge.live(self.counter.now)) <= MAX_LIVE
                assert challenge.newest.wanted_until <= challenge.ends_at - PURPOSE.life
                assert named.latest_id == named.challenge_of(wish) == challenge.id
            case Joined(challenge, extended):
                _demand_only_longer(before[challenge.id].newest, challenge.newest, extended=extended)
                assert challenge.generations[:-1] == before[challenge.id].generations[:-1]
                assert self.counter.subject == subject
            case TooSoon(retry_after):
                assert retry_after > timedelta(0)
                assert self.counter.challenges == before

    @precondition(lambda self: self.counter.challenges)
    @rule(data=st.data(), fate=st.sampled_from(HEARD), exposed=st.booleans(), ago=st.integers(0, 900))
    def the_mailer_says(self, data: st.DataObject, fate: Fate, exposed: bool, ago: int) -> None:  # noqa: FBT001 - drawn
        challenge = self._any(data)
        number = data.draw(st.integers(1, len(challenge.generations)))
        event = Delivery(fate, self.counter.now - timedelta(seconds=ago), exposed=exposed)
        changed = with_delivery(challenge, number, event, received_at=self.counter.now)
        if changed is not None:
            self.counter.keep(changed)

    @precondition(lambda self: self.counter.challenges)
    @rule(data=st.data())
    def a_page_is_closed(self, data: st.DataObject) -> None:
        challenge = self._any(data)
        self.counter.keep(without_handle(challenge, data.draw(st.integers(0, len(challenge.handles) - 1))))

    def _any(self, data: st.DataObject) -> Challenge:
        return self.counter.challenges[data.draw(st.sampled_from(sorted(self.counter.challenges)))]

    @invariant()
    def no_challenge_has_more_than_four_handles_in_use(self) -> None:
        for kept in self.counter.challenges.values():
            assert sum(not handle.cancelled for handle in kept.handles) <= MAX_HANDLES

    @invariant()
    def one_letter_of_a_wish_waits_at_most(self) -> None:
        """Given one up that nobody may open any more: it is withdrawn."""
        for wish in ("wish-a", "wish-b"):
            challenges = [kept for kept in self.counter.challenges.values() if kept.same_wish == wish]
            wanted = [kept for kept in challenges if kept.state(PURPOSE, self.counter.now) is State.OPEN]
            letters = [letter for kept in wanted for letter in kept.generations]
            assert sum(letter.waits(self.counter.now) for letter in letters) <= 1

    @invariant()
    def a_promise_of_when_is_kept(self) -> None:
        """Who comes back when they were told to, and nothing else happened meanwhile, is not refused again."""
        for kept in self.counter.challenges.values():
            if kept.newest.waits(self.counter.now):
                continue
            back_at = max(kept.resend_allowed_at(PURPOSE, self.counter.now), self.counter.now)
            assert kept.resend_allowed_at(PURPOSE, back_at) <= back_at


def _demand_only_longer(before: Generation, now: Generation, *, extended: bool) -> None:
    assert replace(now, wanted_until=before.wanted_until) == before
    grew = now.wanted_until - before.wanted_until
    assert grew >= WANTED_STEP if extended else grew == timedelta(0)


TestAsking = Asking.TestCase
TestAsking.settings = settings(max_examples=60, stateful_step_count=25)
