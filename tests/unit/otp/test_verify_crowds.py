"""Many who type at once: one acceptance, no guess beyond the budget, one outcome for one key.

The store gives the loop away at each call, so everybody stands between everybody's count and outcome.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence

import pytest

from services.chassis.keyring import Key, Keyring
from services.otp.actions.issue import Issued
from services.otp.ports import Loaded, StoreUnavailable
from services.otp.rules.policy import SUBJECT_ROW
from services.otp.rules.verdict import Accepted, Expired, Locked, Unknown, Used, Verdict, Wrong
from tests.fakes.clock import NOON
from tests.fakes.otp import PURPOSE, Breaks, InMemoryChallengeStore
from tests.unit.otp.desk import Desk

COOLDOWN_S = PURPOSE.cooldowns[0].total_seconds()


class CountedKey(Key):
    """A key that counts the codes that are derived with it: each reads the secret once."""

    derived = 0

    def __getattribute__(self, name: str) -> object:
        if name == "secret":
            CountedKey.derived += 1
        return super().__getattribute__(name)


@pytest.fixture
def counting() -> Desk:
    """A desk whose every derivation of a code is counted, from when the test resets the count."""
    return Desk(code_keys=Keyring([CountedKey("c1", bytes([1]) * 32, NOON)]))


async def _pages(desk: Desk, count: int, **wish: object) -> tuple[Issued, list[str]]:
    """One challenge with that many handles."""
    issued = [await desk.ask(f"page-{n}-{wish}", **wish) for n in range(count)]
    assert {each.challenge.id for each in issued} == {issued[0].challenge.id}
    return issued[0], [each.handle for each in issued]


async def _kinds(desk: Desk, handles: Sequence[str], codes: Sequence[str], key: str = "") -> Counter[str]:
    """Type every code at once, each under the next handle; return how often each verdict came."""
    tries = [desk.type_in(handles[n % len(handles)], code, key=key and key.format(n)) for n, code in enumerate(codes)]
    verdicts = await asyncio.gather(*tries, return_exceptions=True)
    return Counter(type(verdict).__name__ for verdict in verdicts)


@pytest.mark.parametrize("pages", [1, 4])
@pytest.mark.parametrize("key", ["", "entry-{}"], ids=["without keys", "a key for each"])
async def test_of_200_right_entries_at_once_exactly_one_is_accepted(pages: int, key: str) -> None:
    desk = Desk()
    issued, handles = await _pages(desk, pages)

    kinds = await _kinds(desk, handles, [desk.code_of(issued)] * 200, key)

    assert kinds[Accepted.__name__] == 1
    assert set(kinds) <= {each.__name__ for each in (Accepted, Used, Locked, StoreUnavailable)}
    assert desk.stored(issued).attempts <= kinds[StoreUnavailable.__name__]  # who lost more races than it may


async def test_of_two_living_codes_typed_by_a_crowd_one_is_accepted() -> None:
    desk = Desk()
    issued, handles = await _pages(desk, 4)
    await desk.hand_over(issued)
    await desk.later(COOLDOWN_S).click(handles[0])
    codes = [desk.code_of(issued, 1), desk.code_of(issued, 2)]

    kinds = await _kinds(desk, handles, [codes[n // 4 % 2] for n in range(80)])

    assert kinds[Accepted.__name__] == 1
    assert Wrong.__name__ not in kinds


async def test_a_double_click_is_accepted_and_used_and_costs_nothing() -> None:
    desk = Desk()
    issued, handles = await _pages(desk, 1)

    kinds = await _kinds(desk, handles, [desk.code_of(issued)] * 3)

    assert kinds == {"Accepted": 1, "Used": 2}
    assert desk.stored(issued).attempts == 0


@pytest.mark.parametrize("key", ["", "entry-{}"], ids=["without keys", "a key for each"])
async def test_of_500_wrong_entries_over_four_handles_no_more_are_compared_than_the_budget(
    counting: Desk, key: str
) -> None:
    issued, handles = await _pages(counting, 4)
    guesses = [counting.wrong_code(issued, n * 1999) for n in range(500)]
    CountedKey.derived = 0

    kinds = await _kinds(counting, handles, guesses, key)

    assert CountedKey.derived == PURPOSE.attempts
    assert kinds == {"Wrong": PURPOSE.attempts, "Locked": 500 - PURPOSE.attempts}
    assert counting.stored(issued).attempts == PURPOSE.attempts
    assert max(one.attempts for one in counting.stored(issued).handles) <= PURPOSE.attempts_per_handle


async def test_of_500_wrong_entries_over_two_challenges_no_more_are_compared_than_the_row_of_the_subject(
    counting: Desk,
) -> None:
    first, pages = await _pages(counting, 4)
    second, other_pages = await _pages(counting.later(COOLDOWN_S), 4, context="another file")
    guesses = [counting.wrong_code(first, n * 1999) for n in range(500)]
    CountedKey.derived = 0

    kinds = await _kinds(counting, [*pages, *other_pages], guesses)

    assert 2 * PURPOSE.attempts > SUBJECT_ROW
    assert CountedKey.derived == SUBJECT_ROW
    assert kinds == {"Wrong": SUBJECT_ROW, "Locked": 500 - SUBJECT_ROW}
    assert counting.stored(first).attempts + counting.stored(second).attempts == SUBJECT_ROW


async def test_among_a_flood_of_guesses_the_right_code_is_compared_within_the_budget_or_not_at_all() -> None:
    desk = Desk()
    issued, handles = await _pages(desk, 1)
    guesses = [desk.wrong_code(issued, n) for n in range(100)]
    guesses[50] = desk.code_of(issued)

    kinds = await _kinds(desk, handles, guesses)

    assert kinds["Accepted"] <= 1
    assert kinds["Wrong"] <= PURPOSE.attempts_per_handle
    assert kinds["Accepted"] + kinds["Wrong"] + kinds["Locked"] == 100


@pytest.mark.parametrize("what", ["right", "wrong", "expired"])
async def test_50_repeats_of_one_key_at_once_have_one_outcome_and_cost_one_attempt(what: str) -> None:
    desk = Desk()
    issued, (handle,) = await _pages(desk, 1)
    await desk.hand_over(issued)
    if what == "expired":
        desk.later(PURPOSE.life.total_seconds() + 1)
    code = desk.wrong_code(issued) if what == "wrong" else desk.code_of(issued)

    verdicts = await asyncio.gather(*(desk.type_in(handle, code, key="entry-1") for _ in range(50)))

    assert verdicts == [verdicts[0]] * 50
    assert isinstance(verdicts[0], {"right": Accepted, "wrong": Wrong, "expired": Expired}[what])
    assert desk.stored(issued).attempts == (1 if what == "wrong" else 0)
    assert len(desk.stored(issued).entries) == 1
    assert desk.events.published == [
        f"{issued.challenge.id}.{number}" for number in range(1, 3 if what == "expired" else 2)
    ]


@pytest.mark.parametrize("what", ["right", "wrong", "expired"])
async def test_50_repeats_that_go_on_where_somebody_died_have_one_outcome_and_cost_one_attempt(what: str) -> None:
    desk = Desk()
    issued, (handle,) = await _pages(desk, 1)
    await desk.hand_over(issued)
    if what == "expired":
        desk.later(PURPOSE.life.total_seconds() + 1)
    code = desk.wrong_code(issued) if what == "wrong" else desk.code_of(issued)
    desk.store.breaks_next("commit", Breaks.AFTER)
    with pytest.raises(StoreUnavailable):
        await desk.type_in(handle, code, key="entry-1")
    assert desk.stored(issued).attempts == 1

    verdicts = await asyncio.gather(*(desk.type_in(handle, code, key="entry-1") for _ in range(50)))

    assert verdicts == [verdicts[0]] * 50
    assert isinstance(verdicts[0], {"right": Accepted, "wrong": Wrong, "expired": Expired}[what])
    assert desk.stored(issued).attempts == (1 if what == "wrong" else 0)
    assert len(desk.stored(issued).generations) == (2 if what == "expired" else 1)


async def test_a_crowd_with_an_expired_code_gets_one_letter_and_burns_no_attempt() -> None:
    desk = Desk()
    issued, handles = await _pages(desk, 4)
    await desk.hand_over(issued)
    desk.later(PURPOSE.life.total_seconds() + 1)

    kinds = await _kinds(desk, handles, [desk.code_of(issued)] * 50)

    assert set(kinds) <= {"Expired", "Locked"}  # the last: while as many as may be are being compared
    assert desk.events.published == [f"{issued.challenge.id}.1", f"{issued.challenge.id}.2"]
    assert desk.stored(issued).attempts == 0


async def test_a_handle_that_is_given_back_among_right_entries_opens_nothing_after_that() -> None:
    desk = Desk()
    issued, (handle,) = await _pages(desk, 1)
    code = desk.code_of(issued)

    *verdicts, _ = await asyncio.gather(*(desk.type_in(handle, code) for _ in range(9)), desk.cancel("portal", handle))

    assert sum(isinstance(verdict, Accepted) for verdict in verdicts) <= 1
    assert {type(verdict) for verdict in verdicts} <= {Accepted, Used, Locked, Unknown}
    assert desk.stored(issued).handles[0].cancelled
    assert await desk.type_in(handle, code) == Unknown()


class Hesitant(InMemoryChallengeStore):
    """A store whose calls take turns of the loop, as many as are drawn: no two callers walk in step."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._random = random.Random(seed)

    async def load(self, shard: int, *, subject_key: str | None = None, challenge_ids: Sequence[str] = ()) -> Loaded:
        """Implements `ChallengeStore`."""
        for _ in range(self._random.randrange(6)):
            await asyncio.sleep(0)
        return await super().load(shard, subject_key=subject_key, challenge_ids=challenge_ids)


