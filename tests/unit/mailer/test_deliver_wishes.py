"""The story of one letter of which its owner says more: at any step, late, or while the ledger does not answer."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from deploy.dev.inbox.behaviour import Stage
from services.mailer.outbound.jinja_texts import JinjaTexts
from services.mailer.ports import Seen
from services.mailer.rules.outcome import Dropped, DropReason, HandedOver
from services.mailer.rules.wish import Wish
from tests.fakes.clock import NOON
from tests.fakes.mailer import PRIVATE, code_order
from tests.unit.mailer.one_lane import CODE, NOTICE, SECOND, Mailer, say_at, turn_at

WITHDRAWN = Wish(withdrawn=True)
LONGER = Wish(CODE.deadline + timedelta(minutes=5))
UNCERTAIN = HandedOver(NOON, NOON, route="", relay_id="", uncertain=True)


@pytest.fixture(scope="module")
def texts() -> JinjaTexts:
    return JinjaTexts()


@pytest.fixture
def mailer(texts: JinjaTexts) -> Mailer:
    return Mailer(texts)


async def test_a_letter_that_was_withdrawn_before_it_came_is_dropped_without_a_word_to_the_relay(
    mailer: Mailer,
) -> None:
    mailer.relay.behave({"stage": "connect", "action": "cut"})
    mailer.says(CODE, WITHDRAWN)

    outcome = await mailer.deliver(CODE)

    assert mailer.fate == outcome == Dropped(NOON, DropReason.WITHDRAWN, exposed=False)
    assert mailer.relay.times_used() == [0]
    assert mailer.ledger.knows(CODE.id) == Seen(outcome)
    assert mailer.ledger.times_asked == 0, "the claim told it"


async def test_a_withdrawn_letter_is_called_withdrawn_also_past_its_deadline(mailer: Mailer) -> None:
    mailer.says(CODE, WITHDRAWN)
    mailer.clock.now = CODE.deadline + SECOND

    assert await mailer.deliver(CODE) == Dropped(CODE.deadline + SECOND, DropReason.WITHDRAWN, exposed=False)


async def test_a_letter_that_is_withdrawn_while_it_waits_for_its_slot_is_not_begun(texts: JinjaTexts) -> None:
    mailer = Mailer(texts, slots=1)
    other = code_order(2)
    mailer.gateway.at_stage = say_at(mailer, Stage.REPLY, other, WITHDRAWN)

    first, second = await asyncio.gather(mailer.deliver(CODE), mailer.deliver(other))

    assert isinstance(first, HandedOver)
    assert second == Dropped(NOON, DropReason.WITHDRAWN, exposed=False)
    assert len(mailer.relay.bodies) == 1


async def test_a_letter_that_is_withdrawn_on_the_way_stops_before_data(mailer: Mailer) -> None:
    mailer.gateway.at_stage = say_at(mailer, Stage.RCPT, CODE, WITHDRAWN)
    mailer.relay.behave({"stage": "data", "action": "cut"})

    outcome = await mailer.deliver(CODE)

    assert mailer.fate == outcome == Dropped(NOON, DropReason.WITHDRAWN, exposed=False)
    assert mailer.relay.times_used() == [0]


async def test_a_letter_that_is_withdrawn_after_data_has_left(mailer: Mailer) -> None:
    mailer.gateway.at_stage = say_at(mailer, Stage.DATA, CODE, WITHDRAWN)

    assert isinstance(await mailer.deliver(CODE), HandedOver)


async def test_a_letter_that_is_withdrawn_between_two_tries_is_not_tried_again(mailer: Mailer) -> None:
    mailer.relay.behave({"stage": "reply", "action": "reply", "code": 451})
    await mailer.fails(CODE, "451")
    mailer.says(CODE, WITHDRAWN)

    outcome = await mailer.deliver(CODE)

    assert outcome == Dropped(NOON, DropReason.WITHDRAWN, exposed=False)
    assert mailer.relay.times_used() == [1]


@pytest.mark.parametrize("stage", [None, Stage.RCPT], ids=["between two tries", "on the way"])
async def test_a_withdrawn_letter_whose_body_may_have_left_is_never_called_dropped(
    mailer: Mailer, stage: Stage | None
) -> None:
    mailer.relay.behave({"stage": "reply", "action": "cut", "times": 1})
    await mailer.fails(CODE)
    mailer.clock.pass_by(SECOND)
    if stage is None:
        mailer.says(CODE, WITHDRAWN)
    else:
        mailer.gateway.at_stage = say_at(mailer, stage, CODE, WITHDRAWN)

    outcome = await mailer.anew()(CODE)

    assert mailer.fate == outcome == UNCERTAIN
    assert len(mailer.relay.bodies) == 1


async def test_a_letter_that_was_handed_over_stays_so_whatever_is_said_later(mailer: Mailer) -> None:
    first = await mailer.deliver(CODE)
    mailer.says(CODE, WITHDRAWN)

    assert await mailer.anew()(CODE) == first


async def test_a_letter_past_its_deadline_that_is_wanted_for_longer_is_sent(mailer: Mailer) -> None:
    mailer.says(CODE, LONGER)
    mailer.clock.now = CODE.deadline + SECOND

    assert isinstance(await mailer.deliver(CODE), HandedOver)


async def test_a_letter_that_gets_late_on_the_way_goes_on_when_it_was_wanted_for_longer_meanwhile(
    mailer: Mailer,
) -> None:
    say, turn = say_at(mailer, Stage.MAIL, CODE, LONGER), turn_at(mailer, Stage.RCPT, CODE.deadline + SECOND - NOON)

    def say_and_turn(stage: Stage) -> None:
        say(stage)
        turn(stage)

    mailer.gateway.at_stage = say_and_turn

    assert isinstance(await mailer.deliver(CODE), HandedOver)


async def test_a_letter_that_is_wanted_for_longer_is_dropped_after_that(mailer: Mailer) -> None:
    mailer.says(CODE, LONGER)
    mailer.clock.now = CODE.deadline + timedelta(minutes=5) + SECOND

    assert await mailer.deliver(CODE) == Dropped(mailer.clock.now, DropReason.DEADLINE, exposed=False)


async def test_however_long_it_is_wanted_a_letter_is_not_sent_after_the_end_of_its_challenge(mailer: Mailer) -> None:
    mailer.says(CODE, Wish(CODE.useless_at + timedelta(hours=1)))
    mailer.clock.now = CODE.useless_at + SECOND

    assert await mailer.deliver(CODE) == Dropped(mailer.clock.now, DropReason.DEADLINE, exposed=False)


async def test_a_wish_about_one_generation_says_nothing_of_another(mailer: Mailer) -> None:
    mailer.says(CODE, WITHDRAWN)

    assert isinstance(await mailer.deliver(replace(CODE, generation=2)), HandedOver)


async def test_a_code_goes_out_as_if_nobody_had_wished_when_the_ledger_does_not_answer(mailer: Mailer) -> None:
    mailer.ledger.away_for = {"claim", "wish"}
    mailer.says(CODE, WITHDRAWN)

    assert isinstance(await mailer.deliver(CODE), HandedOver)


async def test_a_wish_that_the_claim_told_counts_also_when_the_ledger_is_away_later(mailer: Mailer) -> None:
    mailer.says(CODE, LONGER)
    mailer.ledger.away_for = {"wish"}
    mailer.gateway.at_stage = turn_at(mailer, Stage.RCPT, CODE.deadline + SECOND - NOON)

    assert isinstance(await mailer.deliver(CODE), HandedOver)


async def test_a_wish_that_the_claim_told_counts_also_when_the_ledger_comes_back_empty(mailer: Mailer) -> None:
    mailer.says(CODE, LONGER)
    turn = turn_at(mailer, Stage.RCPT, CODE.deadline + SECOND - NOON)

    def come_back(stage: Stage) -> None:
        mailer.ledger.come_back_empty()
        turn(stage)

    mailer.gateway.at_stage = come_back

    assert isinstance(await mailer.deliver(CODE), HandedOver)


@pytest.mark.parametrize("away", ["nothing", "claim", "wish"])
async def test_the_ledger_is_asked_twice_on_the_way_and_not_more(mailer: Mailer, away: str) -> None:
    mailer.ledger.away_for = {away}

    await mailer.deliver(CODE)

    assert mailer.ledger.times_asked == 2


async def test_one_answer_that_was_missed_does_not_hide_a_withdrawal_from_the_next_step(mailer: Mailer) -> None:
    mailer.ledger.away_for = {"claim"}
    mailer.says(CODE, WITHDRAWN)

    assert await mailer.deliver(CODE) == Dropped(NOON, DropReason.WITHDRAWN, exposed=True)


async def test_a_letter_is_not_given_up_for_its_deadline_upon_one_answer_that_was_missed(mailer: Mailer) -> None:
    mailer.ledger.away_for = {"claim"}
    mailer.says(CODE, LONGER)
    mailer.clock.now = CODE.deadline + SECOND

    assert isinstance(await mailer.deliver(CODE), HandedOver)


async def test_a_notice_is_not_asked_about_because_nobody_takes_it_back(mailer: Mailer) -> None:
    await mailer.deliver(NOTICE)

    assert mailer.ledger.times_asked == 0


async def test_a_decoy_that_is_withdrawn_is_dropped_as_any_letter(texts: JinjaTexts) -> None:
    mailer = Mailer(texts, slots=1)
    decoy = code_order(2, private=replace(PRIVATE, decoy=True))
    mailer.gateway.at_stage = say_at(mailer, Stage.REPLY, decoy, WITHDRAWN)

    _, outcome = await asyncio.gather(mailer.deliver(CODE), mailer.deliver(decoy))

    assert outcome == Dropped(NOON, DropReason.WITHDRAWN, exposed=False)
    assert mailer.gateway.imitated == 0
