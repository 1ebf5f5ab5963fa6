"""The demo as a caller: what a platform's portal says to `otp`, and an office to `dossier`, over gRPC."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar, cast

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from kip.dossier.v1 import dossier_service_pb2 as dossiers
from kip.dossier.v1 import dossier_service_pb2_grpc
from kip.otp.v1 import otp_service_pb2 as codes
from kip.otp.v1 import otp_service_pb2_grpc

from deploy.dev.problem import LaptopProblem

T = TypeVar("T")

ANSWER_WITHIN_S = 10.0
PURPOSE = "confirm-email"
PROCEDURE = "book-reissue"


class Refused(LaptopProblem):
    """A service said no; the text is what it said."""


class Portal:
    """A caller of both services; a context manager.

    Args:
        otp_address, dossier_address: `host:port`.
        token: the caller's.
    """

    def __init__(self, otp_address: str, dossier_address: str, token: str) -> None:
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._channels = [grpc.insecure_channel(address) for address in (otp_address, dossier_address)]
        self._otp = otp_service_pb2_grpc.OtpServiceStub(self._channels[0])
        self._dossiers = dossier_service_pb2_grpc.DossierServiceStub(self._channels[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for channel in self._channels:
            channel.close()

    def request_code(self, email: str, context: str) -> codes.RequestCodeResponse:
        """Ask for a code. Every method here raises `Refused` when the service says no."""
        request = codes.RequestCodeRequest(
            idempotency_key=str(uuid.uuid4()), purpose=PURPOSE, subject="demo-account", email=email, context=context
        )
        return self._answer(lambda: self._otp.RequestCode(request, metadata=self._metadata, timeout=ANSWER_WITHIN_S))

    def verify(self, handle: str, code: str) -> codes.VerifyCodeResponse:
        """Show what was typed."""
        request = codes.VerifyCodeRequest(handle=handle, code=code)
        return self._answer(lambda: self._otp.VerifyCode(request, metadata=self._metadata, timeout=ANSWER_WITHIN_S))

    def look(self, handle: str) -> codes.Challenge:
        """Ask where the mail is."""
        request = codes.GetChallengeRequest(handle=handle)
        return self._answer(
            lambda: self._otp.GetChallenge(request, metadata=self._metadata, timeout=ANSWER_WITHIN_S)
        ).challenge

    def open_dossier(self, email: str) -> dossiers.Dossier:
        """File a dossier."""
        request = dossiers.OpenDossierRequest(
            idempotency_key=str(uuid.uuid4()), procedure=PROCEDURE, subject="demo-account", email=email
        )
        return self._answer(
            lambda: self._dossiers.OpenDossier(request, metadata=self._metadata, timeout=ANSWER_WITHIN_S)
        ).dossier

    def accept(self, dossier: dossiers.Dossier) -> dossiers.Dossier:
        """Move a dossier on: the office takes it in."""
        request = dossiers.AdvanceDossierRequest(
            dossier_id=dossier.dossier_id, expected_version=dossier.version, to=dossiers.DOSSIER_STATE_ACCEPTED
        )
        return self._answer(
            lambda: self._dossiers.AdvanceDossier(request, metadata=self._metadata, timeout=ANSWER_WITHIN_S)
        ).dossier

    def _answer(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except grpc.RpcError as error:
            raise Refused(words_of(cast("grpc.Call", error))) from error


def words_of(refusal: grpc.Call) -> str:
    """Return what a service said for people: its sentences in both languages, and each field that it found wrong."""
    status = rpc_status.from_call(refusal)
    lines = []
    for detail in () if status is None else status.details:
        if detail.Is(error_details_pb2.LocalizedMessage.DESCRIPTOR):
            lines.append(error_details_pb2.LocalizedMessage.FromString(detail.value).message)
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            wrong = error_details_pb2.BadRequest.FromString(detail.value).field_violations
            lines += [f"  {violation.field}: {violation.description}" for violation in wrong]
    return "\n".join(lines or [f"The service answered {refusal.code().name}: {refusal.details()}"])
