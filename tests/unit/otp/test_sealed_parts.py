"""Sealed parts: only the key ring opens them, for the letter they were sealed for; their length tells nothing."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.keyring import Key, Keyring, SealBroken, UnknownKey
from services.otp.outbound.sealed_parts import BLOCK, KeyringSealer
from services.otp.ports import Part
from services.otp.rules.challenge import SealedPart
from tests.fakes.clock import NOON
from tests.fakes.otp import ring

TAG_OCTETS = 16
PART = Part("lan@example.vn", "Nộp hồ sơ 608", decoy=False)


@pytest.fixture
def sealer() -> KeyringSealer:
    """A sealer whose key is named s1."""
    return KeyringSealer(ring("s1", 4))


def test_what_was_sealed_opens_for_its_letter(sealer: KeyringSealer) -> None:
    sealed = sealer.seal("c00", 2, PART, NOON)

    assert sealed.kid == "s1"
    assert sealer.open("c00", 2, sealed) == PART


@pytest.mark.parametrize(("challenge_id", "generation"), [("c00", 1), ("c01", 2), ("c002", 2), ("", 2)])
def test_it_opens_for_no_other_letter(sealer: KeyringSealer, challenge_id: str, generation: int) -> None:
    sealed = sealer.seal("c00", 2, PART, NOON)

    with pytest.raises(SealBroken):
        sealer.open(challenge_id, generation, sealed)


def test_a_key_that_is_not_there_is_named(sealer: KeyringSealer) -> None:
    with pytest.raises(UnknownKey, match="s9"):
        sealer.open("c00", 2, SealedPart("s9", b"n" * 12, b"x" * 32))


def test_a_ring_without_a_key_for_now_seals_nothing() -> None:
    early = KeyringSealer(ring("s1", 4, not_before=NOON + timedelta(seconds=1)))

    with pytest.raises(UnknownKey):
        early.seal("c00", 2, PART, NOON)


def test_a_changed_seal_does_not_open(sealer: KeyringSealer) -> None:
    sealed = sealer.seal("c00", 2, PART, NOON)
    changed = sealed.ciphertext[:-1] + bytes([sealed.ciphertext[-1] ^ 1])

    with pytest.raises(SealBroken):
        sealer.open("c00", 2, SealedPart(sealed.kid, sealed.nonce, changed))


def test_two_seals_of_the_same_part_are_not_alike(sealer: KeyringSealer) -> None:
    first, second = (sealer.seal("c00", 2, PART, NOON) for _ in range(2))

    assert first != second


@given(st.builds(Part, email=st.text(), context=st.text(), decoy=st.booleans()))
def test_every_part_survives_and_shows_in_no_octet(part: Part) -> None:
    sealing = KeyringSealer(ring("s1", 4))

    sealed = sealing.seal("c00", 1, part, NOON)

    assert sealing.open("c00", 1, sealed) == part
    assert len(part.context) < 8 or part.context.encode() not in sealed.ciphertext


def _sealed_octets(part: Part) -> int:
    return len(KeyringSealer(ring("s1", 4)).seal("c00", 1, part, NOON).ciphertext) - TAG_OCTETS


@given(st.emails() | st.text(max_size=300), st.text(max_size=400))
def test_a_decoy_is_as_long_as_a_real_part_and_both_are_whole_blocks(email: str, context: str) -> None:
    lengths = {_sealed_octets(Part(email, context, decoy=decoy)) for decoy in (False, True)}

    (length,) = lengths
    assert length % BLOCK == 0
    assert 0 <= length - len(email.encode()) - len(context.encode()) < BLOCK + 16


def test_around_every_border_of_a_block_a_decoy_is_as_long_as_a_real_part() -> None:
    parts = [Part("x" * octets, "", decoy=False) for octets in range(3 * BLOCK)]

    assert all(_sealed_octets(part) == _sealed_octets(replace(part, decoy=True)) for part in parts)


def test_the_lengths_of_all_addresses_are_few_and_usual_addresses_share_one() -> None:
    addresses = [f"{'x' * octets}@example.vn" for octets in range(1, 244)]

    lengths = [_sealed_octets(Part(address, "", decoy=False)) for address in addresses]

    assert sorted(set(lengths)) == [BLOCK, 2 * BLOCK, 3 * BLOCK, 4 * BLOCK, 5 * BLOCK]
    assert {length for address, length in zip(addresses, lengths, strict=True) if len(address) <= 58} == {BLOCK}


def test_after_a_roll_old_seals_open_and_new_ones_use_the_new_key() -> None:
    old, new = Key("s1", b"a" * 32, NOON), Key("s2", b"b" * 32, NOON)
    sealed = KeyringSealer(Keyring([old])).seal("c00", 1, PART, NOON)
    rolled = KeyringSealer(Keyring([old, new]))

    assert rolled.open("c00", 1, sealed) == PART
    assert rolled.seal("c00", 1, PART, NOON).kid == "s2"
