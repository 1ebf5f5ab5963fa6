"""What a platform service is to Kịp: a caller with a token that asks for codes, shows what was typed, files dossiers.

Speaks the public contract only. A channel finds a restarted service again within half a second.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, cast

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from kip.dossier.v1 import dossier_service_pb2, dossier_service_pb2_grpc
from kip.otp.v1 import otp_service_pb2, otp_service_pb2_grpc

from tests.conditions import wait_until

ANSWER_WITHIN_S = 10.0
HEARD_WITHIN_S = 60.0
COMES_BACK_SOON = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.enable_retries", 0),  # a test says itself what is tried again
)


@dataclass(frozen=True, slots=True)
class Citizen:
    """Somebody nobody else in the suite is."""

    name: str
    context: str = "Nộp hồ sơ cấp lại sổ bảo hiểm xã hội"
    mark: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    domain: str = "example.vn"

    @property
    def email(self) -> str:
        """Return their address."""
        return f"{self.name}.{self.mark}@{self.domain}"

    @property
    def subject(self) -> str:
        """Return what the portal calls them."""
        return f"account-{self.mark}"


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a refused caller is told."""

    status: grpc.StatusCode
    reason: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)
    """Sentences by language."""
    violations: Mapping[str, str] = field(default_factory=dict)
    """Field → rule, `vi / en`."""
    retry_after_s: float | None = None


def refusal_of(error: grpc.RpcError) -> Refusal:
    """Read the rich status of an error."""
    call = cast("grpc.Call", error)
    status = rpc_status.from_call(call)
    told: dict[str, Any] = {"words": {}, "violations": {}}
    for packed in () if status is None else status.details:
        if packed.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo.FromString(packed.value)
            told |= {"reason": info.reason, "metadata": dict(info.metadata)}
        elif packed.Is(error_details_pb2.LocalizedMessage.DESCRIPTOR):
            message = error_details_pb2.LocalizedMessage.FromString(packed.value)
            told["words"][message.locale] = message.message
        elif packed.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            delay = error_details_pb2.RetryInfo.FromString(packed.value).retry_delay
            told["retry_after_s"] = delay.ToTimedelta().total_seconds()
        elif packed.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            bad = error_details_pb2.BadRequest.FromString(packed.value)
            told["violations"] |= {each.field: each.description for each in bad.field_violations}
    return Refusal(call.code(), **told)


def refused(call: Callable[[], object]) -> Refusal:
    """Make a call that must be refused; return what was told.

    Raises:
        AssertionError: it was answered.
    """
    try:
        answer = call()
    except grpc.RpcError as error:
        return refusal_of(error)
    raise AssertionError(f"this should have been refused, and was answered: {answer}")


