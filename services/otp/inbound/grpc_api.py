"""`kip.otp.v1.OtpService`: message ↔ domain, and counting what was returned."""

from __future__ import annotations

from datetime import datetime
from typing import Any, assert_never

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from kip.otp.v1 import otp_service_pb2, otp_service_pb2_grpc

from services.chassis.clock import Clock
from services.chassis.grpc_server import caller
from services.otp.actions.issue import IssueCode, QuotaExceeded, RequestCode
from services.otp.actions.verify import VerifyCode
from services.otp.actions.watch import GetChallenge
from services.otp.inbound import grpc_fields
from services.otp.inbound.grpc_fields import OtpFieldChecks
from services.otp.metrics import OtpMetrics
from services.otp.rules import verdict as verdicts
from services.otp.rules.challenge import Cause, Fate, State
from services.otp.rules.policy import AdviceKind
from services.otp.rules.view import ChallengeView, LetterView

SERVICE_NAME = otp_service_pb2.DESCRIPTOR.services_by_name["OtpService"].full_name
MAX_CODE = 64  # characters of a typed code, spaces and dashes included
MAX_HANDLE = 128

STATES = {
    State.OPEN: otp_service_pb2.CHALLENGE_STATE_OPEN,
    State.VERIFIED: otp_service_pb2.CHALLENGE_STATE_VERIFIED,
    State.SPENT: otp_service_pb2.CHALLENGE_STATE_SPENT,
    State.ENDED: otp_service_pb2.CHALLENGE_STATE_ENDED,
}
FATES = {
    Fate.QUEUED: otp_service_pb2.LETTER_FATE_QUEUED,
    Fate.HANDED_OVER: otp_service_pb2.LETTER_FATE_HANDED_OVER,
    Fate.DEFERRED: otp_service_pb2.LETTER_FATE_DEFERRED,
    Fate.DELIVERED: otp_service_pb2.LETTER_FATE_DELIVERED,
    Fate.BOUNCED: otp_service_pb2.LETTER_FATE_BOUNCED,
    Fate.REFUSED: otp_service_pb2.LETTER_FATE_REFUSED,
    Fate.DROPPED: otp_service_pb2.LETTER_FATE_DROPPED,
}
CAUSES = {Cause.REQUESTED: otp_service_pb2.LETTER_CAUSE_REQUESTED}
ADVICE = {
    AdviceKind.WAIT: otp_service_pb2.ADVICE_KIND_WAIT,
    AdviceKind.CHECK_SPAM: otp_service_pb2.ADVICE_KIND_CHECK_SPAM,
    AdviceKind.TYPE_IT: otp_service_pb2.ADVICE_KIND_TYPE_IT,
    AdviceKind.OTHER_CHANNEL: otp_service_pb2.ADVICE_KIND_OTHER_CHANNEL,
}

Context = grpc.aio.ServicerContext[Any, Any]


class OtpApi(otp_service_pb2_grpc.OtpServiceServicer):
    """The API over the verbs."""

    def __init__(
        self, issue: IssueCode, verify: VerifyCode, get: GetChallenge, clock: Clock, metrics: OtpMetrics
    ) -> None:
        """Serve these verbs."""
        self._issue = issue
        self._verify = verify
        self._get = get
        self._clock = clock
        self._metrics = metrics

    async def RequestCode(  # noqa: N802 - the name of the RPC
        self, request: otp_service_pb2.RequestCodeRequest, context: Context
    ) -> otp_service_pb2.RequestCodeResponse:
        """Implements the RPC."""
        del context
        wish = _request(request)
        try:
            issued = await self._issue(wish, self._clock())
        except QuotaExceeded:
            self._metrics.requests.labels(wish.purpose, "too_soon").inc()
            raise
        self._metrics.requests.labels(wish.purpose, issued.outcome).inc()
        return otp_service_pb2.RequestCodeResponse(
            handle=issued.handle, challenge=_challenge(issued.challenge), joined=issued.joined
        )

    async def VerifyCode(  # noqa: N802 - the name of the RPC
        self, request: otp_service_pb2.VerifyCodeRequest, context: Context
    ) -> otp_service_pb2.VerifyCodeResponse:
        """Implements the RPC."""
        del context
        checks = OtpFieldChecks()
        handle = checks.text("handle", request.handle, shortest=1, longest=MAX_HANDLE)
        code = checks.code("code", request.code, longest=MAX_CODE)
        checks.done()
        verdict = await self._verify(caller(), handle, code, self._clock())
        self._metrics.verdicts.labels(type(verdict).__name__.lower()).inc()
        return _verdict(verdict)

    async def GetChallenge(  # noqa: N802 - the name of the RPC
        self, request: otp_service_pb2.GetChallengeRequest, context: Context
    ) -> otp_service_pb2.GetChallengeResponse:
        """Implements the RPC."""
        del context
        checks = OtpFieldChecks()
        handle = checks.text("handle", request.handle, shortest=1, longest=MAX_HANDLE)
        checks.done()
        seen = await self._get(caller(), handle)
        return otp_service_pb2.GetChallengeResponse(challenge=_challenge(seen) if seen else None)


