from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from services.dossier.rules.claim import claim_of
from tests.fakes.dossier import NOON

texts = st.text(max_size=20)


@given(st.tuples(texts, texts), st.tuples(texts, texts))
def test_two_callers_or_keys_never_share_a_claim(one: tuple[str, str], other: tuple[str, str]) -> None:
    same = claim_of(*one, ("body",), NOON).key == claim_of(*other, ("body",), NOON).key

    assert same == (one == other)


@given(st.tuples(texts, texts, texts), st.tuples(texts, texts, texts))
def test_two_bodies_never_share_a_fingerprint(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    same = claim_of("c", "k", one, NOON).fingerprint == claim_of("c", "k", other, NOON).fingerprint

    assert same == (one == other)


def test_the_same_body_under_another_key_looks_different() -> None:
    assert claim_of("c", "k", ("b",), NOON).fingerprint != claim_of("c", "l", ("b",), NOON).fingerprint


def test_a_claim_lasts_a_day_and_shows_nothing() -> None:
    claim = claim_of("portal", "key", ("lan@example.vn",), NOON)

    assert claim.expires_at == NOON + timedelta(hours=24)
    assert repr(claim) == f"Claim(expires_at={claim.expires_at!r})"
