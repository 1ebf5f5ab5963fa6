"""The API of otp over a desk of in-memory ports, called in-process, and what a refusal says on the wire."""

from __future__ import annotations

from datetime import datetime
from typing import Any, cast

from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from kip.otp.v1 import otp_service_pb2 as pb
from prometheus_client import CollectorRegistry

from services.chassis.grpc_fields import InvalidField
from services.chassis.grpc_refusals import status_of
from services.otp.inbound.grpc_api import Context, OtpApi, OtpVerbs
from services.otp.metrics import OtpMetrics
from services.otp.rules.policy import Policy
from tests.fakes.clock import NOON
from tests.fakes.otp import POLICY, PURPOSE
from tests.unit.otp.desk import REQUEST, Desk

NO_CONTEXT = cast("Context", None)  # the API looks at messages only


class Office:
    """One replica's API; whoever calls is set by `calling_as`."""

    def __init__(self, policy: Policy = POLICY) -> None:
        self.desk = desk = Desk(policy=policy)
        self.registry = CollectorRegistry()
        verbs = OtpVerbs(
            issue=desk.issue,
            resend=desk.resend,
            guard=desk.guard,
            get=desk.get,
            watch=desk.watch,
            cancel=desk.cancel,
            unlock=desk.unlock,
        )
        self.api = OtpApi(verbs, policy, desk.clock, OtpMetrics(self.registry, policy.purposes))

    async def request(self, **changes: Any) -> pb.RequestCodeResponse:
        """Ask for a code; without changes, the same request each time."""
        fields: dict[str, Any] = {
            "idempotency_key": "key-1",
            "purpose": PURPOSE.name,
            "subject": REQUEST.subject,
            "email": REQUEST.email,
            "locale": "en",
            "context": REQUEST.context,
            "client": pb.Client(ip="2001:db8::1", device_id="browser-1"),
        }
        return await self.api.RequestCode(pb.RequestCodeRequest(**{**fields, **changes}), NO_CONTEXT)

    async def resend(self, handle: str, key: str = "click-1", **changes: Any) -> pb.ResendCodeResponse:
        """Ask for another letter."""
        request = pb.ResendCodeRequest(handle=handle, idempotency_key=key, **changes)
        return await self.api.ResendCode(request, NO_CONTEXT)

    async def verify(self, handle: str, code: str, key: str = "", **changes: Any) -> pb.VerifyCodeResponse:
        """Type a code."""
        request = pb.VerifyCodeRequest(handle=handle, code=code, idempotency_key=key, **changes)
        return await self.api.VerifyCode(request, NO_CONTEXT)

    async def get(self, handle: str) -> pb.GetChallengeResponse:
        """Look once."""
        return await self.api.GetChallenge(pb.GetChallengeRequest(handle=handle), NO_CONTEXT)

    async def cancel(self, handle: str) -> pb.CancelChallengeResponse:
        """Give a handle back."""
        return await self.api.CancelChallenge(pb.CancelChallengeRequest(handle=handle), NO_CONTEXT)

    async def unlock(self, **changes: str) -> pb.UnlockSubjectResponse:
        """End a lock."""
        fields = {"purpose": PURPOSE.name, "subject": REQUEST.subject, "reason": "phoned, ticket 12", **changes}
        return await self.api.UnlockSubject(pb.UnlockSubjectRequest(**fields), NO_CONTEXT)

    def count(self, name: str, **labels: str) -> float:
        """Return the value of a metric; 0 when there is none."""
        return self.registry.get_sample_value(name, labels) or 0


def instant(stamp: Timestamp) -> datetime:
    """Return the instant that a message tells."""
    return stamp.ToDatetime(tzinfo=NOON.tzinfo)


def fields_told(refusal: InvalidField) -> list[str]:
    """Return the fields that a refusal names on the wire; each is told in Vietnamese and in English."""
    told = error_details_pb2.BadRequest()
    (detail,) = [any_ for any_ in status_of(refusal, "otp.kip").details if any_.Is(told.DESCRIPTOR)]
    detail.Unpack(told)
    for violation in told.field_violations:
        assert violation.localized_message.locale == "vi"
        assert violation.description.startswith(f"{violation.localized_message.message} / ")
        assert " must " in violation.description or " is not " in violation.description
    return [violation.field for violation in told.field_violations]
