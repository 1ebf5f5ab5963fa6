"""Issuing while a part fails: whatever dies, the citizen gets one letter, and the repeat gets the same handle."""

from __future__ import annotations

import pytest

from services.otp.ports import ANNOUNCE_WITHIN, COMMIT_TRIES, IdempotencyKeyReused, StoreUnavailable
from services.otp.rules.verdict import Accepted
from tests.fakes.otp import PURPOSE, Breaks, InMemoryChallengeStore, LeavesIt
from tests.unit.otp.desk import REQUEST, Desk


@pytest.mark.parametrize(
    ("method", "when", "letters_before"),
    [
        ("claim", Breaks.BEFORE, 0),
        ("claim", Breaks.AFTER, 0),
        ("load", Breaks.BEFORE, 0),
        ("commit", Breaks.BEFORE, 0),
        ("commit", Breaks.AFTER, 1),
    ],
)
async def test_a_request_that_broke_off_is_resumed_by_its_key_as_one_challenge_and_one_letter(
    method: str, when: Breaks, letters_before: int
) -> None:
    desk = Desk()
    desk.store.breaks_next(method, when)
    with pytest.raises(StoreUnavailable):
        await desk.ask()
    assert len(desk.store.outbox()) == letters_before

    issued = await desk.later(2).ask()

    await desk.later(6).sweep()
    assert [challenge.id for challenge in desk.store.challenges()] == [issued.challenge.id]
    assert desk.events.published == [f"{issued.challenge.id}.1"]
    assert isinstance(await desk.type_in(issued.handle, desk.code_of(issued)), Accepted)


async def test_a_crash_between_claim_and_commit_resumes_with_the_ids_that_were_claimed() -> None:
    desk = Desk()
    minted: list[str] = []
    mint = desk.store.mint_id

    def remembering(purpose: str, subject: str) -> str:
        minted.append(mint(purpose, subject))
        return minted[-1]

    desk.store.mint_id = remembering  # type: ignore[method-assign] # listens to the fake
    desk.store.breaks_next("commit")
    with pytest.raises(StoreUnavailable):
        await desk.ask()

    issued = await Desk(store=desk.store).ask()

    assert len(minted) == 4  # two at each call, of which the first is taken where both leave alike
    assert issued.challenge.id == minted[0]


async def test_a_crash_after_the_commit_leaves_the_letter_in_the_outbox_for_the_sweep() -> None:
    died = Desk(announce=LeavesIt())

    issued = await died.ask()

    assert died.store.outbox() == [f"{issued.challenge.id}.1"]
    sweeping = Desk(store=died.store)
    assert await sweeping.later(6).sweep() == 0
    assert sweeping.events.published == [f"{issued.challenge.id}.1"]


@pytest.mark.parametrize("when", [Breaks.BEFORE, Breaks.AFTER])
async def test_a_join_whose_claim_could_not_be_settled_is_repeated_the_same(when: Breaks) -> None:
    desk = Desk()
    first = await desk.ask("key-1")
    desk.store.breaks_next("settle_claim", when)
    with pytest.raises(StoreUnavailable):
        await desk.ask("key-2")

    again = await desk.ask("key-2")

    assert (again.challenge.id, again.joined, again.outcome) == (first.challenge.id, True, "repeated")
    assert len(desk.stored(first).handles) == 2


async def test_without_kafka_the_request_is_answered_and_its_letter_waits_in_the_outbox() -> None:
    desk = Desk()
    desk.events.is_away = True

    issued = await desk.ask()

    assert issued.outcome == "queued"
    assert desk.store.outbox() == [f"{issued.challenge.id}.1"]
    desk.events.is_away = False
    assert await desk.later(6).sweep() == 0
    assert desk.events.published == [f"{issued.challenge.id}.1"]


async def test_a_store_that_dies_after_the_commit_takes_no_answer_back() -> None:
    desk = Desk()
    desk.store.breaks_next("published")

    issued = await desk.ask()

    assert issued.outcome == "queued"
    assert desk.store.outbox() == desk.events.published == [f"{issued.challenge.id}.1"]


async def test_announcing_waits_no_longer_than_a_caller_would() -> None:
    announce = LeavesIt()

    await Desk(announce=announce).ask()

    assert [entry.record[b"e"] for entry in announce.entries] != []
    assert ANNOUNCE_WITHIN.total_seconds() <= 0.5


async def test_while_the_store_is_away_nothing_is_promised() -> None:
    desk = Desk()
    desk.store.is_away = True

    with pytest.raises(StoreUnavailable) as refusal:
        await desk.ask()

    assert refusal.value.retry_after is not None
    assert desk.events.published == []


class LosesEveryRace(InMemoryChallengeStore):
    """Somebody else is always faster."""

    async def commit(self, *_args: object, **_fields: object) -> None:
        self.calls.append("commit")


async def test_who_loses_every_race_is_told_to_come_back() -> None:
    desk = Desk(store=LosesEveryRace())

    with pytest.raises(StoreUnavailable):
        await desk.ask()

    assert desk.store.calls.count("commit") == COMMIT_TRIES


async def test_a_lost_race_is_decided_anew_over_what_is_stored_by_then() -> None:
    desk = Desk()
    load = desk.store.load
    raced = False

    async def load_and_be_overtaken(*args: object, **fields: object) -> object:
        nonlocal raced
        loaded = await load(*args, **fields)  # type: ignore[arg-type] # passed on as they came
        if not raced:
            raced = True
            await desk.ask("key-of-the-faster")
        return loaded

    desk.store.load = load_and_be_overtaken  # type: ignore[method-assign,assignment] # overtakes the first reader

    slower = await desk.ask("key-of-the-slower")

    assert (slower.outcome, slower.joined) == ("joined", True)
    assert len(desk.store.challenges()) == len(desk.events.published) == 1


async def test_a_claim_without_a_challenge_is_not_resumed_when_its_codes_could_live_no_more() -> None:
    desk = Desk()
    desk.store.breaks_next("commit")
    with pytest.raises(StoreUnavailable):
        await desk.ask()

    desk.later(PURPOSE.challenge_life.total_seconds() + 1)

    with pytest.raises(IdempotencyKeyReused):
        await desk.ask()
    assert desk.store.challenges() == []


async def test_a_host_whose_clock_is_far_behind_the_stores_still_serves_new_requests() -> None:
    desk = Desk()
    behind = desk.clock() - 2 * PURPOSE.challenge_life

    issued = await desk.issue(REQUEST, behind)

    assert issued.outcome == "queued"
