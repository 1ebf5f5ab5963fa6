"""The story of one letter, and what is left of it when a part fails at any step."""

from __future__ import annotations

import asyncio
import email.policy
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from deploy.dev.inbox.behaviour import Stage
from services.chassis.dead_letter import DeadKind
from services.chassis.keyring import SealBroken, UnknownKey, digits
from services.mailer.outbound.jinja_texts import JinjaTexts
from services.mailer.ports import Seen, Unreadable
from services.mailer.rules.letter import Order, PrivatePart
from services.mailer.rules.outcome import Dropped, DropReason, HandedOver, Refused
from tests.conditions import eventually
from tests.fakes.clock import NOON
from tests.fakes.mailer import PRIVATE, code_order
from tests.unit.mailer.one_lane import CODE, CODE_KEY, FIRST, NOTICE, SECOND, Mailer, turn_at

EITHER = pytest.mark.parametrize("order", [CODE, NOTICE], ids=["code", "notice"])


@pytest.fixture(scope="module")
def texts() -> JinjaTexts:
    return JinjaTexts()


@pytest.fixture
def mailer(texts: JinjaTexts) -> Mailer:
    return Mailer(texts)


def raising(error: Exception) -> Callable[[], PrivatePart]:
    def open_part() -> PrivatePart:
        raise error

    return open_part


@EITHER
async def test_a_letter_is_sent_recorded_and_announced(mailer: Mailer, order: Order) -> None:
    outcome = await mailer.deliver(order)

    ((recipient, octets),) = mailer.relay.kept
    assert recipient == PRIVATE.email
    assert f"X-Kip-Letter: {order.id}".encode() in octets
    assert outcome == HandedOver(NOON, NOON, "relay-1", "4bXyZ1")
    assert mailer.ledger.knows(order.id) == Seen(outcome, NOON)
    assert mailer.events.announced == [(order.id, outcome)]


async def test_the_code_in_the_letter_is_made_from_ids_and_a_key(mailer: Mailer) -> None:
    await mailer.deliver(CODE)

    parts = ("kip-code-v1", "confirm-email", "challenge-1", "1", b"\x00" * 32)
    (body,) = mailer.relay.bodies
    assert digits(CODE_KEY, *parts, count=6).encode() in body


@pytest.mark.parametrize("flag", ["", "yes"])
async def test_the_code_is_in_the_subject_line_only_of_a_letter_that_allows_it(mailer: Mailer, flag: str) -> None:
    await mailer.deliver(replace(CODE, parameters={**CODE.parameters, "code_in_subject": flag}))

    (body,) = mailer.relay.bodies
    subject = email.message_from_bytes(body, policy=email.policy.default)["Subject"]
    code = digits(CODE_KEY, "kip-code-v1", "confirm-email", "challenge-1", "1", b"\x00" * 32, count=6)
    assert subject == (f"[7F3K] {code} là mã của bạn" if flag else "[7F3K] Mã xác nhận của bạn")
    assert body.partition(b"\r\n\r\n")[0].isascii()


async def test_the_ledger_keeps_a_letter_for_a_day_beyond_its_deadline(mailer: Mailer) -> None:
    await mailer.deliver(CODE)

    mailer.clock.now = CODE.deadline + timedelta(hours=24) - SECOND
    assert mailer.ledger.knows(CODE.id)
    mailer.clock.pass_by(SECOND)
    assert mailer.ledger.knows(CODE.id) is None


@EITHER
async def test_a_letter_whose_outcome_is_known_is_announced_again_and_not_sent(mailer: Mailer, order: Order) -> None:
    first = await mailer.deliver(order)

    second = await mailer.anew()(order)

    assert second == first
    assert mailer.events.announced == [(order.id, first)] * 2
    assert len(mailer.relay.bodies) == 1


async def test_a_known_outcome_is_announced_also_past_the_deadline(mailer: Mailer) -> None:
    first = await mailer.deliver(CODE)
    mailer.clock.now = CODE.deadline + SECOND

    assert await mailer.anew()(CODE) == first


@EITHER
async def test_a_letter_past_its_deadline_is_dropped_unread(mailer: Mailer, order: Order) -> None:
    mailer.clock.now = order.deadline + SECOND

    outcome = await mailer.deliver(replace(order, open=raising(AssertionError("nobody needs to open it"))))

    assert outcome == Dropped(order.deadline + SECOND, DropReason.DEADLINE, exposed=False)
    assert mailer.fate == outcome
    assert mailer.relay.bodies == []


async def test_at_its_deadline_a_letter_is_still_wanted(mailer: Mailer) -> None:
    mailer.clock.now = CODE.deadline

    assert isinstance(await mailer.deliver(CODE), HandedOver)