def _request(request: otp_service_pb2.RequestCodeRequest) -> RequestCode:
    checks = OtpFieldChecks()
    wish = RequestCode(
        caller=caller(),
        idempotency_key=checks.text(
            "idempotency_key", request.idempotency_key, shortest=1, longest=grpc_fields.MAX_KEY
        ),
        purpose=checks.text("purpose", request.purpose, shortest=1, longest=grpc_fields.MAX_PURPOSE),
        subject=checks.text("subject", request.subject, shortest=1, longest=grpc_fields.MAX_SUBJECT),
        email=checks.email("email", request.email),
        locale=checks.locale("locale", request.locale),
        context=checks.text("context", request.context, longest=grpc_fields.MAX_CONTEXT),
        decoy=request.decoy,
    )
    checks.text("client.ip", request.client.ip, longest=grpc_fields.MAX_IP)
    checks.text("client.device_id", request.client.device_id, longest=grpc_fields.MAX_SUBJECT)
    checks.done()
    return wish


def _verdict(verdict: verdicts.Verdict) -> otp_service_pb2.VerifyCodeResponse:
    answer = otp_service_pb2.VerifyCodeResponse
    match verdict:
        case verdicts.Accepted(verified_at, context):
            accepted = otp_service_pb2.Accepted(verified_at=_timestamp(verified_at), context=context)
            return answer(accepted=accepted)
        case verdicts.Wrong(attempts_left):
            return answer(wrong=otp_service_pb2.Wrong(attempts_left=attempts_left))
        case verdicts.Expired():
            return answer(expired=otp_service_pb2.Expired())
        case verdicts.Locked(retry_at):
            return answer(locked=otp_service_pb2.Locked(retry_at=_timestamp(retry_at)))
        case verdicts.Used():
            return answer(used=otp_service_pb2.Used())
        case verdicts.Unknown():
            return answer(unknown=otp_service_pb2.Unknown())
    assert_never(verdict)


def _challenge(seen: ChallengeView) -> otp_service_pb2.Challenge:
    advice = otp_service_pb2.Advice(
        kind=ADVICE[seen.advice.kind],
        until=_timestamp(seen.advice.until),
        text=seen.advice.text,
        alternatives=seen.advice.alternatives,
    )
    return otp_service_pb2.Challenge(
        challenge_id=seen.id,
        version=seen.version,
        purpose=seen.purpose,
        state=STATES[seen.state],
        code_length=seen.code_length,
        attempts_left=seen.attempts_left,
        resend_allowed_at=_timestamp(seen.resend_allowed_at),
        ends_at=_timestamp(seen.ends_at),
        verified_at=_timestamp(seen.verified_at),
        letters=[_letter(letter) for letter in seen.letters],
        advice=advice,
    )


def _letter(letter: LetterView) -> otp_service_pb2.Letter:
    return otp_service_pb2.Letter(
        reference=letter.reference,
        fate=FATES[letter.fate],
        cause=CAUSES[letter.cause],
        queued_at=_timestamp(letter.queued_at),
        handed_over_at=_timestamp(letter.handed_over_at),
        delivered_at=_timestamp(letter.delivered_at),
        good_until=_timestamp(letter.good_until),
    )


def _timestamp(instant: datetime | None) -> Timestamp | None:
    if instant is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(instant)
    return stamp