class Portal:
    """One caller; a context manager.

    Args:
        otp_address, dossier_address: `host:port`.
        token: of the callers file; empty to send none.
    """

    def __init__(self, otp_address: str, dossier_address: str, token: str) -> None:
        self.metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self._channels = [grpc.insecure_channel(to, COMES_BACK_SOON) for to in (otp_address, dossier_address)]
        self.otp = otp_service_pb2_grpc.OtpServiceStub(self._channels[0])
        self.dossiers = dossier_service_pb2_grpc.DossierServiceStub(self._channels[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for channel in self._channels:
            channel.close()

    def request(
        self, citizen: Citizen, *, key: str = "", within_s: float = ANSWER_WITHIN_S, **fields: Any
    ) -> otp_service_pb2.RequestCodeResponse:
        """Ask for a code for a citizen; `fields` stand in for those of the message."""
        wish = {
            "idempotency_key": key or uuid.uuid4().hex,
            "purpose": "confirm-email",
            "subject": citizen.subject,
            "email": citizen.email,
            "context": citizen.context,
        }
        request = otp_service_pb2.RequestCodeRequest(**wish | fields)
        return self.otp.RequestCode(request, metadata=self.metadata, timeout=within_s)

    def resend(self, handle: str, *, key: str = "") -> otp_service_pb2.ResendCodeResponse:
        """Ask for another letter."""
        request = otp_service_pb2.ResendCodeRequest(handle=handle, idempotency_key=key or uuid.uuid4().hex)
        return self.otp.ResendCode(request, metadata=self.metadata, timeout=ANSWER_WITHIN_S)

    def cancel(self, handle: str) -> None:
        """Give a handle back."""
        request = otp_service_pb2.CancelChallengeRequest(handle=handle)
        self.otp.CancelChallenge(request, metadata=self.metadata, timeout=ANSWER_WITHIN_S)

    def unlock(self, citizen: Citizen, *, purpose: str = "confirm-email") -> bool:
        """End the lock of a citizen; say whether there was one."""
        request = otp_service_pb2.UnlockSubjectRequest(purpose=purpose, subject=citizen.subject, reason="they called")
        return self.otp.UnlockSubject(request, metadata=self.metadata, timeout=ANSWER_WITHIN_S).was_locked

    def watch(self, handle: str, *, after: int = 0) -> Iterator[otp_service_pb2.Challenge]:
        """Watch a challenge until it ends, or until the iterator is dropped."""
        request = otp_service_pb2.WatchChallengeRequest(handle=handle, after_version=after)
        stream = self.otp.WatchChallenge(request, metadata=self.metadata, timeout=HEARD_WITHIN_S)
        try:
            for news in stream:
                yield news.challenge
        finally:
            stream.cancel()

    def verify(self, handle: str, code: str, *, key: str = "") -> otp_service_pb2.VerifyCodeResponse:
        """Show what was typed."""
        request = otp_service_pb2.VerifyCodeRequest(handle=handle, code=code, idempotency_key=key)
        return self.otp.VerifyCode(request, metadata=self.metadata, timeout=ANSWER_WITHIN_S)

    def outcome(self, handle: str, code: str) -> str:
        """Show what was typed; return the word for what came of it, such as `accepted`."""
        return str(self.verify(handle, code).WhichOneof("outcome"))

    def look(self, handle: str) -> otp_service_pb2.Challenge:
        """Ask where the mail is."""
        request = otp_service_pb2.GetChallengeRequest(handle=handle)
        return self.otp.GetChallenge(request, metadata=self.metadata, timeout=ANSWER_WITHIN_S).challenge

    def fate(self, handle: str) -> str:
        """Return the word for where the newest letter is, such as `HANDED_OVER`."""
        fate = self.look(handle).letters[0].fate
        return otp_service_pb2.LetterFate.Name(fate).removeprefix("LETTER_FATE_")

    def wait_for_fate(self, handle: str, fate: str) -> otp_service_pb2.Challenge:
        """Wait until otp has heard that about the newest letter; return the challenge."""
        wait_until(lambda: self.fate(handle) == fate, within_s=HEARD_WITHIN_S, what=f"otp hears of {fate}")
        return self.look(handle)

    def open_dossier(self, citizen: Citizen, *, key: str = "", **fields: Any) -> dossier_service_pb2.Dossier:
        """File a dossier for a citizen."""
        wish = {
            "idempotency_key": key or uuid.uuid4().hex,
            "procedure": "book-reissue",
            "subject": citizen.subject,
            "name": citizen.name,
            "email": citizen.email,
        }
        request = dossier_service_pb2.OpenDossierRequest(**wish | fields)
        return self.dossiers.OpenDossier(request, metadata=self.metadata, timeout=ANSWER_WITHIN_S).dossier

    def advance(
        self, dossier: dossier_service_pb2.Dossier, to: dossier_service_pb2.DossierState.ValueType, *, remark: str = ""
    ) -> dossier_service_pb2.Dossier:
        """Move a dossier on from the version that is held."""
        request = dossier_service_pb2.AdvanceDossierRequest(
            dossier_id=dossier.dossier_id, expected_version=dossier.version, to=to, remark=remark
        )
        return self.dossiers.AdvanceDossier(request, metadata=self.metadata, timeout=ANSWER_WITHIN_S).dossier

    def dossier(self, dossier_id: str) -> dossier_service_pb2.Dossier:
        """Ask where a dossier is."""
        request = dossier_service_pb2.GetDossierRequest(dossier_id=dossier_id)
        return self.dossiers.GetDossier(request, metadata=self.metadata, timeout=ANSWER_WITHIN_S).dossier
