"""Stories of typing a code: exactly one acceptance, never a free guess, and nothing told to strangers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.chassis.keyring import Key, Keyring
from services.otp.actions.issue import Issued
from services.otp.actions.verify import VerifyCode
from services.otp.ports import COMMIT_TRIES, KeysUnknown, StoreUnavailable
from services.otp.rules.challenge import Challenge
from services.otp.rules.policy import Policy
from services.otp.rules.verdict import Accepted, Locked, Unknown, Used, Wrong
from tests.fakes.clock import NOON
from tests.fakes.otp import POLICY, PURPOSE, Breaks, Drawer, InMemoryChallengeStore, LeavesIt, ring
from tests.unit.otp.desk import NO_HANDLE, REQUEST, Desk
from tests.unit.otp.overtaken import Overtaken

LIFE_S = PURPOSE.life.total_seconds()


async def _arrived() -> tuple[Desk, Issued]:
    """A code in a mailbox."""
    desk = Desk()
    issued = await desk.ask()
    await desk.hand_over(issued)
    return desk, issued


def _attempts(desk: Desk, issued: Issued) -> int:
    return desk.stored(issued).attempts


async def test_the_right_code_is_accepted_once_with_what_was_confirmed() -> None:
    desk, issued = await _arrived()
    code = desk.code_of(issued)

    first = await desk.type_in(issued.handle, code)
    second = await desk.type_in(issued.handle, code)

    assert first == Accepted(desk.clock(), context=REQUEST.context)
    assert second == Used()
    assert _attempts(desk, issued) == 0


@pytest.mark.parametrize("parted", ["{0} {1}", "{0}-{1}", " {0}\u2013{1}\n"])
async def test_a_code_is_understood_as_people_write_it(parted: str) -> None:
    desk, issued = await _arrived()
    code = desk.code_of(issued)

    assert isinstance(await desk.type_in(issued.handle, parted.format(code[:3], code[3:])), Accepted)


async def test_a_code_typed_before_any_hand_over_was_heard_of_is_accepted() -> None:
    desk = Desk()
    issued = await desk.ask()

    assert isinstance(await desk.type_in(issued.handle, desk.code_of(issued)), Accepted)


async def test_wrong_codes_are_counted_until_the_handle_is_locked_also_for_the_right_one() -> None:
    desk, issued = await _arrived()

    verdicts = [await desk.type_in(issued.handle, desk.wrong_code(issued, guess)) for guess in range(4)]

    assert verdicts[:3] == [Wrong(2), Wrong(1), Wrong(0)]
    assert verdicts[3] == Locked(desk.clock() + PURPOSE.cooldowns[0])  # then another code may be asked for
    assert await desk.type_in(issued.handle, desk.code_of(issued)) == verdicts[3]
    assert _attempts(desk, issued) == 3


async def test_a_new_handle_gets_no_more_than_the_challenge_has_left() -> None:
    desk = Desk()
    handles = [(await desk.ask(f"key-{n}")).handle for n in range(3)]
    issued = await desk.ask("key-0")

    left = [await desk.type_in(handle, desk.wrong_code(issued)) for handle in handles for _ in range(3)]

    assert left[:6] == [Wrong(2), Wrong(1), Wrong(0)] * 2
    assert left[6:] == [Wrong(0), *[Locked(desk.clock() + PURPOSE.cooldowns[0])] * 2]
    assert _attempts(desk, issued) == PURPOSE.attempts


async def test_another_letter_resets_no_counter() -> None:
    desk, first = await _arrived()
    for guess in range(3):
        await desk.type_in(first.handle, desk.wrong_code(first, guess))

    second = await desk.later(60).ask("key-2")

    assert _attempts(desk, second) == 3
    assert second.challenge.attempts_left == 3
    assert isinstance(await desk.type_in(first.handle, desk.code_of(second, 2)), Locked)
    assert isinstance(await desk.type_in(second.handle, desk.code_of(second, 2)), Accepted)


async def test_both_living_codes_are_accepted_and_the_first_acceptance_uses_up_the_other() -> None:
    desk, first = await _arrived()
    second = await desk.later(60).ask("key-2")

    accepted = await desk.type_in(second.handle, desk.code_of(second, 1))
    other = await desk.type_in(first.handle, desk.code_of(second, 2))

    assert accepted == Accepted(desk.clock(), context=REQUEST.context)
    assert other == Used()


@pytest.mark.parametrize("who", ["unknown", "foreign", "mistyped", "no handle", "nothing", "another purpose"])
async def test_a_stranger_is_told_unknown_and_changes_nothing(who: str) -> None:
    desk, issued = await _arrived()
    code = desk.code_of(issued)
    handle, caller = {
        "unknown": (NO_HANDLE, "portal"),
        "foreign": (issued.handle, "clinic"),
        "mistyped": (issued.handle[:-1] + ("0" if issued.handle[-1] != "0" else "1"), "portal"),
        "no handle": ("\u0000 }{ *", "portal"),
        "nothing": ("", "portal"),
        "another purpose": (issued.handle, "portal"),
    }[who]
    policy = Policy({}) if who == "another purpose" else POLICY
    before = desk.store.challenges()

    verdict = await Desk(store=desk.store, policy=policy).type_in(handle, code, caller)

    assert verdict == Unknown()
    assert desk.store.challenges() == before


@pytest.mark.parametrize("key", ["", "entry-1"])
async def test_a_stranger_costs_the_store_as_many_calls_as_a_wrong_code(key: str) -> None:
    desk, issued = await _arrived()

    async def calls(handle: str, code: str, caller: str = "portal") -> int:
        desk.store.calls.clear()
        await desk.type_in(handle, code, caller, key)
        return len(desk.store.calls)

    wrong = await calls(issued.handle, desk.wrong_code(issued))

    assert await calls(NO_HANDLE, "000000") == wrong
    assert await calls("nonsense", "000000") == wrong
    assert await calls(issued.handle, desk.code_of(issued), "clinic") == wrong


async def test_a_process_that_dies_between_count_and_outcome_has_spent_one_attempt() -> None:
    desk, issued = await _arrived()
    desk.store.breaks_next("commit", Breaks.AFTER)

    with pytest.raises(StoreUnavailable):
        await desk.type_in(issued.handle, desk.code_of(issued))

    assert _attempts(desk, issued) == 1
    assert isinstance(await desk.type_in(issued.handle, desk.code_of(issued)), Accepted)


async def test_an_acceptance_whose_answer_was_lost_is_used_the_next_time() -> None:
    desk, issued = await _arrived()
    desk.store.breaks_next("commit", None)
    desk.store.breaks_next("commit", Breaks.AFTER)

    with pytest.raises(StoreUnavailable):
        await desk.type_in(issued.handle, desk.code_of(issued))

    assert desk.stored(issued).verified_at == desk.clock()
    assert await desk.type_in(issued.handle, desk.code_of(issued)) == Used()


async def test_while_the_store_is_away_nobody_is_told_wrong() -> None:
    desk, issued = await _arrived()
    code = desk.code_of(issued)
    desk.store.is_away = True

    with pytest.raises(StoreUnavailable):
        await desk.type_in(issued.handle, code)


@pytest.mark.parametrize("won", [0, 1], ids=["the count", "the outcome"])
@pytest.mark.parametrize(("lost", "succeeds"), [(COMMIT_TRIES - 1, True), (COMMIT_TRIES, False)])
async def test_who_loses_every_race_is_told_to_come_back(won: int, lost: int, *, succeeds: bool) -> None:
    store = Overtaken()
    desk = Desk(store=store)
    issued = await desk.ask()
    store.won, store.lost = won, lost

    if succeeds:
        assert isinstance(await desk.type_in(issued.handle, desk.code_of(issued)), Accepted)
    else:
        with pytest.raises(StoreUnavailable):
            await desk.type_in(issued.handle, desk.code_of(issued))


async def test_a_challenge_that_ends_in_the_middle_of_a_verification_is_unknown() -> None:
    desk, issued = await _arrived()
    code = desk.code_of(issued)
    commit = desk.store.commit

    async def commit_then_forget(*args: object, **fields: object) -> object:
        done = await commit(*args, **fields)  # type: ignore[arg-type] # as they came
        desk.later(24 * 3600)
        return done

    desk.store.commit = commit_then_forget  # type: ignore[method-assign,assignment] # the clock turns after it

    assert await desk.type_in(issued.handle, code) == Unknown()


@pytest.mark.parametrize("trouble", ["the seal key is gone", "sealed for another letter"])
async def test_without_the_seal_key_the_code_is_accepted_all_the_same(trouble: str) -> None:
    desk, issued = await _arrived()
    if trouble == "the seal key is gone":
        desk.mint.is_locked = True
    verify = desk.verify
    if trouble == "sealed for another letter":
        verify = VerifyCode(
            desk.store, Drawer(), LeavesIt(), desk.queue, POLICY, code_keys=desk.code_keys, restraint=desk.restraint
        )

    verdict = await verify("portal", issued.handle, desk.code_of(issued), "", desk.clock())

    assert verdict == Accepted(desk.clock(), context="")


async def test_codes_of_an_older_key_are_still_right_after_the_key_was_rolled() -> None:
    desk, issued = await _arrived()
    code = desk.code_of(issued)
    old = desk.code_keys.named("c1")
    new = Key("c2", bytes(32), not_before=desk.clock())
    rolled = Desk(store=desk.store, code_keys=Keyring([old, new]), mint=Drawer(code_kid="c2"))
    later = await rolled.ask("key-9", subject="citizen-9")

    assert rolled.stored(later).newest.code_kid == "c2"
    assert isinstance(await rolled.type_in(issued.handle, code), Accepted)
    assert isinstance(await rolled.type_in(later.handle, rolled.code_of(later)), Accepted)


async def test_a_code_of_another_challenge_is_wrong() -> None:
    desk, issued = await _arrived()
    other = await desk.ask("key-2", subject="citizen-8")

    assert await desk.type_in(issued.handle, desk.code_of(other)) == Wrong(2)


async def test_a_changed_context_makes_the_code_wrong() -> None:
    desk, issued = await _arrived()
    code = desk.code_of(issued)
    known: Challenge = desk.stored(issued)
    tampered = replace(known, version=known.version + 1, context_sha256=bytes(32))
    shard = desk.store.shard_of(known.id)
    assert shard is not None
    assert await desk.store.commit(shard, challenge=tampered) == []

    assert await desk.type_in(issued.handle, code) == Wrong(2)


@pytest.mark.parametrize("key", ["", "entry-1"])
async def test_a_replica_without_the_code_key_spends_no_attempt_and_says_so(key: str) -> None:
    desk, issued = await _arrived()
    code = desk.code_of(issued)
    before = desk.stored(issued)
    behind = Desk(store=desk.store, code_keys=ring("c0", 9))

    with pytest.raises(KeysUnknown):
        await behind.type_in(issued.handle, code, key=key)

    assert desk.stored(issued) == before
    assert isinstance(await desk.type_in(issued.handle, code, key=key), Accepted)


async def test_a_replica_that_lacks_the_key_of_one_letter_judges_none() -> None:
    desk, first = await _arrived()
    desk.mint.code_kid = "c2"
    rolled = Desk(
        store=desk.store, code_keys=Keyring([desk.code_keys.named("c1"), Key("c2", bytes(32), NOON)]), mint=desk.mint
    )
    await rolled.later(60).ask("key-2")

    with pytest.raises(KeysUnknown):
        await desk.type_in(first.handle, rolled.code_of(first))

    assert isinstance(await rolled.type_in(first.handle, rolled.code_of(first)), Accepted)


async def test_a_code_is_accepted_although_the_record_of_its_subject_was_lost() -> None:
    desk, issued = await _arrived()
    known = desk.stored(issued)
    lost = InMemoryChallengeStore(desk.clock)
    shard = lost.shard_of(known.id)
    assert shard is not None
    for version in range(1, known.version + 1):
        await lost.commit(shard, challenge=replace(known, version=version))
    after_it = Desk(store=lost, mint=desk.mint)

    assert await after_it.type_in(issued.handle, after_it.wrong_code(issued)) == Wrong(2)
    assert isinstance(await after_it.type_in(issued.handle, after_it.code_of(issued)), Accepted)


# Decoys


@pytest.mark.parametrize("seconds", [0, LIFE_S + 1], ids=["in time", "too late"])
@pytest.mark.parametrize("key", ["", "entry-1"])
async def test_the_code_that_a_decoy_would_have_is_a_wrong_one(seconds: float, key: str) -> None:
    desk = Desk()
    decoy = await desk.ask(decoy=True)
    await desk.hand_over(decoy)
    code = desk.code_of(decoy)

    verdict = await desk.later(seconds).type_in(decoy.handle, code, key=key)

    assert verdict == Wrong(2)
    assert _attempts(desk, decoy) == 1
    assert desk.stored(decoy).verified_at is None
    assert len(desk.stored(decoy).generations) == 1