@pytest.mark.parametrize("seed", range(20))
async def test_out_of_step_too_attempts_are_what_was_wrong_and_each_key_has_one_answer(seed: int) -> None:
    store = Hesitant(seed)
    desk = Desk(store=store)
    issued, handles = await _pages(desk, 4)
    right, draw = desk.code_of(issued), random.Random(seed)
    codes = {"": "", "a": right, "b": desk.wrong_code(issued, 7), "c": desk.wrong_code(issued, 9)}
    tries = [(draw.choice(handles), draw.choice(list(codes))) for _ in range(60)]
    typed = [
        (handle, codes[key] or draw.choice([right, desk.wrong_code(issued, n)]))
        for n, (handle, key) in enumerate(tries)
    ]

    verdicts = await asyncio.gather(
        *(desk.type_in(*each, key=key) for each, (_, key) in zip(typed, tries, strict=True))
    )

    answers: dict[object, set[Verdict]] = {}
    for n, (page, verdict) in enumerate(zip(tries, verdicts, strict=True)):
        if not isinstance(verdict, Locked):
            answers.setdefault(page if page[1] else n, set()).add(verdict)
    entries = Counter(type(verdict) for (verdict,) in answers.values())
    stored = desk.stored(issued)
    assert entries[Accepted] <= 1
    assert entries[Wrong] == stored.attempts == sum(handle.attempts for handle in stored.handles) <= PURPOSE.attempts