async def test_a_letter_that_waited_too_long_for_its_slot_is_not_begun(texts: JinjaTexts) -> None:
    mailer = Mailer(texts, slots=1)
    mailer.gateway.at_stage = turn_at(mailer, Stage.REPLY, timedelta(hours=1))

    first, second = await asyncio.gather(mailer.deliver(CODE), mailer.deliver(code_order(2)))

    assert isinstance(first, HandedOver)
    assert isinstance(second, Dropped)
    assert len(mailer.relay.bodies) == 1


@EITHER
async def test_a_letter_that_gets_late_on_the_way_stops_before_data(mailer: Mailer, order: Order) -> None:
    mailer.gateway.at_stage = turn_at(mailer, Stage.RCPT, timedelta(days=3))

    outcome = await mailer.deliver(order)

    assert outcome == Dropped(NOON + timedelta(days=3), DropReason.DEADLINE, exposed=False)
    assert mailer.relay.bodies == []
    assert mailer.ledger.knows(order.id) == Seen(outcome)


@EITHER
async def test_a_letter_that_got_its_slot_at_the_last_moment_is_not_stopped_before_data(
    mailer: Mailer, order: Order
) -> None:
    mailer.clock.now = order.deadline
    mailer.gateway.at_stage = turn_at(mailer, Stage.RCPT, timedelta(seconds=10))

    assert isinstance(await mailer.deliver(order), HandedOver)


async def test_a_letter_that_gets_late_after_data_is_handed_over(mailer: Mailer) -> None:
    mailer.gateway.at_stage = turn_at(mailer, Stage.REPLY, timedelta(hours=1))

    outcome = await mailer.deliver(CODE)

    assert outcome == HandedOver(NOON + timedelta(hours=1), NOON, "relay-1", "4bXyZ1")


@pytest.mark.parametrize("stage", ["mail", "rcpt", "data", "reply"])
async def test_a_relay_that_says_never_ends_the_letter(mailer: Mailer, stage: str) -> None:
    mailer.relay.behave({"stage": stage, "action": "reply", "code": 550, "text": "5.7.1 no"})

    outcome = await mailer.deliver(CODE)

    assert outcome == Refused(NOON, 550, "5.7.1")
    assert mailer.fate == outcome
    assert await mailer.anew()(CODE) == outcome
    assert mailer.relay.times_used() == [1]


@pytest.mark.parametrize("stage", ["connect", "mail", "rcpt", "data", "body", "reply"])
async def test_a_relay_that_says_later_gets_the_letter_later_and_then_it_is_dropped(mailer: Mailer, stage: str) -> None:
    mailer.relay.behave({"stage": stage, "action": "reply", "code": 451})

    for _ in range(3):
        await mailer.fails(CODE)
        mailer.clock.pass_by(SECOND)
    mailer.clock.now = CODE.deadline + SECOND
    outcome = await mailer.deliver(CODE)

    assert mailer.relay.times_used() == [3]
    assert outcome == Dropped(CODE.deadline + SECOND, DropReason.DEADLINE, exposed=False)


async def test_nothing_is_announced_while_a_letter_is_tried_again(mailer: Mailer) -> None:
    mailer.relay.behave({"stage": "rcpt", "action": "cut", "times": 2})

    await mailer.fails(CODE)
    await mailer.fails(CODE)
    assert mailer.events.announced == []

    assert isinstance(await mailer.deliver(CODE), HandedOver)


@EITHER
async def test_after_silence_the_same_bytes_go_out_again(mailer: Mailer, order: Order) -> None:
    mailer.relay.behave({"stage": "reply", "action": "cut", "times": 2, "store": True})

    await mailer.fails(order, "no reply")
    mailer.clock.pass_by(SECOND)
    await mailer.fails(order, "no reply")
    mailer.clock.pass_by(SECOND)
    outcome = await mailer.deliver(order)

    assert len(mailer.relay.kept) == 3
    assert len({octets for _, octets in mailer.relay.kept}) == 1
    assert outcome == HandedOver(NOON + 2 * SECOND, NOON, "relay-1", "4bXyZ1")


@EITHER
async def test_a_letter_that_is_unknown_at_its_deadline_is_called_handed_over_and_uncertain(
    mailer: Mailer, order: Order
) -> None:
    mailer.relay.behave({"stage": "reply", "action": "cut"})
    await mailer.fails(order)
    mailer.clock.now = order.deadline + SECOND

    outcome = await mailer.anew()(order)

    assert outcome == HandedOver(NOON, NOON, route="", relay_id="", uncertain=True)
    assert mailer.fate == outcome
    assert len(mailer.relay.bodies) == 1


