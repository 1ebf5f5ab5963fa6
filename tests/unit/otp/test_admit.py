"""Limits on letters, as the verbs keep them: what costs, what does not, and what a crash leaves."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from services.otp.actions.resend import ResendOutcome
from services.otp.ports import StoreUnavailable
from services.otp.rules.address import Folding
from services.otp.rules.policy import Policy
from services.otp.rules.quota import Dimension, LetterAsked, Limit, Limits
from services.otp.rules.refusal import LimitReached
from tests.fakes.otp import PURPOSE, Breaks
from tests.fakes.otp_quotas import InMemoryQuotas
from tests.unit.otp.desk import Desk

HOUR = timedelta(hours=1)
AMPLE = Limit(1000, HOUR)
GMAIL = Folding("gmail.com", ignores_dots=True, tag="")
COOLDOWN_S = PURPOSE.cooldowns[0].total_seconds()


def limited(foldings: dict[str, Folding] | None = None, **limits: Limit) -> Policy:
    """Return the policy with ample limits but those named."""
    letters = {dimension: limits.get(dimension, AMPLE) for dimension in Dimension}
    return Policy({PURPOSE.name: PURPOSE}, Limits(letters, foldings=foldings or {}))


def desk_with(foldings: dict[str, Folding] | None = None, **limits: Limit) -> Desk:
    return Desk(policy=limited(foldings, **limits))


async def _another(desk: Desk, number: int, **changes: object) -> None:
    """Ask for somebody else; nothing is the same unless it is said."""
    wish: dict[str, Any] = {
        "subject": f"citizen-{number}",
        "email": f"citizen-{number}@town-{number}.example.vn",
        "client": f"10.0.0.{number}",
    }
    await desk.ask(f"key-{number}", **wish | changes)


SAME: dict[str, dict[str, object]] = {
    "address": {"email": "lan@example.vn"},
    "client": {"client": "10.0.0.1"},
}


@pytest.mark.parametrize("dimension", SAME)
async def test_a_limit_refuses_the_letter_beyond_it_and_no_other(dimension: str) -> None:
    desk = desk_with(None, **{dimension: Limit(2, HOUR)})
    for number in (1, 2):
        await _another(desk, number, **SAME[dimension])

    with pytest.raises(LimitReached) as refusal:
        await _another(desk, 3, **SAME[dimension])
    await _another(desk, 4)

    assert refusal.value.exceeded == (dimension,)
    assert refusal.value.retry_after == HOUR
    assert len(desk.store.challenges()) == 3


async def test_a_domain_and_the_whole_system_have_limits_over_everybody() -> None:
    by_domain = desk_with(domain=Limit(2, HOUR))
    for number in (1, 2):
        await _another(by_domain, number, email=f"citizen-{number}@example.vn")
    with pytest.raises(LimitReached, match="Too many mails"):
        await _another(by_domain, 3, email="citizen-3@example.vn")

    by_system = desk_with(system=Limit(16, HOUR))  # one for each part
    answers = await asyncio.gather(*(_another(by_system, number) for number in range(64)), return_exceptions=True)
    refused = [answer.exceeded for answer in answers if isinstance(answer, LimitReached)]
    assert set(refused) == {(Dimension.SYSTEM,)}
    assert len(by_system.store.challenges()) == 64 - len(refused) <= 16


async def test_a_subject_is_limited_whatever_address_it_names() -> None:
    desk = desk_with(subject=Limit(1, HOUR))
    await _another(desk, 1, subject="lan")
    desk.later(PURPOSE.challenge_life.total_seconds())

    with pytest.raises(LimitReached) as refusal:
        await _another(desk, 2, subject="lan")

    assert refusal.value.exceeded == (Dimension.SUBJECT,)
    assert refusal.value.retry_after == HOUR - PURPOSE.challenge_life


@pytest.mark.parametrize(
    "spellings",
    [
        ["lan@example.vn", "lan+1@example.vn", "LAN@example.vn", "Lan+x+y@example.vn"],
        ["l.an@gmail.com", "lan@googlemail.com", "la.n+1@gmail.com", "lan@gmail.com"],
    ],
)
async def test_the_aliases_of_a_mailbox_share_its_limit(spellings: list[str]) -> None:
    desk = desk_with({"gmail.com": GMAIL, "googlemail.com": GMAIL}, address=Limit(2, HOUR))
    for number, spelling in enumerate(spellings[:2]):
        await _another(desk, number, email=spelling)

    for number, spelling in enumerate(spellings[2:], start=2):
        with pytest.raises(LimitReached) as refusal:
            await _another(desk, number, email=spelling)
        assert refusal.value.exceeded == (Dimension.ADDRESS,)


async def test_a_refusal_tells_the_longest_wait_whom_to_phone_and_all_limits() -> None:
    desk = desk_with(address=Limit(1, timedelta(seconds=90)), client=Limit(1, timedelta(minutes=7)))
    await _another(desk, 1, email="lan@example.vn", client="10.0.0.1")

    with pytest.raises(LimitReached) as refusal:
        await _another(desk, 2, email="lan@example.vn", client="10.0.0.1")

    assert refusal.value.retry_after == timedelta(minutes=7)
    assert set(refusal.value.exceeded) == {Dimension.ADDRESS, Dimension.CLIENT}
    assert "7 phút" in refusal.value.words.vi
    assert "7 minutes" in refusal.value.words.en
    assert all("1900 0000" in words for words in (refusal.value.words.vi, refusal.value.words.en))


async def test_what_others_gave_is_given_back_by_a_refusal_but_not_what_the_client_has_cost() -> None:
    desk = desk_with(address=Limit(1, HOUR))
    await _another(desk, 1, email="lan@example.vn", client="10.0.0.1")
    before = {dimension: desk.quotas.spent(dimension) for dimension in Dimension}

    with pytest.raises(LimitReached):
        await _another(desk, 2, email="lan@example.vn", client="10.0.0.1")

    after = {dimension: desk.quotas.spent(dimension) for dimension in Dimension}
    assert after == before | {Dimension.CLIENT: before[Dimension.CLIENT] + 1}


async def test_without_a_client_nothing_is_counted_by_client() -> None:
    desk = desk_with(client=Limit(1, HOUR))

    for number in range(3):
        await _another(desk, number, client="")

    assert desk.quotas.spent(Dimension.CLIENT) == 0


async def test_who_joins_a_letter_that_waits_pays_nothing_and_is_let_in_when_all_is_spent() -> None:
    desk = desk_with(address=Limit(1, HOUR), client=Limit(1, HOUR))
    first = await desk.ask("key-1", client="10.0.0.1")

    second = await desk.ask("key-2", client="10.0.0.1")

    assert second.joined
    assert second.challenge.id == first.challenge.id
    assert desk.quotas.calls == ["take"]


async def test_a_repeat_pays_nothing() -> None:
    desk = desk_with(address=Limit(1, HOUR))

    first, again = await desk.ask("key-1"), await desk.ask("key-1")

    assert again.handle == first.handle
    assert desk.quotas.calls == ["take"]


async def test_a_click_pays_like_a_request_and_its_repeat_does_not() -> None:
    desk = desk_with(address=Limit(2, HOUR))
    issued = await desk.ask()
    await desk.hand_over(issued)
    desk.later(COOLDOWN_S)

    assert (await desk.click(issued.handle, "click-1")).outcome is ResendOutcome.QUEUED
    assert (await desk.click(issued.handle, "click-1")).outcome is ResendOutcome.QUEUED
    assert (await desk.click(issued.handle, "click-2")).outcome is ResendOutcome.STILL_QUEUED
    await desk.hand_over(issued, 2)
    desk.later(PURPOSE.max_life.total_seconds())
    with pytest.raises(LimitReached):
        await desk.click(issued.handle, "click-3")

    assert len(desk.stored(issued).generations) == 2
    assert desk.quotas.spent(Dimension.ADDRESS) == 2


async def test_a_decoy_costs_what_a_real_letter_costs() -> None:
    desk = desk_with(address=Limit(1, HOUR))
    await _another(desk, 1, email="lan@example.vn", decoy=True)

    with pytest.raises(LimitReached):
        await _another(desk, 2, email="lan@example.vn")


@pytest.mark.parametrize("breaks", list(Breaks))
async def test_a_crash_between_taking_and_making_leaves_what_was_taken_and_the_repeat_takes_no_more(
    breaks: Breaks,
) -> None:
    desk = desk_with(address=Limit(2, HOUR))
    desk.store.breaks_next("commit", breaks)
    with pytest.raises(StoreUnavailable):
        await desk.ask("key-1")
    assert desk.quotas.spent(Dimension.ADDRESS) == 1

    await desk.ask("key-1")

    assert desk.quotas.spent(Dimension.ADDRESS) == 1
    assert len(desk.store.challenges()) == 1


@pytest.mark.parametrize("breaks", list(Breaks))
async def test_a_click_that_broke_off_between_taking_and_making_takes_no_more_when_it_is_repeated(
    breaks: Breaks,
) -> None:
    desk = desk_with(address=Limit(3, HOUR))
    issued = await desk.ask()
    await desk.hand_over(issued)
    desk.later(COOLDOWN_S)
    desk.store.breaks_next("commit", breaks)
    with pytest.raises(StoreUnavailable):
        await desk.click(issued.handle, "click-1")
    assert desk.quotas.spent(Dimension.ADDRESS) == 2

    assert (await desk.click(issued.handle, "click-1")).outcome is ResendOutcome.QUEUED

    assert desk.quotas.spent(Dimension.ADDRESS) == 2
    assert len(desk.stored(issued).generations) == 2


async def test_who_has_paid_and_decides_again_is_asked_neither_by_limits_nor_by_the_queue() -> None:
    desk = desk_with(address=Limit(1, HOUR))
    letter = LetterAsked("token", "subject", "lan@example.vn", "c00", PURPOSE.deadline)
    toll = desk.admit(desk.clock())
    assert await toll.settle(letter) is None
    desk.queue.waits = [PURPOSE.deadline * 2]
    desk.later(60)

    assert await toll.settle(letter) is None

    assert desk.quotas.calls == ["take"]


async def test_a_crash_that_nobody_repeats_is_never_under_counted() -> None:
    desk = desk_with(address=Limit(2, HOUR))
    for number in (1, 2):
        desk.store.breaks_next("commit")
        with pytest.raises(StoreUnavailable):
            await _another(desk, number, email="lan@example.vn")

    with pytest.raises(LimitReached):
        await _another(desk, 3, email="lan@example.vn")


@pytest.mark.parametrize("breaks", list(Breaks))
async def test_where_it_is_not_known_whether_there_is_room_nothing_is_made(breaks: Breaks) -> None:
    desk = desk_with(address=Limit(2, HOUR))
    desk.quotas.breaks_next("take", breaks)

    with pytest.raises(StoreUnavailable):
        await desk.ask("key-1")
    assert desk.store.challenges() == []
    await desk.ask("key-1")

    assert desk.quotas.spent(Dimension.ADDRESS) == 1


async def test_who_loses_the_race_and_joins_after_all_gets_back_what_was_taken() -> None:
    """Two replicas decide to make the letter of one wish; one commit goes in, and the other one joins it."""
    desk = desk_with()
    other = Desk(store=desk.store, policy=limited(), quotas=desk.quotas)

    answers = await asyncio.gather(desk.ask("key-1"), other.ask("key-2"))

    assert sorted(answer.joined for answer in answers) == [False, True]
    assert desk.quotas.calls == ["take", "take", "give_back"]
    assert desk.quotas.spent(Dimension.ADDRESS) == 1


async def test_a_crowd_over_two_replicas_gets_no_more_letters_than_the_limit() -> None:
    desk = desk_with(address=Limit(5, HOUR))
    other = Desk(store=desk.store, policy=limited(address=Limit(5, HOUR)), quotas=desk.quotas, mint=desk.mint)

    asked = (_another((desk, other)[number % 2], number, email="lan@example.vn") for number in range(40))
    answers = await asyncio.gather(*asked, return_exceptions=True)

    assert sum(answer is None for answer in answers) == 5
    assert {type(answer) for answer in answers if answer is not None} == {LimitReached}
    assert len(desk.store.outbox()) + len(desk.events.published) + len(other.events.published) == 5


async def test_no_bucket_is_named_by_an_address() -> None:
    quotas = InMemoryQuotas()
    desk = Desk(policy=limited(), quotas=quotas)
    await desk.ask(email="lan@example.vn", client="203.0.113.7")

    names = quotas.names()

    assert [name.partition(":")[0] for name in names] == sorted(Dimension)
    assert not any(part in name for name in names for part in ("lan", "example", "203.0", "citizen"))


async def test_without_limits_nothing_is_asked() -> None:
    desk = Desk(policy=replace(limited(), limits=Limits()))

    await desk.ask()

    assert desk.quotas.spent() == 0
