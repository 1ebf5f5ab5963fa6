"""`kip.dossier.v1.DossierService`: messages to our words and back, and nothing else. Outcomes are counted here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from kip.dossier.v1 import dossier_service_pb2 as pb
from kip.dossier.v1 import dossier_service_pb2_grpc
from prometheus_client import Counter

from services.chassis.errors import ServiceError
from services.chassis.events import current_trace
from services.chassis.grpc_server import caller
from services.dossier.actions.advance import AdvanceDossier
from services.dossier.actions.find import FindDossier
from services.dossier.actions.open import OpenDossier
from services.dossier.inbound.grpc_fields import DossierFieldChecks
from services.dossier.metrics import DossierMetrics
from services.dossier.rules.dossier import Dossier, DossierId, Filing, Order, Step
from services.dossier.rules.notice import Addressee, Fate, Notice
from services.dossier.rules.procedure import State

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["DossierService"].full_name
STATES = frozenset(state.value for state in State)
FATES: dict[Fate, pb.NoticeFate.ValueType] = {
    Fate.QUEUED: pb.NOTICE_FATE_QUEUED,
    Fate.DEFERRED: pb.NOTICE_FATE_DEFERRED,
    Fate.DROPPED: pb.NOTICE_FATE_DROPPED,
    Fate.DEAD_LETTERED: pb.NOTICE_FATE_DROPPED,
    Fate.REFUSED: pb.NOTICE_FATE_REFUSED,
    Fate.HANDED_OVER: pb.NOTICE_FATE_HANDED_OVER,
    Fate.DELIVERED: pb.NOTICE_FATE_DELIVERED,
    Fate.BOUNCED: pb.NOTICE_FATE_BOUNCED,
}


Context = grpc.aio.ServicerContext[Any, Any]


class DossierApi(dossier_service_pb2_grpc.DossierServiceServicer):
    """The public API."""

    def __init__(
        self, open_dossier: OpenDossier, advance: AdvanceDossier, find: FindDossier, metrics: DossierMetrics
    ) -> None:
        self._open = open_dossier
        self._advance = advance
        self._find = find
        self._metrics = metrics

    async def OpenDossier(  # noqa: N802 - the contract's name
        self, request: pb.OpenDossierRequest, context: Context
    ) -> pb.OpenDossierResponse:
        """Register a dossier and mail its first notice."""
        del context
        with _refusals_counted(self._metrics.openings):
            filing, key = _filing(request)
            opened = await self._open(filing, caller=caller(), idempotency_key=key, trace=current_trace())
        self._metrics.openings.labels("repeated" if opened.repeated else "opened").inc()
        return pb.OpenDossierResponse(dossier=_dossier(opened.dossier))

    async def AdvanceDossier(  # noqa: N802 - the contract's name
        self, request: pb.AdvanceDossierRequest, context: Context
    ) -> pb.AdvanceDossierResponse:
        """Move a dossier to another state and mail a notice."""
        del context
        with _refusals_counted(self._metrics.moves):
            advanced = await self._advance(_order(request))
        self._metrics.moves.labels("repeated" if advanced.repeated else "moved").inc()
        return pb.AdvanceDossierResponse(dossier=_dossier(advanced.dossier))

    async def GetDossier(  # noqa: N802 - the contract's name
        self, request: pb.GetDossierRequest, context: Context
    ) -> pb.GetDossierResponse:
        """Tell where a dossier is."""
        del context
        checks = DossierFieldChecks()
        dossier_id = checks.uuid("dossier_id", request.dossier_id)
        checks.done()
        return pb.GetDossierResponse(dossier=_dossier(await self._find(DossierId(dossier_id))))


@contextmanager
def _refusals_counted(counter: Counter) -> Iterator[None]:
    try:
        yield
    except ServiceError as refusal:
        counter.labels(refusal.reason.lower()).inc()
        raise


def _filing(request: pb.OpenDossierRequest) -> tuple[Filing, str]:
    checks = DossierFieldChecks()
    key = checks.text("idempotency_key", request.idempotency_key, shortest=1, longest=128)
    filing = Filing(
        procedure=checks.text("procedure", request.procedure, shortest=1, longest=64),
        subject=checks.text("subject", request.subject, shortest=1, longest=128),
        addressee=Addressee(
            email=checks.email("email", request.email),
            name=checks.text("name", request.name, longest=100),
            locale=checks.locale("locale", request.locale) or "vi",
        ),
    )
    checks.done()
    return filing, key


def _order(request: pb.AdvanceDossierRequest) -> Order:
    checks = DossierFieldChecks()
    dossier_id = checks.uuid("dossier_id", request.dossier_id)
    remark = checks.text("remark", request.remark, longest=500, lines=True)
    if request.expected_version == 0:
        checks.violation(
            "expected_version",
            "phải là phiên bản đã đọc, từ 1 trở lên",
            "must be the version that was read, 1 or more",
        )
    if request.to not in STATES:
        checks.violation("to", "phải là một trạng thái đã biết", "must be one of the known states")
    checks.done()
    return Order(
        DossierId(dossier_id), request.expected_version, State(request.to), remark, caller(), trace=current_trace()
    )


def _dossier(dossier: Dossier) -> pb.Dossier:
    return pb.Dossier(
        dossier_id=dossier.id,
        number=dossier.number,
        procedure=dossier.procedure,
        version=dossier.version,
        state=_state(dossier.state),
        opened_at=_timestamp(dossier.opened_at),
        steps=[_step(step) for step in dossier.steps],
    )


def _step(step: Step) -> pb.Step:
    return pb.Step(
        version=step.version,
        state=_state(step.state),
        at=_timestamp(step.at),
        remark=step.remark,
        notice=None if step.notice is None else _notice(step.notice),
    )


def _notice(notice: Notice) -> pb.Notice:
    return pb.Notice(notice_id=notice.id, fate=FATES[notice.fate], at=_timestamp(notice.at))


def _state(state: State) -> pb.DossierState.ValueType:
    return pb.DossierState.Value(f"DOSSIER_STATE_{state.name}")


def _timestamp(instant: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(instant)
    return stamp
