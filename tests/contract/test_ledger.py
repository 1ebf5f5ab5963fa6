"""What `Ledger` promises, asked of the twin in memory, of a real Redis and of a real cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import accumulate, permutations

import pytest
from prometheus_client import CollectorRegistry

from services.chassis.clock import system_clock
from services.mailer.metrics import MailerMetrics
from services.mailer.outbound.redis_ledger import RedisLedger
from services.mailer.ports import Ledger, MovedOn, Owner, Seen, TakenOver
from services.mailer.rules.letter import Lane
from services.mailer.rules.outcome import Outcome
from services.mailer.rules.wish import LATEST, Wish
from tests.contract.ledgers import (
    BEGAN,
    LATER,
    LEDGERS,
    LONG_AGO,
    OUTCOMES,
    OWNER,
    PATIENT,
    SECOND,
    SOONER,
    WITHDRAWN,
    new_letter,
    passed,
    redis_of,
    tomorrow,
)
from tests.fakes.mailer import InMemoryLedger

LATER_OWNERS = [
    replace(OWNER, epoch=OWNER.epoch + 1),
    replace(OWNER, attempt=1),
    replace(OWNER, attempt=1, epoch=1),
    Owner(2, "mail.retry.otp.3s.v1", 1),
]


@pytest.fixture(params=LEDGERS)
async def ledger(request: pytest.FixtureRequest) -> AsyncIterator[Ledger]:
    if request.param == "memory":
        yield InMemoryLedger(system_clock)
        return
    async with redis_of(request) as redis:
        yield RedisLedger(redis, Lane.OTP, MailerMetrics(CollectorRegistry()), budget=PATIENT)


class LedgerContract:
    """Obligations of `Ledger`."""

    async def test_of_a_new_letter_nothing_is_known(self, ledger: Ledger) -> None:
        assert await ledger.claim(new_letter(), OWNER, tomorrow()) == Seen()

    async def test_a_claim_alone_says_nothing_to_the_next(self, ledger: Ledger) -> None:
        letter = new_letter()
        await ledger.claim(letter, OWNER, tomorrow())

        assert await ledger.claim(letter, OWNER, tomorrow()) == Seen()

    async def test_a_body_that_may_have_left_is_told_to_the_microsecond(self, ledger: Ledger) -> None:
        letter = new_letter()
        await ledger.claim(letter, OWNER, tomorrow())
        await ledger.handing_over(letter, OWNER, BEGAN)

        assert await ledger.claim(letter, OWNER, tomorrow()) == Seen(body_started_at=BEGAN)

    async def test_the_earliest_body_stays(self, ledger: Ledger) -> None:
        letter = new_letter()
        await ledger.handing_over(letter, OWNER, BEGAN)
        await ledger.handing_over(letter, OWNER, BEGAN + SECOND)

        assert (await ledger.claim(letter, OWNER, tomorrow())).body_started_at == BEGAN

    @pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda outcome: type(outcome).__name__)
    async def test_an_outcome_is_told_as_it_was_settled(self, ledger: Ledger, outcome: Outcome) -> None:
        letter = new_letter()
        await ledger.claim(letter, OWNER, tomorrow())
        await ledger.settle(letter, outcome)

        assert await ledger.claim(letter, OWNER, tomorrow()) == Seen(outcome)

    async def test_the_first_outcome_stays(self, ledger: Ledger) -> None:
        letter = new_letter()
        for outcome in OUTCOMES:
            await ledger.settle(letter, outcome)

        assert (await ledger.claim(letter, OWNER, tomorrow())).outcome == OUTCOMES[0]

    async def test_an_outcome_does_not_hide_when_the_body_left(self, ledger: Ledger) -> None:
        letter = new_letter()
        await ledger.handing_over(letter, OWNER, BEGAN)
        await ledger.settle(letter, OUTCOMES[0])

        assert await ledger.claim(letter, OWNER, tomorrow()) == Seen(OUTCOMES[0], BEGAN)

    async def test_a_body_that_the_relay_said_no_to_is_forgotten(self, ledger: Ledger) -> None:
        letter = new_letter()
        await ledger.handing_over(letter, OWNER, BEGAN)
        await ledger.not_taken(letter, BEGAN)
        assert await ledger.claim(letter, OWNER, tomorrow()) == Seen()

        await ledger.handing_over(letter, OWNER, BEGAN + SECOND)
        assert await ledger.claim(letter, OWNER, tomorrow()) == Seen(body_started_at=BEGAN + SECOND)

    async def test_a_no_to_one_body_does_not_forget_another(self, ledger: Ledger) -> None:
        letter = new_letter()
        await ledger.handing_over(letter, OWNER, BEGAN)
        await ledger.handing_over(letter, OWNER, BEGAN + SECOND)
        await ledger.not_taken(letter, BEGAN + SECOND)
        await ledger.not_taken(new_letter(), BEGAN)

        assert await ledger.claim(letter, OWNER, tomorrow()) == Seen(body_started_at=BEGAN)

    @pytest.mark.parametrize("later", LATER_OWNERS, ids=str)
    async def test_a_later_owner_takes_over_at_once_and_a_body_of_an_earlier_one_is_unknown(
        self, ledger: Ledger, later: Owner
    ) -> None:
        letter = new_letter()
        await ledger.claim(letter, OWNER, tomorrow())
        await ledger.handing_over(letter, OWNER, BEGAN)

        assert await ledger.claim(letter, later, tomorrow()) == Seen(body_started_at=BEGAN)
        await ledger.handing_over(letter, later, BEGAN + SECOND)

    @pytest.mark.parametrize("later", LATER_OWNERS, ids=str)
    async def test_an_earlier_owner_is_turned_away_before_its_body_and_leaves_nothing_behind(
        self, ledger: Ledger, later: Owner
    ) -> None:
        letter = new_letter()
        await ledger.claim(letter, OWNER, tomorrow())
        await ledger.claim(letter, later, tomorrow())

        turned_away = MovedOn if later.attempt else TakenOver
        with pytest.raises(turned_away):
            await ledger.handing_over(letter, OWNER, BEGAN)
        with pytest.raises(turned_away):
            await ledger.claim(letter, OWNER, tomorrow())

        assert await ledger.claim(letter, later, tomorrow()) == Seen(), "no body, and it is still the owner"

    async def test_an_owner_whose_claim_was_missed_is_known_by_its_hand_over(self, ledger: Ledger) -> None:
        letter = new_letter()
        await ledger.handing_over(letter, replace(OWNER, attempt=2), BEGAN)

        with pytest.raises(MovedOn):
            await ledger.claim(letter, OWNER, tomorrow())

    @pytest.mark.parametrize(
        "other", [replace(OWNER, topic="other.v1", epoch=1), replace(OWNER, topic="other.v1", epoch=99)], ids=str
    )
    async def test_epochs_of_other_topics_say_nothing(self, ledger: Ledger, other: Owner) -> None:
        letter = new_letter()
        for owner in (OWNER, other, OWNER):
            await ledger.claim(letter, owner, tomorrow())
            await ledger.handing_over(letter, owner, BEGAN)

    async def test_an_attempt_counts_more_than_an_epoch(self, ledger: Ledger) -> None:
        letter = new_letter()
        await ledger.claim(letter, replace(OWNER, attempt=10, epoch=1), tomorrow())

        with pytest.raises(MovedOn):
            await ledger.claim(letter, replace(OWNER, attempt=9, epoch=99), tomorrow())

    async def test_an_outcome_is_told_to_whoever_asks_and_no_body_leaves_after_it(self, ledger: Ledger) -> None:
        letter = new_letter()
        later = replace(OWNER, attempt=3)
        await ledger.claim(letter, later, tomorrow())
        await ledger.settle(letter, OUTCOMES[0])

        assert (await ledger.claim(letter, OWNER, tomorrow())).outcome == OUTCOMES[0]
        for owner in (OWNER, later, replace(later, attempt=4)):
            with pytest.raises(TakenOver):
                await ledger.handing_over(letter, owner, BEGAN)
        assert await ledger.claim(letter, OWNER, tomorrow()) == Seen(OUTCOMES[0]), "and no body is noted"

    async def test_of_two_owners_at_once_the_later_one_has_it(self, ledger: Ledger) -> None:
        letter, later = new_letter(), replace(OWNER, epoch=OWNER.epoch + 1)
        claims = (ledger.claim(letter, owner, tomorrow()) for owner in [OWNER, later] * 10)

        await asyncio.gather(*claims, return_exceptions=True)

        with pytest.raises(TakenOver):
            await ledger.handing_over(letter, OWNER, BEGAN)
        await ledger.handing_over(letter, later, BEGAN)

    async def test_letters_do_not_know_of_each_other(self, ledger: Ledger) -> None:
        await ledger.settle(new_letter(), OUTCOMES[0])

        assert await ledger.claim(new_letter(), OWNER, tomorrow()) == Seen()

    async def test_of_many_claims_at_once_each_gets_the_answer_about_its_own_letter(self, ledger: Ledger) -> None:
        letters = [new_letter() for _ in range(40)]
        for number, letter in enumerate(letters[::2]):
            await ledger.handing_over(letter, OWNER, BEGAN + number * SECOND)

        seen = await asyncio.gather(*(ledger.claim(letter, OWNER, tomorrow()) for letter in letters))

        assert [each.body_started_at for each in seen[::2]] == [BEGAN + number * SECOND for number in range(20)]
        assert set(seen[1::2]) == {Seen()}

    async def test_a_letter_is_forgotten_when_its_time_is_over(self, ledger: Ledger) -> None:
        letter = new_letter()
        await ledger.settle(letter, OUTCOMES[0])
        await ledger.claim(letter, OWNER, system_clock() + 0.2 * SECOND)

        async def forgotten() -> bool:
            seen = await ledger.claim(letter, OWNER, system_clock() + 0.2 * SECOND)
            return seen == Seen()

        await until_unasked(forgotten)

    async def test_a_letter_whose_time_was_over_long_ago_is_no_trouble(self, ledger: Ledger) -> None:
        letter = new_letter()

        assert await ledger.claim(letter, OWNER, system_clock() - timedelta(days=3)) == Seen()
        await ledger.settle(letter, OUTCOMES[0])
        assert (await ledger.claim(letter, OWNER, tomorrow())).outcome == OUTCOMES[0]

    async def test_of_a_letter_nothing_is_wished_until_it_is(self, ledger: Ledger) -> None:
        letter = new_letter()

        assert await ledger.wish(letter) == Wish()
        assert await ledger.heed(letter, LATER, tomorrow()) == Wish()
        assert await ledger.wish(letter) == LATER, "to the microsecond"

    async def test_a_claim_tells_what_is_wished_and_only_of_its_letter(self, ledger: Ledger) -> None:
        letter = new_letter()
        await ledger.heed(letter, LATER, tomorrow())

        assert await ledger.claim(letter, OWNER, tomorrow()) == Seen(wish=LATER)
        assert await ledger.claim(new_letter(), OWNER, tomorrow()) == Seen()

    @pytest.mark.parametrize("wishes", list(permutations([SOONER, LATER, WITHDRAWN])))
    async def test_the_latest_time_and_a_withdrawal_stay_in_whatever_order_they_come(
        self, ledger: Ledger, wishes: Sequence[Wish]
    ) -> None:
        letter = new_letter()

        known = [await ledger.heed(letter, wish, tomorrow()) for wish in (*wishes, *wishes)]

        assert known[:4] == list(accumulate(wishes, Wish.merged, initial=Wish()))
        assert await ledger.wish(letter) == known[3] == Wish(LATER.wanted_until, withdrawn=True)

    async def test_of_wishes_that_come_at_once_none_is_lost(self, ledger: Ledger) -> None:
        letter = new_letter()
        wishes = [Wish(BEGAN + number * SECOND, withdrawn=number == 7) for number in range(40)]

        await asyncio.gather(*(ledger.heed(letter, wish, tomorrow()) for wish in wishes))

        assert await ledger.wish(letter) == Wish(BEGAN + 39 * SECOND, withdrawn=True)

    async def test_a_wish_says_nothing_of_the_body_and_the_outcome(self, ledger: Ledger) -> None:
        letter = new_letter()
        await ledger.heed(letter, WITHDRAWN, tomorrow())
        await ledger.handing_over(letter, OWNER, BEGAN)
        await ledger.settle(letter, OUTCOMES[0])

        assert await ledger.claim(letter, OWNER, tomorrow()) == Seen(OUTCOMES[0], BEGAN, wish=WITHDRAWN)

    async def test_a_wish_is_forgotten_when_its_time_is_over_whatever_is_claimed(self, ledger: Ledger) -> None:
        letter = new_letter()
        await ledger.claim(letter, OWNER, tomorrow())
        await ledger.heed(letter, WITHDRAWN, system_clock() + 0.2 * SECOND)

        await passed(0.4)

        assert await ledger.wish(letter) == Wish()
        assert await ledger.claim(letter, OWNER, tomorrow()) == Seen()

    async def test_a_wish_is_kept_as_long_as_the_longest_of_them(self, ledger: Ledger) -> None:
        letter, other = new_letter(), new_letter()
        await ledger.heed(letter, LATER, tomorrow())
        await ledger.heed(letter, WITHDRAWN, system_clock() + 0.2 * SECOND)
        await ledger.heed(other, LATER, system_clock() + 0.2 * SECOND)
        await ledger.heed(other, WITHDRAWN, tomorrow())
        await ledger.claim(letter, OWNER, system_clock() + 0.2 * SECOND)
        await passed(0.5)

        assert await ledger.wish(letter) == Wish(LATER.wanted_until, withdrawn=True)
        assert await ledger.wish(other) == Wish(LATER.wanted_until, withdrawn=True)

    async def test_a_wish_whose_time_was_over_long_ago_is_no_trouble(self, ledger: Ledger) -> None:
        letter = new_letter()

        assert await ledger.heed(letter, WITHDRAWN, system_clock() - timedelta(days=3)) == Wish()
        assert await ledger.wish(letter) == Wish()

    @pytest.mark.parametrize("until", [LONG_AGO, LATEST], ids=str)
    async def test_any_time_that_a_wish_can_name_is_kept_exactly(self, ledger: Ledger, until: datetime) -> None:
        letter = new_letter()

        await ledger.heed(letter, Wish(until), max(until, tomorrow()) + timedelta(days=1))

        assert await ledger.wish(letter) == Wish(until)


async def until_unasked(look: Callable[[], Awaitable[bool]]) -> None:
    """Ask at growing distances, because each question here keeps the letter a little longer."""
    for pause in (0.4, 1, 3, 9):
        await passed(pause)
        if await look():
            return
    raise AssertionError("it is remembered beyond its time")


class TestLedger(LedgerContract):
    """Both twins."""
