"""Keys: which one makes, which ones accept, what a seal is bound to, and that digits are fair."""

from __future__ import annotations

import base64
import hmac
import json
import string
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.chassis.keyring import (
    Key,
    Keyring,
    Seal,
    SealBroken,
    UnknownKey,
    digits,
    length_prefixed,
    mac,
    read_keyring,
)

NOW = datetime(2026, 11, 25, 8, 0, tzinfo=UTC)
DAY = timedelta(days=1)
SECRET = b"made-up-secret-of-32-octets-0001"
OTHER_SECRET = b"made-up-secret-of-32-octets-0002"
OLD = Key("2026-10", SECRET, not_before=NOW - 30 * DAY, until=NOW + DAY)
NEW = Key("2026-11", OTHER_SECRET, not_before=NOW)
ABOUT = ("kip.otp.v1.SealedPart", "challenge-1", "1")

parts = st.lists(st.text() | st.binary(), max_size=5)


def entry(key: Key, **changes: object) -> dict[str, object]:
    until = key.until.isoformat() if key.until else None
    secret = base64.b64encode(key.secret).decode()
    return {"kid": key.kid, "secret": secret, "not_before": key.not_before.isoformat(), "until": until} | changes


def ring_file(folder: Path, *entries: object) -> Path:
    file = folder / "ring.json"
    file.write_text(json.dumps({"keys": entries}))
    return file


def test_the_newest_key_that_has_started_makes_new_things() -> None:
    ring = Keyring([NEW, OLD])

    assert ring.minting(NOW - timedelta(seconds=1)) == OLD
    assert ring.minting(NOW) == NEW
    assert ring.minting(NOW + 100 * DAY) == NEW


def test_a_key_that_has_ended_makes_nothing_but_is_still_known_by_name() -> None:
    ring = Keyring([OLD])

    with pytest.raises(UnknownKey):
        ring.minting(NOW + DAY)
    assert ring.named(OLD.kid) == OLD


def test_before_the_first_key_starts_nothing_can_be_made() -> None:
    with pytest.raises(UnknownKey):
        Keyring([NEW]).minting(NOW - DAY)


def test_of_two_keys_that_start_together_every_process_chooses_the_same() -> None:
    twin = replace(NEW, kid="2026-11b")

    assert Keyring([NEW, twin]).minting(NOW) == Keyring([twin, NEW]).minting(NOW)


def test_a_key_that_is_not_there_is_named_by_the_error() -> None:
    with pytest.raises(UnknownKey, match="2027-01") as unknown:
        Keyring([OLD]).named("2027-01")

    assert unknown.value.kid == "2027-01"


