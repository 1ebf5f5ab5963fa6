"""Whatever a citizen does and whatever the mailer says, in any order: what must hold of asking for codes."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.otp.rules.challenge import Delivery, Fate, with_delivery
from services.otp.rules.policy import MAX_HANDLES, MAX_LIVE
from services.otp.rules.request import Joined, Queued, TooSoon
from tests.fakes.otp import PURPOSE
from tests.unit.otp.made_up import Counter

HEARD = [Fate.HANDED_OVER, Fate.DELIVERED, Fate.DEFERRED, Fate.BOUNCED, Fate.REFUSED, Fate.DROPPED]


class Asking(RuleBasedStateMachine):
    """One citizen with one wish, pages in abundance, and a mailer that says anything."""

    def __init__(self) -> None:
        super().__init__()
        self.counter = Counter()

    @rule(seconds=st.sampled_from([0.001, 1, 20, 51, 120, 241, 600, 800]))
    def time_passes(self, seconds: float) -> None:
        self.counter.now += timedelta(seconds=seconds)

    @rule()
    def somebody_asks(self) -> None:
        before = dict(self.counter.challenges)
        subject = self.counter.subject

        decided = self.counter.ask()

        match decided:
            case Queued(challenge, named):
                assert challenge.newest.waits(self.counter.now)
                good = [
                    letter for letter in challenge.generations if letter.is_good(challenge.ends_at, self.counter.now)
                ]
                assert len(good) <= MAX_LIVE
                assert challenge.newest.deadline <= challenge.ends_at - PURPOSE.life
                assert named.challenge_id == challenge.id
            case Joined(challenge):
                assert challenge.generations == before[challenge.id].generations
                assert self.counter.subject == subject
            case TooSoon(retry_after):
                assert retry_after > timedelta(0)
                assert self.counter.challenges == before

    @precondition(lambda self: self.counter.subject is not None)
    @rule(fate=st.sampled_from(HEARD), number=st.integers(1, 3), exposed=st.booleans(), ago=st.integers(0, 900))
    def the_mailer_says(self, fate: Fate, number: int, exposed: bool, ago: int) -> None:  # noqa: FBT001 - drawn
        at = self.counter.now - timedelta(seconds=ago)
        changed = with_delivery(
            self.counter.latest, number, Delivery(fate, at, exposed=exposed), received_at=self.counter.now
        )
        if changed is not None:
            self.counter.keep(changed)

    @invariant()
    def no_challenge_has_more_than_four_handles(self) -> None:
        assert all(len(kept.handles) <= MAX_HANDLES for kept in self.counter.challenges.values())

    @invariant()
    def one_letter_waits_at_most(self) -> None:
        letters = [letter for kept in self.counter.challenges.values() for letter in kept.generations]
        assert sum(letter.waits(self.counter.now) for letter in letters) <= 1

    @invariant()
    def a_promise_of_when_is_kept(self) -> None:
        """Who comes back when they were told to, and nothing else happened meanwhile, is not refused again."""
        if self.counter.subject is None or self.counter.latest.newest.waits(self.counter.now):
            return
        allowed_at = self.counter.latest.resend_allowed_at(PURPOSE, self.counter.now)
        assert self.counter.latest.resend_allowed_at(PURPOSE, max(allowed_at, self.counter.now)) <= max(
            allowed_at, self.counter.now
        )


TestAsking = Asking.TestCase
TestAsking.settings = settings(max_examples=60, stateful_step_count=25)
