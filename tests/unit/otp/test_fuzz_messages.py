"""Whatever message comes: an answer, or a refusal with reason and words; never a fault, and nothing kept of nonsense.

`make fuzz` draws 20 000 and more, and prints how often each call was answered how.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, cast

from google.protobuf.descriptor import Descriptor
from hypothesis import event, given, settings
from hypothesis import strategies as st
from kip.otp.v1 import otp_error_reason_pb2
from kip.otp.v1 import otp_service_pb2 as pb
from prometheus_client import CollectorRegistry

from services.chassis.errors import Kind, ServiceError
from services.chassis.grpc_callers import calling_as
from services.chassis.grpc_refusals import status_of
from services.otp.actions.issue import Issued
from services.otp.inbound.grpc_api import Context, OtpApi, OtpVerbs
from services.otp.metrics import OtpMetrics
from tests.fakes.otp import POLICY
from tests.unit.otp.bounded import taken
from tests.unit.otp.desk import Desk
from tests.unit.otp.strange_messages import CHALLENGE_ID, CODE, HANDLE, METHODS, Call, calls, filled

NO_CONTEXT = cast("Context", None)  # the API looks at messages only
REASONS = {each.name.removeprefix("ERROR_REASON_") for each in otp_error_reason_pb2.ErrorReason.DESCRIPTOR.values[1:]}
MOST_TRAILER_OCTETS = 8 * 1024  # what gRPC peers take of trailers unless they are told otherwise
STAGES = ["waiting", "arrived", "guessed at", "verified", "given back", "ended"]


class Counterpart:
    """The API over in-memory ports, with one challenge at some stage of its life."""

    def __init__(self) -> None:
        self.desk = desk = Desk()
        verbs = OtpVerbs(desk.issue, desk.resend, desk.guard, desk.get, desk.watch, desk.cancel, desk.unlock)
        self.api = OtpApi(verbs, POLICY, desk.clock, OtpMetrics(CollectorRegistry(), POLICY.purposes))

    async def bring_to(self, stage: str) -> dict[str, str]:
        """Live until that stage; return what a caller knows by then."""
        desk, issued = self.desk, await self.desk.ask()
        code = desk.code_of(issued)
        await self._live(stage, issued, code)
        desk.store.calls.clear()
        return {HANDLE: issued.handle, CODE: code, CHALLENGE_ID: issued.challenge.id}

    async def _live(self, stage: str, issued: Issued, code: str) -> None:
        desk = self.desk
        if stage != "waiting":
            await desk.hand_over(issued)
        match stage:
            case "guessed at":
                for guess in range(3):
                    await desk.type_in(issued.handle, desk.wrong_code(issued, guess))
            case "verified":
                await desk.type_in(issued.handle, code)
            case "given back":
                await desk.cancel("portal", issued.handle)
            case "ended":
                desk.later(3600)

    async def answers(self, call: Call) -> list[Any]:
        """Return the responses to a call; of a stream, the first ones."""
        with calling_as("portal", call.scopes):
            answer = getattr(self.api, call.method)(call.request, NO_CONTEXT)
            if isinstance(answer, AsyncGenerator):
                views, _ = await taken(answer)
                return views
            return [await answer]


@settings(max_examples=max(500, settings().max_examples))
@given(call=calls(), stage=st.sampled_from(STAGES))
async def test_any_message_is_answered_or_refused_with_reason_and_words(call: Call, stage: str) -> None:
    counterpart = Counterpart()
    known = await counterpart.bring_to(stage)
    request = filled(call.request, known)
    before = (counterpart.desk.store.challenges(), counterpart.desk.store.outbox())

    try:
        answers = await counterpart.answers(Call(call.method, request, call.scopes))
    except ServiceError as refusal:
        event(f"{call.method}: {refusal.reason}")
        _demand_words(refusal)
        _demand_fields(refusal, request.DESCRIPTOR)
        if refusal.kind in {Kind.INVALID, Kind.FORBIDDEN}:
            assert counterpart.desk.store.calls == []
            assert (counterpart.desk.store.challenges(), counterpart.desk.store.outbox()) == before
    else:
        event(f"{call.method}: {', '.join(map(_told, answers)) or 'nothing'}")
        for answer in answers:
            _demand_answer(call.method, answer)


def test_every_call_of_the_service_is_drawn() -> None:
    assert set(METHODS) == {name for name in dir(OtpApi) if name[0].isupper()}


def _demand_words(refusal: ServiceError) -> None:
    assert refusal.reason in REASONS
    sentences = [refusal.words, *(violation.words for violation in refusal.violations)]
    for words in sentences:
        assert words.vi.strip()
        assert words.en.strip()
        assert words.vi != words.en
    assert len(status_of(refusal, "otp.kip").SerializeToString()) < MOST_TRAILER_OCTETS


def _demand_fields(refusal: ServiceError, descriptor: Descriptor) -> None:
    """Each violation names a field that the message has."""
    for violation in refusal.violations:
        where: Descriptor | None = descriptor
        for name in violation.field.split("."):
            assert where is not None
            where = where.fields_by_name[name].message_type


def _demand_answer(method: str, answer: Any) -> None:
    expected = pb.DESCRIPTOR.services_by_name["OtpService"].methods_by_name[method].output_type
    assert answer.DESCRIPTOR is expected
    assert type(answer).FromString(answer.SerializeToString()) == answer
    if isinstance(answer, pb.VerifyCodeResponse):
        assert answer.WhichOneof("outcome")
    elif expected.fields_by_name.get("challenge") is not None and answer.HasField("challenge"):
        assert answer.challenge.state
        assert all(letter.fate and letter.cause for letter in answer.challenge.letters)


def _told(answer: Any) -> str:
    if isinstance(answer, pb.VerifyCodeResponse):
        return str(answer.WhichOneof("outcome"))
    return "a challenge" if any(field.name == "challenge" for field, _ in answer.ListFields()) else "an answer"
