"""How a refusal travels: a `google.rpc.Status` with `ErrorInfo`, words in vi and en, and what to do about it.

`ErrorInfo` (reason, domain, metadata) and `LocalizedMessage` vi and en are always there; `RetryInfo` and `BadRequest`
where they apply. `QuotaFailure` names the limits that are reached, and goes to callers with the scope `see-limits`
alone: which limit it was tells a stranger what others did. What is lost here is the Python type and the cause; they are
logged.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import grpc
from google.protobuf import duration_pb2
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import code_pb2, error_details_pb2, status_pb2

from services.chassis.errors import Kind, ServiceError

CODES: dict[Kind, tuple[int, grpc.StatusCode]] = {
    Kind.INVALID: (code_pb2.INVALID_ARGUMENT, grpc.StatusCode.INVALID_ARGUMENT),
    Kind.UNAUTHENTICATED: (code_pb2.UNAUTHENTICATED, grpc.StatusCode.UNAUTHENTICATED),
    Kind.FORBIDDEN: (code_pb2.PERMISSION_DENIED, grpc.StatusCode.PERMISSION_DENIED),
    Kind.NOT_FOUND: (code_pb2.NOT_FOUND, grpc.StatusCode.NOT_FOUND),
    Kind.CONFLICT: (code_pb2.ABORTED, grpc.StatusCode.ABORTED),
    Kind.PRECONDITION: (code_pb2.FAILED_PRECONDITION, grpc.StatusCode.FAILED_PRECONDITION),
    Kind.EXHAUSTED: (code_pb2.RESOURCE_EXHAUSTED, grpc.StatusCode.RESOURCE_EXHAUSTED),
    Kind.UNAVAILABLE: (code_pb2.UNAVAILABLE, grpc.StatusCode.UNAVAILABLE),
}


SEE_LIMITS = "see-limits"


def status_of(refusal: ServiceError, domain: str, scopes: Collection[str] = ()) -> status_pb2.Status:
    """Return the rich status of a refusal, for a caller with these scopes."""
    details: list[Any] = [
        error_details_pb2.ErrorInfo(reason=refusal.reason, domain=domain, metadata=refusal.metadata),
        error_details_pb2.LocalizedMessage(locale="vi", message=refusal.words.vi),
        error_details_pb2.LocalizedMessage(locale="en", message=refusal.words.en),
    ]
    if refusal.retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromTimedelta(refusal.retry_after)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if refusal.violations:
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(
                        field=violation.field,
                        description=f"{violation.words.vi} / {violation.words.en}",
                        localized_message=error_details_pb2.LocalizedMessage(locale="vi", message=violation.words.vi),
                    )
                    for violation in refusal.violations
                ]
            )
        )
    if refusal.exceeded and SEE_LIMITS in scopes:
        violation = error_details_pb2.QuotaFailure.Violation
        details.append(
            error_details_pb2.QuotaFailure(
                violations=[violation(subject=limit, description=f"limit by {limit}") for limit in refusal.exceeded]
            )
        )
    status = status_pb2.Status(code=CODES[refusal.kind][0], message=refusal.words.en)
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    return status