def test_a_ring_is_rolled_without_a_pause() -> None:
    reader = Keyring([OLD, NEW])
    seals = [
        Keyring([OLD, NEW]).seal(b"text", about=ABOUT, now=now) for now in (NOW - DAY, NOW, NOW + DAY, NOW + 2 * DAY)
    ]

    assert [seal.kid for seal in seals] == [OLD.kid, NEW.kid, NEW.kid, NEW.kid]
    assert {reader.open(seal, about=ABOUT) for seal in seals} == {b"text"}


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ([], "empty"),
        ([OLD, replace(NEW, kid=OLD.kid)], "'2026-10' is there twice"),
        ([replace(OLD, secret=b"short")], "'2026-10' has 5 octets, not 32"),
    ],
    ids=["empty", "twice", "short"],
)
def test_a_ring_that_is_wrong_is_refused_with_the_reason(keys: list[Key], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Keyring(keys)


@given(plain=st.binary(max_size=300))
@settings(deadline=None)
def test_what_was_sealed_opens_for_what_it_is_about(plain: bytes) -> None:
    ring = Keyring([OLD, NEW])

    assert ring.open(ring.seal(plain, about=ABOUT, now=NOW), about=ABOUT) == plain


@pytest.mark.parametrize(
    "about",
    [
        ("kip.otp.v1.SealedPart", "challenge-2", "1"),
        ("kip.otp.v1.SealedPart", "challenge-1", "2"),
        ("kip.mailer.v1.SealedNotice", "challenge-1", "1"),
        ("kip.otp.v1.SealedPart", "challenge-11"),
        ("kip.otp.v1.SealedPart", "challenge-1", "1", ""),
        (),
    ],
)
def test_a_seal_that_was_moved_does_not_open(about: tuple[str, ...]) -> None:
    ring = Keyring([NEW])
    seal = ring.seal(b"lan@example.vn", about=ABOUT, now=NOW)

    with pytest.raises(SealBroken):
        ring.open(seal, about=about)


@given(at=st.integers(0, 29), bit=st.integers(0, 7))
def test_a_seal_with_one_bit_changed_does_not_open(at: int, bit: int) -> None:
    ring = Keyring([NEW])
    seal = ring.seal(b"lan@example.vn", about=ABOUT, now=NOW)
    changed = bytearray(seal.ciphertext)
    changed[at] ^= 1 << bit

    with pytest.raises(SealBroken):
        ring.open(replace(seal, ciphertext=bytes(changed)), about=ABOUT)


@pytest.mark.parametrize(
    "change",
    [{"nonce": b""}, {"nonce": b"0" * 12}, {"ciphertext": b""}, {"ciphertext": b"short"}, {"kid": OLD.kid}],
    ids=str,
)
def test_a_seal_with_foreign_parts_does_not_open(change: dict[str, bytes]) -> None:
    ring = Keyring([OLD, NEW])
    seal = ring.seal(b"lan@example.vn", about=ABOUT, now=NOW)

    with pytest.raises(SealBroken):
        ring.open(replace(seal, **change), about=ABOUT)  # type: ignore[arg-type] # each field has its own type


def test_a_seal_of_a_key_that_is_not_rolled_out_here_is_not_called_broken() -> None:
    seal = Keyring([NEW]).seal(b"text", about=ABOUT, now=NOW)

    with pytest.raises(UnknownKey):
        Keyring([OLD]).open(seal, about=ABOUT)


def test_the_same_text_is_never_sealed_the_same_way_twice() -> None:
    ring = Keyring([NEW])

    seals = [ring.seal(b"text", about=ABOUT, now=NOW) for _ in range(50)]

    assert len({seal.nonce for seal in seals}) == len({seal.ciphertext for seal in seals}) == 50


def test_digits_are_the_same_forever() -> None:
    # Fixed values: a change would make codes that are on their way wrong.
    assert digits(NEW, "kip-code-v1", "purpose", "challenge", "1", b"\x00" * 32, count=6) == "075533"
    assert digits(NEW, "kip-code-v1", "purpose", "challenge", "2", b"\x00" * 32, count=8) == "59792931"
    assert digits(OLD, "kip-code-v1", "purpose", "challenge", "1", b"\x00" * 32, count=6) == "508453"


@given(parts=parts, count=st.integers(1, 18))
@settings(deadline=None)
def test_digits_are_as_many_as_were_asked_for_and_a_function_of_their_parts(
    parts: list[str | bytes], count: int
) -> None:
    made = digits(NEW, *parts, count=count)

    assert len(made) == count
    assert set(made) <= set(string.digits)
    assert made == digits(NEW, *parts, count=count)


def test_when_every_word_of_a_block_is_unfair_the_next_block_is_taken() -> None:
    # Found by trying: the four words of this HMAC are all above the largest multiple of 10¹⁸.
    first_block = mac(NEW, "2381711")
    words = [int.from_bytes(first_block[start : start + 8]) for start in range(0, 32, 8)]
    assert min(words) >= 18 * 10**18

    made = digits(NEW, "2381711", count=18)

    second_block = hmac.digest(OTHER_SECRET, first_block, "sha256")
    assert int(made) == int.from_bytes(second_block[:8]) % 10**18


@pytest.mark.parametrize("count", [-1, 0, 19, 20, 4_000_000_000])
def test_a_count_of_digits_that_one_word_cannot_give_is_refused_at_once(count: int) -> None:
    with pytest.raises(ValueError, match="1 to 18"):
        digits(NEW, "x", count=count)


def test_every_digit_is_equally_likely_in_every_place() -> None:
    made = [digits(NEW, str(number), count=6) for number in range(6_000)]

    for place in range(6):
        seen = Counter(code[place] for code in made)
        chi_squared = sum((seen[digit] - 600) ** 2 / 600 for digit in string.digits)
        assert chi_squared < 33.7  # 9 degrees of freedom: exceeded by chance once in 10 000; the input is fixed


@given(first=parts, second=parts)
def test_no_two_lists_of_parts_are_joined_to_the_same_octets(
    first: list[str | bytes], second: list[str | bytes]
) -> None:
    def octets(parts: list[str | bytes]) -> list[bytes]:
        return [part.encode() if isinstance(part, str) else part for part in parts]

    assert (length_prefixed(*first) == length_prefixed(*second)) == (octets(first) == octets(second))


def test_a_border_between_parts_cannot_be_moved() -> None:
    assert mac(NEW, "ab", "c") != mac(NEW, "a", "bc") != mac(NEW, "abc")
    assert length_prefixed("a", "") != length_prefixed("a") != length_prefixed("", "a")


def test_a_mac_depends_on_the_key() -> None:
    assert len(mac(NEW, "x")) == 32
    assert mac(NEW, "x") != mac(OLD, "x")


def test_no_secret_is_in_a_repr_or_an_error() -> None:
    ring = Keyring([OLD])

    with pytest.raises(UnknownKey) as unknown:
        ring.named("nobody")
    texts = [repr(OLD), str(OLD), repr(ring), repr(unknown.value), f"{[OLD]} {ring!s}"]

    assert not any(SECRET.decode() in text for text in texts)


def test_a_ring_is_read_from_its_file(tmp_path: Path) -> None:
    file = ring_file(tmp_path, entry(OLD), entry(NEW))

    ring = read_keyring(file)

    assert (ring.named(OLD.kid), ring.named(NEW.kid)) == (OLD, NEW)


def test_times_of_a_file_are_utc_unless_they_say_otherwise(tmp_path: Path) -> None:
    naive = entry(OLD, not_before="2026-11-25T08:00:00", until="2026-11-25T16:00:00+07:00")

    key = read_keyring(ring_file(tmp_path, naive)).named(OLD.kid)

    assert (key.not_before, key.until) == (NOW, NOW + timedelta(hours=1))


def test_a_file_that_is_not_there_is_named_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.json cannot be read: No such file"):
        read_keyring(tmp_path / "nowhere.json")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not json",
        "\xff",
        "[]",
        "{}",
        '{"keys": 7}',
        '{"keys": []}',
        '{"keys": ["made-up-secret"]}',
        '{"keys": [["made-up-secret"]]}',
        json.dumps({"keys": [entry(OLD, secret="made-up-secret!")]}),
        json.dumps({"keys": [entry(OLD, secret=base64.b64encode(b"made-up-secret").decode())]}),
        json.dumps({"keys": [entry(OLD, not_before="made-up-secret")]}),
        json.dumps({"keys": [entry(OLD, until="made-up-secret")]}),
        json.dumps({"keys": [entry(OLD), entry(OLD)]}),
    ],
)
def test_a_file_that_is_no_ring_is_named_and_not_quoted(tmp_path: Path, text: str) -> None:
    file = tmp_path / "ring.json"
    file.write_bytes(text.encode("latin-1"))

    with pytest.raises(ValueError, match=r"ring\.json") as error:
        read_keyring(file)

    assert "made-up-secret" not in f"{error.value} {error.value.__cause__}"


def test_a_seal_shows_no_plain_text() -> None:
    seal = Keyring([NEW]).seal(b"lan@example.vn", about=ABOUT, now=NOW)

    assert b"lan" not in seal.ciphertext
    assert seal == Seal(seal.kid, seal.nonce, seal.ciphertext)


def test_who_asked_is_told_of_each_key_that_the_ring_does_not_have() -> None:
    ring = Keyring([OLD])
    told: list[str] = []
    ring.on_unknown.append(lambda: told.append("unknown"))

    ring.named(OLD.kid)
    for _ in range(2):
        with pytest.raises(UnknownKey):
            ring.named(NEW.kid)

    assert told == ["unknown", "unknown"]
