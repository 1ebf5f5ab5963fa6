"""`kip.otp.v1.OtpService`: message ↔ domain, and counting what was returned."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, assert_never

import grpc
import structlog
from google.protobuf.timestamp_pb2 import Timestamp
from kip.otp.v1 import otp_service_pb2, otp_service_pb2_grpc

from services.chassis.clock import Clock
from services.chassis.grpc_server import caller, demand_purpose, demand_scope
from services.otp.actions.cancel import CancelChallenge
from services.otp.actions.guard import GuardGuesses
from services.otp.actions.issue import IssueCode, QuotaExceeded, RequestCode, UnknownPurpose
from services.otp.actions.resend import ResendCode, ResendOutcome
from services.otp.actions.unlock import UnlockSubject
from services.otp.actions.watch import GetChallenge, WatchChallenge
from services.otp.inbound import grpc_fields
from services.otp.inbound.grpc_fields import OtpFieldChecks
from services.otp.metrics import OtpMetrics
from services.otp.rules import verdict as verdicts
from services.otp.rules.challenge import Stall, State
from services.otp.rules.generation import Cause, Fate
from services.otp.rules.policy import AdviceKind, Policy
from services.otp.rules.refusal import LimitReached, NotAdmitted, Overloaded
from services.otp.rules.view import Advice, ChallengeView, LetterView, advice_to_nobody

SERVICE_NAME = otp_service_pb2.DESCRIPTOR.services_by_name["OtpService"].full_name
UNLOCK = "unlock"  # the scope that UnlockSubject demands

STATES = {
    State.OPEN: otp_service_pb2.CHALLENGE_STATE_OPEN,
    State.VERIFIED: otp_service_pb2.CHALLENGE_STATE_VERIFIED,
    State.CANCELLED: otp_service_pb2.CHALLENGE_STATE_CANCELLED,
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
CAUSES = {
    Cause.REQUESTED: otp_service_pb2.LETTER_CAUSE_REQUESTED,
    Cause.RESENT: otp_service_pb2.LETTER_CAUSE_RESENT,
    Cause.REISSUED: otp_service_pb2.LETTER_CAUSE_REISSUED,
}
STALLS = {
    Stall.CHANNEL_SLOW: otp_service_pb2.STALL_REASON_CHANNEL_SLOW,
    Stall.BUDGET: otp_service_pb2.STALL_REASON_BUDGET,
    Stall.QUOTA: otp_service_pb2.STALL_REASON_QUOTA,
    Stall.OVERLOAD: otp_service_pb2.STALL_REASON_OVERLOAD,
}
RESENDS = {
    ResendOutcome.QUEUED: otp_service_pb2.RESEND_OUTCOME_QUEUED,
    ResendOutcome.STILL_QUEUED: otp_service_pb2.RESEND_OUTCOME_STILL_QUEUED,
    ResendOutcome.NOT_YET: otp_service_pb2.RESEND_OUTCOME_NOT_YET,
    ResendOutcome.NOT_OPEN: otp_service_pb2.RESEND_OUTCOME_NOT_OPEN,
}
ADVICE = {
    AdviceKind.WAIT: otp_service_pb2.ADVICE_KIND_WAIT,
    AdviceKind.CHECK_SPAM: otp_service_pb2.ADVICE_KIND_CHECK_SPAM,
    AdviceKind.TYPE_IT: otp_service_pb2.ADVICE_KIND_TYPE_IT,
    AdviceKind.OTHER_CHANNEL: otp_service_pb2.ADVICE_KIND_OTHER_CHANNEL,
    AdviceKind.CALL: otp_service_pb2.ADVICE_KIND_CALL,
    AdviceKind.ASK_AGAIN: otp_service_pb2.ADVICE_KIND_ASK_AGAIN,
}

REFUSALS = {QuotaExceeded: "too_soon", LimitReached: "limit_reached", Overloaded: "overloaded"}

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class OtpVerbs:
    """What the API calls."""

    issue: IssueCode
    resend: ResendCode
    guard: GuardGuesses
    get: GetChallenge
    watch: WatchChallenge
    cancel: CancelChallenge
    unlock: UnlockSubject


class OtpApi(otp_service_pb2_grpc.OtpServiceServicer):
    """The API over the verbs."""

    def __init__(self, verbs: OtpVerbs, policy: Policy, clock: Clock, metrics: OtpMetrics) -> None:
        """Serve these verbs."""
        self._verbs = verbs
        self._policy = policy
        self._clock = clock
        self._metrics = metrics

    async def RequestCode(  # noqa: N802 - the name of the RPC
        self, request: otp_service_pb2.RequestCodeRequest, context: Context
    ) -> otp_service_pb2.RequestCodeResponse:
        """Implements the RPC."""
        del context
        wish = _request(request)
        demand_purpose(wish.purpose)
        try:
            with self._limits_counted():
                issued = await self._verbs.issue(wish, self._clock())
        except (QuotaExceeded, NotAdmitted) as refusal:
            self._metrics.requests.labels(wish.purpose, REFUSALS[type(refusal)]).inc()
            raise
        self._metrics.requests.labels(wish.purpose, issued.outcome).inc()
        return otp_service_pb2.RequestCodeResponse(
            handle=issued.handle, challenge=_challenge(issued.challenge), joined=issued.joined
        )

    async def ResendCode(  # noqa: N802 - the name of the RPC
        self, request: otp_service_pb2.ResendCodeRequest, context: Context
    ) -> otp_service_pb2.ResendCodeResponse:
        """Implements the RPC."""
        del context
        checks = OtpFieldChecks()
        handle = checks.handle("handle", request.handle)
        key = checks.key("idempotency_key", request.idempotency_key)
        client = checks.client("client", request.client.ip, request.client.device_id)
        checks.done()
        with self._limits_counted():
            answer = await self._verbs.resend(caller(), handle, key, self._clock(), client=client)
        self._metrics.resends.labels(answer.outcome.value).inc()
        return otp_service_pb2.ResendCodeResponse(
            outcome=RESENDS[answer.outcome], challenge=_challenge(answer.challenge) if answer.challenge else None
        )

    async def VerifyCode(  # noqa: N802 - the name of the RPC
        self, request: otp_service_pb2.VerifyCodeRequest, context: Context
    ) -> otp_service_pb2.VerifyCodeResponse:
        """Implements the RPC."""
        del context
        checks = OtpFieldChecks()
        handle = checks.handle("handle", request.handle)
        code = checks.code("code", request.code)
        key = checks.key("idempotency_key", request.idempotency_key, shortest=0)
        client = checks.client("client", request.client.ip, request.client.device_id)
        checks.done()
        verdict = await self._verbs.guard(caller(), handle, code, key, self._clock(), client=client)
        self._metrics.verdicts.labels(type(verdict).__name__.lower()).inc()
        return _verdict(verdict, advice_to_nobody(self._policy))

    async def GetChallenge(  # noqa: N802 - the name of the RPC
        self, request: otp_service_pb2.GetChallengeRequest, context: Context
    ) -> otp_service_pb2.GetChallengeResponse:
        """Implements the RPC."""
        del context
        seen = await self._verbs.get(caller(), _handle(request.handle))
        return otp_service_pb2.GetChallengeResponse(challenge=_challenge(seen) if seen else None)

    async def WatchChallenge(  # noqa: N802 - the name of the RPC
        self, request: otp_service_pb2.WatchChallengeRequest, context: Context
    ) -> AsyncIterator[otp_service_pb2.WatchChallengeResponse]:
        """Implements the RPC."""
        del context
        async with aclosing(self._verbs.watch(caller(), _handle(request.handle), request.after_version)) as views:
            async for seen in views:
                yield otp_service_pb2.WatchChallengeResponse(challenge=_challenge(seen))

    async def CancelChallenge(  # noqa: N802 - the name of the RPC
        self, request: otp_service_pb2.CancelChallengeRequest, context: Context
    ) -> otp_service_pb2.CancelChallengeResponse:
        """Implements the RPC."""
        del context
        if await self._verbs.cancel(caller(), _handle(request.handle)):
            self._metrics.cancels.inc()
        return otp_service_pb2.CancelChallengeResponse()

    async def UnlockSubject(  # noqa: N802 - the name of the RPC
        self, request: otp_service_pb2.UnlockSubjectRequest, context: Context
    ) -> otp_service_pb2.UnlockSubjectResponse:
        """Implements the RPC."""
        del context
        demand_scope(UNLOCK)
        checks = OtpFieldChecks()
        purpose = checks.text("purpose", request.purpose, shortest=1, longest=grpc_fields.MAX_PURPOSE)
        subject = checks.text("subject", request.subject, shortest=1, longest=grpc_fields.MAX_SUBJECT)
        reason = checks.text("reason", request.reason, shortest=1, longest=grpc_fields.MAX_REASON)
        checks.done()
        demand_purpose(purpose)
        if self._policy.find(purpose) is None:
            raise UnknownPurpose(purpose)
        done = await self._verbs.unlock(purpose, subject, self._clock())
        structlog.get_logger().info(
            "subject_unlocked",
            caller=caller(),
            purpose=purpose,
            subject=done.subject_key,
            was_locked=done.was_locked,
            reason=reason,
        )
        return otp_service_pb2.UnlockSubjectResponse(was_locked=done.was_locked)

    @contextmanager
    def _limits_counted(self) -> Iterator[None]:
        try:
            yield
        except LimitReached as refusal:
            for dimension in refusal.exceeded:
                self._metrics.limits_reached.labels(dimension).inc()
            raise


def _handle(value: str) -> str:
    checks = OtpFieldChecks()
    handle = checks.handle("handle", value)
    checks.done()
    return handle


def _request(request: otp_service_pb2.RequestCodeRequest) -> RequestCode:
    checks = OtpFieldChecks()
    wish = RequestCode(
        caller=caller(),
        idempotency_key=checks.key("idempotency_key", request.idempotency_key),
        purpose=checks.text("purpose", request.purpose, shortest=1, longest=grpc_fields.MAX_PURPOSE),
        subject=checks.text("subject", request.subject, shortest=1, longest=grpc_fields.MAX_SUBJECT),
        email=checks.email("email", request.email),
        locale=checks.locale("locale", request.locale),
        context=checks.text("context", request.context, longest=grpc_fields.MAX_CONTEXT),
        decoy=request.decoy,
        client=checks.client("client", request.client.ip, request.client.device_id),
    )
    checks.done()
    return wish


def _verdict(verdict: verdicts.Verdict, to_nobody: Advice | None) -> otp_service_pb2.VerifyCodeResponse:
    answer = otp_service_pb2.VerifyCodeResponse
    match verdict:
        case verdicts.Accepted(verified_at, context):
            accepted = otp_service_pb2.Accepted(verified_at=_timestamp(verified_at), context=context)
            return answer(accepted=accepted)
        case verdicts.Wrong(attempts_left):
            return answer(wrong=otp_service_pb2.Wrong(attempts_left=attempts_left))
        case verdicts.Expired(reference, expected_at):
            expired = otp_service_pb2.Expired(
                reissued=bool(reference), reference=reference, expected_at=_timestamp(expected_at)
            )
            return answer(expired=expired)
        case verdicts.Locked(retry_at):
            return answer(locked=otp_service_pb2.Locked(retry_at=_timestamp(retry_at)))
        case verdicts.Used():
            return answer(used=otp_service_pb2.Used())
        case verdicts.Unknown():
            return answer(unknown=otp_service_pb2.Unknown(advice=_advice(to_nobody) if to_nobody else None))
    assert_never(verdict)


def _challenge(seen: ChallengeView) -> otp_service_pb2.Challenge:
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
        advice=_advice(seen.advice) if seen.advice else None,
        stalled=STALLS[seen.stalled] if seen.stalled else otp_service_pb2.STALL_REASON_UNSPECIFIED,
    )


def _advice(advice: Advice) -> otp_service_pb2.Advice:
    hotline = advice.hotline
    return otp_service_pb2.Advice(
        kind=ADVICE[advice.kind],
        until=_timestamp(advice.until),
        text=advice.text,
        alternatives=advice.alternatives,
        hotline=otp_service_pb2.Hotline(
            phone=hotline.phone, hours=hotline.text, open_now=advice.kind is AdviceKind.CALL
        )
        if hotline
        else None,
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
        wanted_until=_timestamp(letter.wanted_until),
        place=letter.place,
        expected_at=_timestamp(letter.expected_at),
    )


def _timestamp(instant: datetime | None) -> Timestamp | None:
    if instant is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(instant)
    return stamp
