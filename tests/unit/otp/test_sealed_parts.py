"""Sealed parts: only the key ring opens them, and only for the letter they were sealed for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.keyring import Key, Keyring, SealBroken, UnknownKey
from services.otp.outbound.sealed_parts import KeyringSealer
from services.otp.ports import Part, Sealer
from services.otp.rules.challenge import SealedPart
from tests.fakes.clock import NOON
from tests.fakes.otp import Drawer, ring

PART = Part("lan@example.vn", "Nộp hồ sơ 608", decoy=False)


@pytest.fixture(params=["memory", "key ring"])
def sealer(request: pytest.FixtureRequest) -> Sealer:
    """A sealer whose key is named s1."""
    return Drawer() if request.param == "memory" else KeyringSealer(ring("s1", 4))


def test_what_was_sealed_opens_for_its_letter(sealer: Sealer) -> None:
    sealed = sealer.seal("c00", 2, PART, NOON)

    assert sealed.kid == "s1"
    assert sealer.open("c00", 2, sealed) == PART


@pytest.mark.parametrize(("challenge_id", "generation"), [("c00", 1), ("c01", 2), ("c002", 2), ("", 2)])
def test_it_opens_for_no_other_letter(sealer: Sealer, challenge_id: str, generation: int) -> None:
    sealed = sealer.seal("c00", 2, PART, NOON)

    with pytest.raises(SealBroken):
        sealer.open(challenge_id, generation, sealed)


def test_a_key_that_is_not_there_is_named(sealer: Sealer) -> None:
    with pytest.raises(UnknownKey, match="s9"):
        sealer.open("c00", 2, SealedPart("s9", b"n" * 12, b"x" * 32))


def test_a_changed_seal_does_not_open(sealer: Sealer) -> None:
    sealed = sealer.seal("c00", 2, PART, NOON)
    changed = sealed.ciphertext[:-1] + bytes([sealed.ciphertext[-1] ^ 1])

    with pytest.raises(SealBroken):
        sealer.open("c00", 2, SealedPart(sealed.kid, sealed.nonce, changed))


def test_two_seals_of_the_same_part_are_not_alike(sealer: Sealer) -> None:
    first, second = (sealer.seal("c00", 2, PART, NOON) for _ in range(2))

    assert first != second


@given(st.builds(Part, email=st.text(), context=st.text(), decoy=st.booleans()))
def test_every_part_survives_and_shows_in_no_octet(part: Part) -> None:
    sealing = KeyringSealer(ring("s1", 4))

    sealed = sealing.seal("c00", 1, part, NOON)

    assert sealing.open("c00", 1, sealed) == part
    assert len(part.context) < 8 or part.context.encode() not in sealed.ciphertext


def test_after_a_roll_old_seals_open_and_new_ones_use_the_new_key() -> None:
    old, new = Key("s1", b"a" * 32, NOON), Key("s2", b"b" * 32, NOON)
    sealed = KeyringSealer(Keyring([old])).seal("c00", 1, PART, NOON)
    rolled = KeyringSealer(Keyring([old, new]))

    assert rolled.open("c00", 1, sealed) == PART
    assert rolled.seal("c00", 1, PART, NOON).kid == "s2"
