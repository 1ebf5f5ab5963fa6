"""The fields of a request: what passes, what is refused, and that all is told at once in both languages."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest

from services.chassis.errors import Kind
from services.chassis.grpc_fields import InvalidField
from services.otp.inbound.grpc_fields import OtpFieldChecks as FieldChecks


def _violated(check: Callable[[FieldChecks], object]) -> list[str]:
    checks = FieldChecks()
    check(checks)
    with suppress(InvalidField):
        checks.done()
        return []
    with pytest.raises(InvalidField) as refusal:
        checks.done()
    assert all(violation.words.vi and violation.words.en for violation in refusal.value.violations)
    return [violation.field for violation in refusal.value.violations]


@pytest.mark.parametrize("value", ["k", "x" * 128, "khóa số 1"])
def test_a_text_within_its_length_passes(value: str) -> None:
    assert _violated(lambda checks: checks.text("field", value, shortest=1, longest=128)) == []


@pytest.mark.parametrize("value", ["", "x" * 129, "x" * 10_000, "a\x00b", "a\nb", "a\x1fb", "a\x7fb"], ids=ascii)
def test_a_text_that_is_empty_long_or_has_control_characters_is_refused(value: str) -> None:
    assert _violated(lambda checks: checks.text("field", value, shortest=1, longest=128)) == ["field"]


def test_an_optional_text_may_be_empty() -> None:
    assert _violated(lambda checks: checks.text("context", "", longest=200)) == []


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("lan@example.vn", "lan@example.vn"),
        ("Lan.Nguyen@EXAMPLE.vn", "Lan.Nguyen@example.vn"),
        ("lan+nop@example.vn", "lan+nop@example.vn"),
        ("lan@bücher.example", "lan@xn--bcher-kva.example"),
    ],
)
def test_an_address_is_kept_with_an_ascii_domain(typed: str, kept: str) -> None:
    checks = FieldChecks()

    address = checks.email("email", typed)

    checks.done()
    assert address == kept


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "minh",
        "minh@",
        "@tỉnh.vn",
        "minh@tinh..vn",
        "minh@tinh.vn\r\nBcc: x@tinh.vn",
        "đỗ@tinh.vn",
        "a" * 255 + "@tinh.vn",
    ],
    ids=ascii,
)
def test_what_is_no_address_is_refused_and_never_repeated(typed: str) -> None:
    checks = FieldChecks()

    assert checks.email("email", typed) == ""

    with pytest.raises(InvalidField) as refusal:
        checks.done()
    told = f"{refusal.value} {refusal.value.words} {[v.words for v in refusal.value.violations]}"
    assert not typed or typed not in told


@pytest.mark.parametrize("typed", ["123456", "123 456", "１２３－４５６", "123456\r\n", "\t123456", "0"], ids=ascii)
def test_digits_pass_as_they_were_typed(typed: str) -> None:
    checks = FieldChecks()

    assert checks.code("code", typed) == typed

    checks.done()


@pytest.mark.parametrize("typed", ["", "- -", "abcdef", "12345O", "1" * 65, "\x00123456", "١٢٣٤٥٦"], ids=ascii)
def test_what_can_never_be_a_code_is_refused(typed: str) -> None:
    assert _violated(lambda checks: checks.code("code", typed)) == ["code"]


@pytest.mark.parametrize(
    ("value", "fields"), [("", []), ("vi", []), ("en", []), ("fr", ["locale"]), ("VI", ["locale"])]
)
def test_a_language_is_vi_or_en_or_left_to_the_policy(value: str, fields: list[str]) -> None:
    assert _violated(lambda checks: checks.locale("locale", value)) == fields


def test_all_violations_are_raised_together() -> None:
    checks = FieldChecks()
    checks.text("subject", "", shortest=1, longest=9)
    checks.email("email", "lan")
    checks.locale("locale", "fr")

    with pytest.raises(InvalidField) as refusal:
        checks.done()

    assert (refusal.value.kind, refusal.value.reason) == (Kind.INVALID, "INVALID_FIELD")
    assert [violation.field for violation in refusal.value.violations] == ["subject", "email", "locale"]
    assert "subject, email, locale" in refusal.value.words.vi
    assert "subject, email, locale" in refusal.value.words.en


def test_without_violations_nothing_is_raised() -> None:
    FieldChecks().done()
