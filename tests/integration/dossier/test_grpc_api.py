"""The API over a real socket and a real SQLite file: answers, refusals with their details, races, cancelled calls."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from kip.dossier.v1 import dossier_service_pb2 as pb
from kip.dossier.v1 import dossier_service_pb2_grpc
from prometheus_client import CollectorRegistry

from deploy.dev.ports import FreePort
from services.chassis.clock import system_clock
from services.chassis.grpc_callers import Caller, Callers
from services.chassis.grpc_server import grpc_server
from services.chassis.telemetry import Health
from services.dossier.actions.advance import AdvanceDossier
from services.dossier.actions.find import FindDossier
from services.dossier.actions.open import OpenDossier
from services.dossier.inbound.grpc_api import SERVICE_NAME, DossierApi
from services.dossier.metrics import DossierMetrics
from services.dossier.outbound.sql_archive import SqlArchive
from services.dossier.outbound.sql_database import open_database
from services.dossier.outbound.sql_migrations import migrate
from services.dossier.outbound.yaml_catalogue import read_catalogue
from services.dossier.settings import PACKAGED_PROCEDURES
from tests.fakes.chassis import StandingCallers

TOKENS = {"portal": "made-up-token-of-the-portal-0001", "counter": "made-up-token-of-the-counter-001"}
LONG = "x" * 10_000
GOOD = {
    "idempotency_key": "key",
    "procedure": "book-reissue",
    "subject": "citizen-7",
    "name": "Nguyễn Thị Lan",
    "email": "lan@example.vn",
}


@dataclass
class Office:
    """A stub, the file behind it, and the metrics."""

    stub: dossier_service_pb2_grpc.DossierServiceAsyncStub
    file: Path
    registry: CollectorRegistry

    async def open(self, *, caller: str = "portal", **other: str) -> pb.Dossier:
        request = pb.OpenDossierRequest(**(GOOD | other))
        return (await self.stub.OpenDossier(request, metadata=_as(caller), timeout=9)).dossier

    async def advance(self, dossier: pb.Dossier, to: Any, *, caller: str = "portal", **other: Any) -> pb.Dossier:
        fields = {"dossier_id": dossier.dossier_id, "expected_version": dossier.version, "to": to} | other
        request = pb.AdvanceDossierRequest(**fields)
        return (await self.stub.AdvanceDossier(request, metadata=_as(caller), timeout=9)).dossier

    async def get(self, dossier_id: str) -> pb.Dossier:
        request = pb.GetDossierRequest(dossier_id=dossier_id)
        return (await self.stub.GetDossier(request, metadata=_as("portal"), timeout=9)).dossier

    def rows(self, table: str) -> int:
        """Count what is stored."""
        connection = sqlite3.connect(self.file)
        (count,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608 - our own names
        connection.close()
        return int(count)


@dataclass(frozen=True)
class Refusal:
    """A refusal as a caller sees it."""

    code: grpc.StatusCode
    reason: str
    metadata: dict[str, str]
    fields: list[str]
    languages: list[str]
    retry_after: timedelta | None


def _as(caller: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {TOKENS[caller]}"),)


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[Office]:
    file, port, registry = tmp_path / "dossier.db", FreePort(), CollectorRegistry()
    database = open_database(f"sqlite:///{file}")
    await migrate(database)
    archive, catalogue = SqlArchive(database), read_catalogue(PACKAGED_PROCEDURES)
    bell = asyncio.Event()
    api = DossierApi(
        OpenDossier(archive, catalogue, system_clock, bell.set, agency="K01", draw=secrets.randbelow),
        AdvanceDossier(archive, catalogue, system_clock, bell.set),
        FindDossier(archive),
        DossierMetrics(registry),
    )
    every = frozenset({"*"})
    known = [Caller(name, hashlib.sha256(token.encode()).digest(), rpcs=every) for name, token in TOKENS.items()]
    address = f"127.0.0.1:{port.number}"
    async with (
        grpc_server(
            address,
            [lambda server: dossier_service_pb2_grpc.add_DossierServiceServicer_to_server(api, server)],
            names=[SERVICE_NAME],
            domain="dossier.kip",
            callers=StandingCallers(Callers(tuple(known))),
            state=Health(),
            registry=registry,
            drain_grace=timedelta(seconds=2),
        ),
        grpc.aio.insecure_channel(address) as channel,
    ):
        yield Office(dossier_service_pb2_grpc.DossierServiceStub(channel), file, registry)
    await database.close()


async def _refused(call: Any) -> Refusal:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    error = raised.value
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    words = error_details_pb2.LocalizedMessage()
    status = rpc_status.from_call(error)  # type: ignore[arg-type] # it has the methods that are read
    assert status is not None, error.details()
    languages = []
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(bad)
        detail.Unpack(retry)
        if detail.Unpack(words):
            assert words.message
            languages.append(words.locale)
    return Refusal(
        error.code(),
        info.reason,
        dict(info.metadata),
        [violation.field for violation in bad.field_violations],
        languages,
        retry.retry_delay.ToTimedelta() if retry.HasField("retry_delay") else None,
    )


async def test_a_dossier_is_opened_moved_and_read(office: Office) -> None:
    opened = await office.open()
    moved = await office.advance(opened, pb.DOSSIER_STATE_ACCEPTED, remark="Hẹn 3/12")

    read = await office.get(opened.dossier_id)

    assert read == moved
    assert (opened.version, opened.state, opened.procedure) == (1, pb.DOSSIER_STATE_REGISTERED, "book-reissue")
    assert opened.number.startswith("K01-")
    assert (moved.version, moved.state, moved.steps[1].remark) == (2, pb.DOSSIER_STATE_ACCEPTED, "Hẹn 3/12")
    assert [step.notice.fate for step in read.steps] == [pb.NOTICE_FATE_QUEUED] * 2
    assert office.registry.get_sample_value("dossier_openings_total", {"result": "opened"}) == 1
    assert office.registry.get_sample_value("dossier_moves_total", {"result": "moved"}) == 1


async def test_every_bad_field_is_named_at_once_and_nothing_is_stored(office: Office) -> None:
    refusal = await _refused(
        office.open(idempotency_key="", procedure=LONG, subject=LONG, name=LONG, email="lan", locale="fr")
    )

    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal.reason == "INVALID_FIELD"
    assert set(refusal.fields) == {"idempotency_key", "procedure", "subject", "name", "email", "locale"}
    assert refusal.languages == ["vi", "en"]
    assert [office.rows(table) for table in ("dossiers", "steps", "claims", "outbox")] == [0, 0, 0, 0]
    assert office.registry.get_sample_value("dossier_openings_total", {"result": "invalid_field"}) == 1


@pytest.mark.parametrize("field", ["idempotency_key", "procedure", "subject", "name", "email", "locale"])
async def test_a_field_of_ten_thousand_characters_is_refused(office: Office, field: str) -> None:
    refusal = await _refused(office.open(**{field: LONG}))

    assert (refusal.reason, refusal.fields) == ("INVALID_FIELD", [field])
    assert office.rows("dossiers") == 0


async def test_every_bad_field_of_a_move_is_named_at_once(office: Office) -> None:
    nowhere = pb.Dossier(dossier_id="7", version=0)

    refusal = await _refused(office.advance(nowhere, 99, remark=LONG))

    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert set(refusal.fields) == {"dossier_id", "expected_version", "to", "remark"}


async def test_an_id_that_is_none_is_refused(office: Office) -> None:
    assert (await _refused(office.get(""))).fields == ["dossier_id"]
    assert (await _refused(office.get(LONG))).fields == ["dossier_id"]


async def test_an_unknown_dossier_is_not_found(office: Office) -> None:
    refusal = await _refused(office.get("6f6e1f4e-4c3b-4b8e-9d0a-0c4b5f0f7d11"))

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_DOSSIER")
    assert refusal.languages == ["vi", "en"]


async def test_an_unknown_procedure_is_named(office: Office) -> None:
    refusal = await _refused(office.open(procedure="fishing-licence"))

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "UNKNOWN_PROCEDURE")
    assert refusal.metadata == {"procedure": "fishing-licence"}
    assert office.rows("claims") == 0


async def test_the_same_request_again_gets_the_same_dossier(office: Office) -> None:
    first = await office.open()

    again = await office.open()

    assert again == first
    assert office.rows("outbox") == 1
    assert office.registry.get_sample_value("dossier_openings_total", {"result": "repeated"}) == 1


async def test_the_same_key_with_another_body_is_aborted(office: Office) -> None:
    await office.open()

    refusal = await _refused(office.open(email="other@example.vn"))

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.ABORTED, "IDEMPOTENCY_KEY_REUSED")


async def test_two_callers_do_not_share_keys(office: Office) -> None:
    first = await office.open(caller="portal")

    second = await office.open(caller="counter")

    assert first.dossier_id != second.dossier_id


async def test_many_repeats_at_once_open_one_dossier_each(office: Office) -> None:
    opened = await asyncio.gather(*(office.open(idempotency_key=f"key {number % 5}") for number in range(50)))

    assert len({dossier.number for dossier in opened}) == 5
    assert office.rows("dossiers") == office.rows("outbox") == 5


async def test_of_many_movers_at_once_one_moves_and_the_others_are_told(office: Office) -> None:
    opened = await office.open()

    results = await asyncio.gather(
        *(office.advance(opened, pb.DOSSIER_STATE_ACCEPTED, remark=f"{number}") for number in range(20)),
        return_exceptions=True,
    )

    moved = [result for result in results if isinstance(result, pb.Dossier)]
    refused = [result for result in results if isinstance(result, grpc.aio.AioRpcError)]
    assert (len(moved), len(refused)) == (1, 19)
    assert {error.code() for error in refused} == {grpc.StatusCode.ABORTED}
    assert (await office.get(opened.dossier_id)).version == 2


async def test_a_conflict_names_both_versions(office: Office) -> None:
    opened = await office.open()
    await office.advance(opened, pb.DOSSIER_STATE_ACCEPTED)

    refusal = await _refused(office.advance(opened, pb.DOSSIER_STATE_REJECTED))

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.ABORTED, "VERSION_CONFLICT")
    assert refusal.metadata == {"expected_version": "1", "version": "2"}


async def test_the_very_same_move_again_gets_the_same_answer(office: Office) -> None:
    opened = await office.open()
    first = await office.advance(opened, pb.DOSSIER_STATE_ACCEPTED)

    again = await office.advance(opened, pb.DOSSIER_STATE_ACCEPTED)

    assert again == first
    assert office.rows("outbox") == 2


async def test_a_move_that_is_not_allowed_names_those_that_are(office: Office) -> None:
    refusal = await _refused(office.advance(await office.open(), pb.DOSSIER_STATE_HANDED_BACK))

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "MOVE_NOT_ALLOWED")
    assert refusal.metadata == {"from": "REGISTERED", "to": "HANDED_BACK", "allowed": "ACCEPTED,REJECTED,WITHDRAWN"}


async def test_the_largest_version_is_only_a_conflict(office: Office) -> None:
    opened = await office.open()

    refusal = await _refused(office.advance(opened, pb.DOSSIER_STATE_ACCEPTED, expected_version=2**64 - 1))

    assert refusal.reason == "VERSION_CONFLICT"


async def test_a_stranger_is_refused(office: Office) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await office.stub.OpenDossier(pb.OpenDossierRequest(**GOOD))

    assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert office.rows("dossiers") == 0


async def test_a_locked_archive_is_unavailable_and_the_same_call_succeeds_later(office: Office) -> None:
    lock = sqlite3.connect(office.file)
    lock.execute("BEGIN IMMEDIATE")

    refusal = await _refused(office.open())
    lock.rollback()
    lock.close()
    opened = await office.open()

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "ARCHIVE_UNAVAILABLE")
    assert refusal.retry_after == timedelta(seconds=2)
    assert opened.version == 1
    assert office.rows("dossiers") == 1


async def test_callers_who_hang_up_leave_the_archive_in_order(office: Office) -> None:
    async def hang_up(number: int) -> None:
        call = asyncio.ensure_future(office.open(idempotency_key=f"key {number}"))
        await asyncio.sleep(number % 20 / 1000)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)

    await asyncio.gather(*(hang_up(number) for number in range(100)))
    opened = await asyncio.gather(*(office.open(idempotency_key=f"key {number}") for number in range(100)))

    assert len({dossier.dossier_id for dossier in opened}) == 100
    assert office.rows("dossiers") == office.rows("steps") == office.rows("claims") == office.rows("outbox") == 100