async def test_a_letter_that_is_unknown_and_gets_late_on_the_way_is_uncertain_too(mailer: Mailer) -> None:
    mailer.relay.behave({"stage": "reply", "action": "cut", "times": 1})
    await mailer.fails(CODE)
    mailer.gateway.at_stage = turn_at(mailer, Stage.RCPT, timedelta(hours=1))

    outcome = await mailer.deliver(CODE)

    assert outcome == HandedOver(NOON, NOON, route="", relay_id="", uncertain=True)


@pytest.mark.parametrize("silences", [0, 1])
async def test_a_refusal_after_silence_leaves_the_code_of_the_copy_that_may_be_out(
    mailer: Mailer, silences: int
) -> None:
    cut = [{"stage": "reply", "action": "cut", "times": 1}] * silences
    mailer.relay.behave(*cut, {"stage": "reply", "action": "reply", "code": 550})
    for _ in range(silences):
        await mailer.fails(CODE)

    outcome = await mailer.deliver(CODE)

    assert isinstance(outcome, Refused)
    assert outcome.exposed == bool(silences)


async def test_a_clear_no_after_silence_leaves_the_silence(mailer: Mailer) -> None:
    mailer.relay.behave(
        {"stage": "reply", "action": "cut", "times": 1}, {"stage": "reply", "action": "reply", "code": 451}
    )
    await mailer.fails(CODE)
    mailer.clock.pass_by(SECOND)
    await mailer.fails(CODE)
    mailer.clock.now = CODE.deadline + SECOND

    outcome = await mailer.deliver(CODE)

    assert mailer.relay.times_used() == [1, 1]
    assert outcome == HandedOver(NOON, NOON, route="", relay_id="", uncertain=True)


async def test_a_clear_no_that_the_ledger_cannot_note_leaves_the_letter_unknown(mailer: Mailer) -> None:
    mailer.relay.behave({"stage": "reply", "action": "reply", "code": 451})
    mailer.ledger.away_for = {"not_taken"}
    await mailer.fails(CODE, "451")
    mailer.clock.now = CODE.deadline + SECOND

    outcome = await mailer.deliver(CODE)

    assert isinstance(outcome, HandedOver)
    assert outcome.uncertain


async def test_a_process_that_died_in_the_body_leaves_an_unknown_letter_behind(mailer: Mailer) -> None:
    await mailer.ledger.claim(CODE.id, FIRST, CODE.deadline)
    await mailer.ledger.handing_over(CODE.id, FIRST, NOON - SECOND)

    outcome = await mailer.deliver(CODE)

    assert outcome == HandedOver(NOON, NOON - SECOND, "relay-1", "4bXyZ1")


@pytest.mark.parametrize("method", ["claim", "handing_over", "settle"])
async def test_a_code_goes_out_when_the_ledger_does_not_answer(mailer: Mailer, method: str) -> None:
    mailer.ledger.away_for = {method}

    outcome = await mailer.deliver(CODE)

    assert mailer.fate == outcome == HandedOver(NOON, NOON, "relay-1", "4bXyZ1")
    assert len(mailer.relay.kept) == 1


async def test_a_code_goes_out_without_a_ledger(mailer: Mailer) -> None:
    mailer.ledger.away = True

    assert isinstance(await mailer.deliver(CODE), HandedOver)


@pytest.mark.parametrize("method", ["claim", "handing_over"])
async def test_a_notice_waits_for_the_ledger(mailer: Mailer, method: str) -> None:
    mailer.ledger.away_for = {method}

    await mailer.fails(NOTICE, "ledger is away")
    assert mailer.relay.bodies == []

    mailer.ledger.away_for = set()
    assert isinstance(await mailer.deliver(NOTICE), HandedOver)


async def test_a_notice_that_has_left_is_announced_although_the_ledger_cannot_note_it(mailer: Mailer) -> None:
    mailer.ledger.away_for = {"settle"}

    outcome = await mailer.deliver(NOTICE)

    assert mailer.fate == outcome
    assert isinstance(outcome, HandedOver)


async def test_past_the_deadline_without_a_ledger_nobody_claims_that_no_body_left(mailer: Mailer) -> None:
    mailer.ledger.away = True
    mailer.relay.behave({"stage": "reply", "action": "cut"})
    await mailer.fails(CODE)
    mailer.clock.now = CODE.deadline + SECOND

    outcome = await mailer.deliver(CODE)

    assert outcome == Dropped(CODE.deadline + SECOND, DropReason.DEADLINE, exposed=True)


async def test_past_the_deadline_without_a_ledger_a_letter_is_dropped_unread_too(mailer: Mailer) -> None:
    mailer.ledger.away = True
    mailer.clock.now = CODE.deadline + SECOND

    outcome = await mailer.deliver(replace(CODE, open=raising(UnknownKey("s2"))))

    assert outcome == Dropped(CODE.deadline + SECOND, DropReason.DEADLINE, exposed=True)


