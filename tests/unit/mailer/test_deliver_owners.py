"""The story of one letter that two processes hold: who goes on, who stops, and when."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from datetime import timedelta

import pytest

from deploy.dev.inbox.behaviour import Stage
from services.mailer.outbound.jinja_texts import JinjaTexts
from services.mailer.ports import MovedOn, Owner, TakenOver
from services.mailer.rules.letter import Order
from services.mailer.rules.outcome import HandedOver
from tests.fakes.clock import NOON
from tests.unit.mailer.one_lane import CODE, FIRST, NOTICE, SECOND, Mailer

EITHER = pytest.mark.parametrize("order", [CODE, NOTICE], ids=["code", "notice"])


@pytest.fixture(scope="module")
def texts() -> JinjaTexts:
    return JinjaTexts()


@pytest.fixture
def mailer(texts: JinjaTexts) -> Mailer:
    return Mailer(texts)


LATER = [(replace(FIRST, epoch=2), TakenOver), (replace(FIRST, attempt=1), MovedOn)]


@EITHER
@pytest.mark.parametrize(("later", "error"), LATER, ids=["another consumer", "a later try"])
async def test_an_owner_that_is_overtaken_on_the_way_stops_before_the_body(
    mailer: Mailer, order: Order, later: Owner, error: type[Exception]
) -> None:
    def overtake(reached: Stage) -> None:
        if reached is Stage.DATA:
            with contextlib.suppress(StopIteration):
                mailer.ledger.claim(order.id, later, order.deadline).send(None)

    mailer.gateway.at_stage = overtake

    with pytest.raises(error):
        await mailer.deliver(order)

    assert mailer.relay.bodies == []
    assert mailer.events.announced == []
    mailer.gateway.at_stage = lambda _stage: None
    assert await mailer.anew()(order, later) == HandedOver(NOON, NOON, "relay-1", "4bXyZ1"), "no body is noted"


@pytest.mark.parametrize(("later", "error"), LATER, ids=["another consumer", "a later try"])
async def test_an_owner_that_was_overtaken_does_not_even_begin(
    mailer: Mailer, later: Owner, error: type[Exception]
) -> None:
    mailer.relay.behave({"stage": "connect", "action": "cut"})
    await mailer.ledger.claim(CODE.id, later, CODE.deadline)

    with pytest.raises(error):
        await mailer.deliver(CODE)

    assert mailer.relay.times_used() == [0]


async def test_a_later_owner_sends_the_bytes_of_the_earlier_one_whose_body_may_have_left(mailer: Mailer) -> None:
    mailer.relay.behave({"stage": "reply", "action": "cut", "times": 1, "store": True})
    await mailer.fails(CODE)
    mailer.clock.pass_by(SECOND)

    outcome = await mailer.anew()(CODE, replace(FIRST, epoch=2))

    assert outcome == HandedOver(NOON + SECOND, NOON, "relay-1", "4bXyZ1")
    assert len({octets for _, octets in mailer.relay.kept}) == 1
    assert len(mailer.relay.kept) == 2


async def test_an_owner_that_was_overtaken_announces_an_outcome_that_is_known(mailer: Mailer) -> None:
    first = await mailer.deliver(CODE, replace(FIRST, attempt=2))

    assert await mailer.anew()(CODE) == first
    assert mailer.events.announced == [(CODE.id, first)] * 2


async def test_a_consumer_group_that_counts_anew_gets_its_letters_after_a_while(mailer: Mailer) -> None:
    await mailer.ledger.claim(CODE.id, replace(FIRST, epoch=57), CODE.deadline)
    with pytest.raises(TakenOver):
        await mailer.deliver(CODE)
    mailer.clock.pass_by(timedelta(minutes=10))

    assert isinstance(await mailer.deliver(CODE), HandedOver)
