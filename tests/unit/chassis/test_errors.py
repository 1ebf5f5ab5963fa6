"""From a refusal to the status that a caller gets: nothing that its reader needs is lost."""

from __future__ import annotations

from datetime import timedelta

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from services.chassis.errors import FieldViolation, Kind, ServiceError, Words
from services.chassis.grpc_refusals import CODES, status_of

WORDS = Words(vi="Xin đợi một chút.", en="Please wait a moment.")


class TooSoon(ServiceError):
    kind = Kind.EXHAUSTED
    reason = "TOO_SOON"


def detail(status: status_pb2.Status, kind: type) -> list[object]:
    """Return every detail of one kind."""
    found = []
    for packed in status.details:
        if packed.Is(kind.DESCRIPTOR):  # type: ignore[attr-defined] # a message class
            message = kind()
            packed.Unpack(message)
            found.append(message)
    return found


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_has_a_status_and_the_two_ways_to_write_it_agree(kind: Kind) -> None:
    number, code = CODES[kind]

    assert code.value[0] == number
    assert code is not grpc.StatusCode.OK


def test_no_two_kinds_look_the_same_to_a_caller() -> None:
    assert len({code for _, code in CODES.values()}) == len(Kind)


def test_a_refusal_carries_its_code_reason_domain_and_facts() -> None:
    status = status_of(TooSoon(WORDS, metadata={"tries": "3"}), "otp.kip")

    (info,) = detail(status, error_details_pb2.ErrorInfo)
    assert status.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    assert status.message == WORDS.en
    assert info == error_details_pb2.ErrorInfo(reason="TOO_SOON", domain="otp.kip", metadata={"tries": "3"})


def test_a_refusal_speaks_both_languages() -> None:
    status = status_of(TooSoon(WORDS), "otp.kip")

    assert detail(status, error_details_pb2.LocalizedMessage) == [
        error_details_pb2.LocalizedMessage(locale="vi", message=WORDS.vi),
        error_details_pb2.LocalizedMessage(locale="en", message=WORDS.en),
    ]


@pytest.mark.parametrize("wait", [timedelta(0), timedelta(milliseconds=1500), timedelta(hours=24)])
def test_a_refusal_that_may_be_repeated_says_when(wait: timedelta) -> None:
    status = status_of(TooSoon(WORDS, retry_after=wait), "otp.kip")

    (info,) = detail(status, error_details_pb2.RetryInfo)
    assert isinstance(info, error_details_pb2.RetryInfo)
    assert info.retry_delay.ToTimedelta() == wait


def test_each_field_that_breaks_a_rule_is_named_in_both_languages() -> None:
    refusal = TooSoon(
        WORDS,
        violations=[
            FieldViolation("email", Words(vi="Thiếu địa chỉ.", en="The address is missing.")),
            FieldViolation("client.ip", Words(vi="Sai.", en="Wrong.")),
        ],
    )

    (bad,) = detail(status_of(refusal, "otp.kip"), error_details_pb2.BadRequest)

    assert isinstance(bad, error_details_pb2.BadRequest)
    assert [(each.field, each.description) for each in bad.field_violations] == [
        ("email", "Thiếu địa chỉ. / The address is missing."),
        ("client.ip", "Sai. / Wrong."),
    ]
    assert bad.field_violations[0].localized_message.locale == "vi"


def test_limits_are_named_to_callers_that_may_see_them_and_to_nobody_else() -> None:
    refusal = TooSoon(WORDS, exceeded=["address", "client"])

    (told,) = detail(status_of(refusal, "otp.kip", {"see-limits"}), error_details_pb2.QuotaFailure)

    assert isinstance(told, error_details_pb2.QuotaFailure)
    assert [violation.subject for violation in told.violations] == ["address", "client"]
    for scopes in ((), {"unlock"}):
        status = status_of(refusal, "otp.kip", scopes)
        assert detail(status, error_details_pb2.QuotaFailure) == []
        assert b"address" not in status.SerializeToString()
    assert detail(status_of(TooSoon(WORDS), "otp.kip", {"see-limits"}), error_details_pb2.QuotaFailure) == []


def test_what_does_not_apply_is_left_out() -> None:
    status = status_of(TooSoon(WORDS), "otp.kip")

    assert detail(status, error_details_pb2.RetryInfo) == []
    assert detail(status, error_details_pb2.BadRequest) == []


def test_a_refusal_reads_as_its_english_words() -> None:
    refusal = TooSoon(WORDS)

    assert str(refusal) == WORDS.en
    assert (refusal.retry_after, refusal.violations, refusal.metadata) == (None, (), {})


def test_a_refusal_keeps_its_own_copy_of_what_it_was_given() -> None:
    violations = [FieldViolation("email", WORDS)]
    metadata = {"tries": "3"}
    refusal = TooSoon(WORDS, violations=violations, metadata=metadata)

    violations.clear()
    metadata.clear()

    assert len(refusal.violations) == len(refusal.metadata) == 1