async def test_a_silence_is_noted_although_the_ledger_missed_the_body(mailer: Mailer) -> None:
    mailer.ledger.away_for = {"handing_over"}
    mailer.relay.behave({"stage": "reply", "action": "cut"})

    def back(reached: Stage) -> None:
        if reached is Stage.REPLY:
            mailer.ledger.away_for = set()

    mailer.gateway.at_stage = back
    await mailer.fails(CODE)
    mailer.clock.now = CODE.deadline + SECOND

    outcome = await mailer.deliver(CODE)

    assert outcome == HandedOver(NOON, NOON, route="", relay_id="", uncertain=True)


async def test_a_decoy_walks_every_step_and_sends_nothing(mailer: Mailer) -> None:
    decoy = code_order(private=replace(PRIVATE, decoy=True))

    outcome = await mailer.deliver(decoy)

    assert mailer.gateway.imitated == 1
    assert mailer.relay.bodies == []
    assert outcome == HandedOver(NOON, NOON, "relay-1", "")
    assert mailer.ledger.knows(decoy.id) == Seen(outcome)
    assert mailer.fate == outcome


async def test_a_decoy_past_its_deadline_is_dropped_as_any_letter(mailer: Mailer) -> None:
    mailer.clock.now = CODE.deadline + SECOND

    assert isinstance(await mailer.deliver(code_order(private=replace(PRIVATE, decoy=True))), Dropped)


@pytest.mark.parametrize(
    ("order", "why"),
    [
        (replace(CODE, open=raising(UnknownKey("s2"))), "seal key 's2' is not rolled out"),
        (code_order(kid="c2"), "code key 'c2' is not rolled out"),
    ],
    ids=["seal", "code"],
)
async def test_a_key_that_is_not_here_yet_is_waited_for_until_the_deadline(
    mailer: Mailer, order: Order, why: str
) -> None:
    await mailer.fails(order, why)
    assert mailer.events.announced == []
    mailer.clock.now = order.deadline + SECOND

    outcome = await mailer.deliver(order)

    assert outcome == Dropped(order.deadline + SECOND, DropReason.DEADLINE, exposed=False)


@pytest.mark.parametrize(
    ("order", "why", "kind"),
    [
        (replace(CODE, open=raising(SealBroken("x"))), "sealed part does not open", DeadKind.SEAL_BROKEN),
        (replace(CODE, letter="unheard-of"), "no letter is called 'unheard-of'", DeadKind.UNKNOWN_TEMPLATE),
        (replace(CODE, parameters={}), "'reference' is undefined", DeadKind.MISSING_PARAMETER),
        (
            code_order(private=replace(PRIVATE, email="lan@example.vn\r\nBcc: x@y.vn")),
            "header To",
            DeadKind.IMPOSSIBLE,
        ),
        (code_order(private=replace(PRIVATE, email="")), "header To", DeadKind.IMPOSSIBLE),
    ],
    ids=["seal", "letter", "parameter", "injection", "nobody"],
)
async def test_what_no_retry_can_mend_is_told_without_personal_data(
    mailer: Mailer, order: Order, why: str, kind: DeadKind
) -> None:
    with pytest.raises(Unreadable, match=why) as error:
        await mailer.deliver(order)

    assert error.value.kind is kind
    assert "lan@" not in str(error.value)
    assert mailer.events.announced == []
    assert mailer.relay.bodies == []


async def test_an_announcement_that_fails_is_made_again_and_the_letter_is_not(mailer: Mailer) -> None:
    mailer.events.failures_left = 2

    outcome = await mailer.deliver(CODE)

    assert mailer.fate == outcome
    assert len(mailer.relay.bodies) == 1


async def test_an_outcome_is_in_the_ledger_before_it_is_announced(mailer: Mailer) -> None:
    mailer.events.failures_left = 10**6
    waiting = asyncio.create_task(mailer.deliver(CODE))
    await eventually(lambda: mailer.events.failures_left < 10**6, what="an announcement that failed")

    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    mailer.events.failures_left = 0
    outcome = await mailer.anew()(CODE)

    assert isinstance(outcome, HandedOver)
    assert len(mailer.relay.bodies) == 1


async def test_a_record_and_its_repeat_side_by_side_are_one_letter(mailer: Mailer) -> None:
    outcomes = await asyncio.gather(*(mailer.deliver(code_order()) for _ in range(3)))

    assert len(mailer.relay.bodies) == 1
    assert len(set(outcomes)) == 1
    assert len(mailer.events.announced) == 3


async def test_two_generations_are_two_letters(mailer: Mailer) -> None:
    await mailer.deliver(CODE)
    await mailer.deliver(replace(CODE, generation=2))

    first, second = mailer.relay.bodies
    assert first != second
