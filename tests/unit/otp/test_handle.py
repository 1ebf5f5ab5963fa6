"""A handle opens a challenge for the caller that got it, and for nobody else."""

from __future__ import annotations

import hashlib
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.otp.rules.challenge import Challenge, Handle, without_handle
from services.otp.rules.handle import NAME_OCTETS, Opened, handle_text, parse_handle
from services.otp.rules.policy import Policy
from tests.fakes.otp import POLICY, PURPOSE
from tests.unit.otp.made_up import challenge

SECRET = bytes(range(32))
OTHERS_SECRET = bytes(range(1, 33))


def _known() -> Challenge:
    return challenge(handles=tuple(_of(caller, secret) for caller, secret in _HOLDERS))


def _of(caller: str, secret: bytes) -> Handle:
    return Handle(caller, hashlib.sha256(secret).digest())


_HOLDERS = (("clinic", OTHERS_SECRET), ("portal", SECRET))
TEXT = handle_text("c00challenge", SECRET)


def test_it_opens_for_the_caller_that_got_it() -> None:
    known = _known()

    assert parse_handle("portal", TEXT).opens(known, POLICY) == Opened(known, 1, PURPOSE)


@pytest.mark.parametrize(
    ("caller", "text"),
    {
        "another caller shows it": ("clinic", TEXT),
        "a caller that nobody knows": ("", TEXT),
        "somebody else's secret": ("portal", handle_text("c00challenge", OTHERS_SECRET)),
        "the last digit is wrong": ("portal", TEXT[:-1] + "0"),
        "a digit is missing": ("portal", TEXT[:-1]),
        "a digit too many": ("portal", TEXT + "0"),
        "no secret": ("portal", "c00challenge."),
        "the challenge id alone": ("portal", "c00challenge"),
        "no hexadecimal": ("portal", "c00challenge." + "z" * 64),
        "full-width digits": ("portal", "c00challenge." + "０" * 64),
        "nothing": ("portal", ""),
        "only a point": ("portal", "."),
        "the secret alone": ("portal", SECRET.hex()),
    }.values(),
    ids=ascii,
)
def test_nothing_else_opens(caller: str, text: str) -> None:
    assert parse_handle(caller, text).opens(_known(), POLICY) is None


def test_a_handle_that_was_given_back_opens_nothing_and_the_others_still_do() -> None:
    known = without_handle(_known(), 1)

    assert parse_handle("portal", TEXT).opens(known, POLICY) is None
    assert parse_handle("clinic", handle_text("c00challenge", OTHERS_SECRET)).opens(known, POLICY) is not None


def test_a_challenge_that_is_not_there_is_not_opened() -> None:
    assert parse_handle("portal", TEXT).opens(None, POLICY) is None


def test_a_challenge_whose_purpose_left_the_policy_is_not_opened() -> None:
    assert parse_handle("portal", TEXT).opens(_known(), Policy({})) is None


@given(caller=st.text(max_size=8), text=st.text(max_size=200))
def test_any_text_at_all_is_taken_apart_and_opens_nothing(caller: str, text: str) -> None:
    assert parse_handle(caller, text).opens(_known(), POLICY) is None


@given(st.binary(min_size=32, max_size=32))
def test_what_is_written_is_read(secret: bytes) -> None:
    parsed = parse_handle("portal", handle_text("c00challenge", secret))

    assert parsed.challenge_id == "c00challenge"
    assert parsed.opens(challenge(handles=(_of("portal", secret),)), POLICY) is not None
    assert secret.hex() not in repr(parsed)


def test_a_click_and_an_entry_are_named_by_secret_and_key_and_tell_neither() -> None:
    mine, others = parse_handle("portal", TEXT), parse_handle("portal", handle_text("c00challenge", OTHERS_SECRET))
    names = [mine.click("a"), mine.click("b"), others.click("a")]
    for entry in (mine.entry("a", "123456"), mine.entry("b", "123456"), others.entry("a", "123456")):
        assert entry is not None
        names += [entry.key, entry.typed]

    unlike = [(one, other) for one, other in combinations(names, 2) if one != other]

    assert {len(name) for name in names} == {NAME_OCTETS}
    assert len(unlike) == len(list(combinations(names, 2))) - 1  # one secret and the same digits: the same name
    assert mine.click("a") == parse_handle("clinic", TEXT).click("a")


def test_an_entry_without_a_key_has_no_name() -> None:
    assert parse_handle("portal", TEXT).entry("", "123456") is None


def test_the_same_key_with_other_digits_is_the_same_entry_typed_otherwise() -> None:
    parsed = parse_handle("portal", TEXT)

    first, second = parsed.entry("a", "123456"), parsed.entry("a", "123457")

    assert first is not None
    assert second is not None
    assert first.key == second.key
    assert first.typed != second.typed
