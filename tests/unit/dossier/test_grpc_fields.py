from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest

from services.chassis.grpc_fields import InvalidField
from services.dossier.inbound.grpc_fields import DossierFieldChecks as FieldChecks

LONG = "x" * 10_000


def _violated(check: Callable[[FieldChecks], object]) -> list[str]:
    checks = FieldChecks()
    check(checks)
    with suppress(InvalidField):
        checks.done()
        return []
    return [violation.field for violation in _refusal(checks).violations]


def _refusal(checks: FieldChecks) -> InvalidField:
    with pytest.raises(InvalidField) as refusal:
        checks.done()
    return refusal.value


@pytest.mark.parametrize("value", ["k", "x" * 128, "khóa số 1"])
def test_a_text_within_its_length_passes(value: str) -> None:
    assert _violated(lambda checks: checks.text("field", value, shortest=1, longest=128)) == []


@pytest.mark.parametrize("value", ["", "   ", "x" * 129, LONG, "a\x00b", "a\nb", "a\x7fb", "a\x85b"])
def test_a_text_that_is_empty_long_or_has_control_characters_is_refused(value: str) -> None:
    assert _violated(lambda checks: checks.text("field", value, shortest=1, longest=128)) == ["field"]


def test_an_optional_text_may_be_empty() -> None:
    assert _violated(lambda checks: checks.text("name", "", longest=100)) == []


def test_a_remark_may_have_lines_but_nothing_else_that_controls() -> None:
    assert _violated(lambda checks: checks.text("remark", "một\nhai", longest=500, lines=True)) == []
    assert _violated(lambda checks: checks.text("remark", "một\rhai", longest=500, lines=True)) == ["remark"]


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("lan@example.vn", "lan@example.vn"),
        ("Lan.Nguyen@EXAMPLE.vn", "Lan.Nguyen@example.vn"),
        ("lan@bücher.example", "lan@xn--bcher-kva.example"),
    ],
)
def test_a_good_address_is_kept_with_an_ascii_domain(value: str, kept: str) -> None:
    checks = FieldChecks()

    email = checks.email("email", value)

    checks.done()
    assert email == kept


@pytest.mark.parametrize(
    "value",
    [
        "",
        "lan",
        "lan@",
        "@example.vn",
        "lan@example",
        "lan@@example.vn",
        "lan @example.vn",
        "lan@example.vn\r\nBcc: x@example.vn",
        "Lan <lan@example.vn>",
        "lan@[127.0.0.1]",
        "a@example.vn,b@example.vn",
        "lân@example.vn",
        f"{'x' * 300}@example.vn",
        f"{LONG}@example.vn",
        "lan@" + "ư" * 120 + ".vn",
    ],
)
def test_a_bad_address_is_refused(value: str) -> None:
    assert _violated(lambda checks: checks.email("email", value)) == ["email"]


def test_an_address_that_passes_fits_its_column() -> None:
    checks = FieldChecks()

    kept = [checks.email("email", f"lan@{'.'.join(['ư' * n] * 3)}.vn") for n in range(1, 40)]

    assert max(len(email.encode()) for email in kept if email.isascii()) <= 254


@pytest.mark.parametrize("value", ["", "vi", "en"])
def test_a_known_language_passes_and_none_is_left_to_the_service(value: str) -> None:
    assert FieldChecks().locale("locale", value) == value


@pytest.mark.parametrize("value", ["fr", "VI", "vi-VN", LONG])
def test_another_language_is_refused(value: str) -> None:
    assert _violated(lambda checks: checks.locale("locale", value)) == ["locale"]


def test_an_id_of_ours_passes() -> None:
    assert _violated(lambda checks: checks.uuid("id", "6f6e1f4e-4c3b-4b8e-9d0a-0c4b5f0f7d11")) == []


@pytest.mark.parametrize(
    "value",
    [
        "",
        "7",
        "6F6E1F4E-4C3B-4B8E-9D0A-0C4B5F0F7D11",
        "{6f6e1f4e-4c3b-4b8e-9d0a-0c4b5f0f7d11}",
        "6f6e1f4e-4c3b-4b8e-9d0a-0c4b5f0f7d11\n",
        LONG,
    ],
)
def test_what_is_no_id_of_ours_is_refused(value: str) -> None:
    assert _violated(lambda checks: checks.uuid("id", value)) == ["id"]


def test_all_violations_come_together_and_quote_nothing() -> None:
    checks = FieldChecks()
    checks.email("email", "lan-without-domain")
    checks.locale("locale", "fr")
    checks.text("name", LONG, longest=100)

    violations = _refusal(checks).violations

    assert [violation.field for violation in violations] == ["email", "locale", "name"]
    assert all(violation.words.vi and violation.words.en for violation in violations)
    assert "lan-without-domain" not in str(violations)
