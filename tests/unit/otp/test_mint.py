"""What every `Mint` owes: the drawer of the tests and the one on key rings pass the same suite."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest

from services.chassis.keyring import Key, Keyring, SealBroken
from services.otp.outbound.keyring_mint import REFERENCE_CHARACTERS, KeyringMint
from services.otp.outbound.sealed_parts import KeyringSealer
from services.otp.ports import KeysUnknown, Mint, Part
from services.otp.rules.challenge import Challenge, Fresh, with_another
from services.otp.rules.generation import Cause
from tests.fakes.clock import NOON, FakeClock
from tests.fakes.otp import PURPOSE, Drawer, ring
from tests.unit.otp.made_up import challenge, generation

PART = Part("lan@example.vn", "Nộp hồ sơ 608", decoy=False)
DECOY = Part("nobody@example.vn", "", decoy=True)


def _on_rings(seal: Keyring, code: Keyring, clock: FakeClock | None = None) -> KeyringMint:
    return KeyringMint(KeyringSealer(seal), code, clock or FakeClock())


@pytest.fixture(params=["drawer", "key rings"])
def mint(request: pytest.FixtureRequest) -> Mint:
    """A mint whose keys are named s1 and c1."""
    return Drawer() if request.param == "drawer" else _on_rings(ring("s1", 4), ring("c1", 1))


@pytest.fixture(params=["drawer", "key rings"])
def without_its_key(request: pytest.FixtureRequest) -> Mint:
    """A mint to which the key s1 has not been rolled out."""
    return Drawer(kid="s2") if request.param == "drawer" else _on_rings(ring("s2", 4), ring("c1", 1))


def _first(mint: Mint, part: Part = PART) -> Challenge:
    fresh = mint.first("c00challenge", 1, part)
    return challenge(generation(1, reference=fresh.reference), sealed=fresh.sealed)


def _second(mint: Mint, known: Challenge) -> Challenge:
    return with_another(known, PURPOSE, mint.again, cause=Cause.RESENT, now=NOON)


def test_what_is_fresh_has_a_reference_and_names_the_keys_in_use(mint: Mint) -> None:
    fresh = mint.first("c00challenge", 1, PART)

    assert re.fullmatch(rf"[{REFERENCE_CHARACTERS}]{{5}}", fresh.reference)
    assert (fresh.code_kid, fresh.sealed.kid) == ("c1", "s1")


@pytest.mark.parametrize("part", [PART, DECOY], ids=["real", "decoy"])
def test_the_part_of_a_challenge_is_what_was_put_in(mint: Mint, part: Part) -> None:
    assert mint.part(_first(mint, part)) == part


def test_no_two_letters_are_alike_though_all_is_asked_alike(mint: Mint) -> None:
    drawn = [mint.first("c00challenge", 1, PART) for _ in range(20)]

    assert len({fresh.reference for fresh in drawn}) == len({fresh.sealed for fresh in drawn}) == 20


def test_another_letter_has_the_same_part_sealed_anew_for_its_own_number(mint: Mint) -> None:
    known = _first(mint)

    again = _second(mint, known)

    assert again.sealed != known.sealed
    assert again.newest.reference != known.newest.reference
    assert mint.part(again) == PART


def test_a_third_letter_is_made_from_the_second(mint: Mint) -> None:
    third = _second(mint, _second(mint, _first(mint, DECOY)))

    assert third.newest.number == 3
    assert mint.part(third) == DECOY


def test_the_part_opens_for_its_own_challenge_and_letter_only(mint: Mint) -> None:
    known = _first(mint)

    for stranger in (replace(known, id="c01challenge"), challenge(generation(2), sealed=known.sealed)):
        with pytest.raises(SealBroken):
            mint.part(stranger)
        with pytest.raises(SealBroken):
            mint.again(stranger, 2)


def test_a_record_that_was_changed_makes_no_letter(mint: Mint) -> None:
    known = _first(mint)
    changed = replace(known, sealed=replace(known.sealed, ciphertext=b"x" + known.sealed.ciphertext[1:]))

    with pytest.raises(SealBroken):
        mint.again(changed, 2)


def test_a_key_that_is_not_rolled_out_is_told_in_the_ports_words(mint: Mint, without_its_key: Mint) -> None:
    known = _first(mint)

    with pytest.raises(KeysUnknown):
        without_its_key.part(known)
    with pytest.raises(KeysUnknown):
        without_its_key.again(known, 2)


def test_nothing_in_clear_is_in_what_is_fresh(mint: Mint) -> None:
    fresh = repr(mint.first("c00challenge", 1, PART))

    assert PART.email not in fresh
    assert PART.context not in fresh


SOON = NOON + timedelta(seconds=1)


@pytest.mark.parametrize("late", ["seal", "code"])
def test_before_any_key_has_started_nothing_is_minted(late: str) -> None:
    started = {"seal": ring("s1", 4), "code": ring("c1", 1), late: ring("new", 5, not_before=SOON)}
    clock = FakeClock()
    minting = _on_rings(started["seal"], started["code"], clock)
    with pytest.raises(KeysUnknown):
        minting.first("c00challenge", 1, PART)

    clock.pass_by(timedelta(seconds=1))

    assert isinstance(minting.first("c00challenge", 1, PART), Fresh)


def test_a_roll_changes_the_keys_of_the_next_letter_and_opens_the_last_one() -> None:
    clock = FakeClock()
    seal = Keyring([Key("s1", b"a" * 32, NOON), Key("s2", b"b" * 32, SOON)])
    code = Keyring([Key("c1", b"c" * 32, NOON), Key("c2", b"d" * 32, SOON)])
    minting = _on_rings(seal, code, clock)
    known = _first(minting)
    clock.pass_by(timedelta(seconds=1))

    fresh = minting.again(known, 2)

    assert known.sealed.kid == "s1"
    assert (fresh.code_kid, fresh.sealed.kid) == ("c2", "s2")


def test_references_use_every_character_that_nobody_confuses_about_as_often() -> None:
    minting = _on_rings(ring("s1", 4), ring("c1", 1))

    drawn = Counter("".join(minting.first("c", 1, PART).reference for _ in range(2_000)))

    assert set(drawn) == set(REFERENCE_CHARACTERS)
    assert len(REFERENCE_CHARACTERS) == 32
    assert not set("ILOU") & set(REFERENCE_CHARACTERS)
    assert all(172 < count < 452 for count in drawn.values())  # 312 ± 8 standard deviations
