"""`python -m services.dossier`: how dossier is joined. Opened top to bottom, closed bottom to top."""

from __future__ import annotations

import asyncio
import secrets
import sys
import uuid
from contextlib import AsyncExitStack
from dataclasses import dataclass

import structlog
from kip.dossier.v1 import dossier_service_pb2_grpc
from prometheus_client import CollectorRegistry

from services.chassis.clock import system_clock
from services.chassis.grpc_server import CallersFile, TlsFiles, grpc_server, probe_server, tls_files
from services.chassis.inbox_metrics import InboxMetrics
from services.chassis.kafka_producer import Producer, producing
from services.chassis.keyring import Keyring, read_keyring
from services.chassis.ordered_inbox import InboxOptions, OrderedInbox, inbox_running
from services.chassis.process import Stopping, run, until_stopped
from services.chassis.retry import patiently
from services.chassis.settings import read_settings, reading_files
from services.chassis.telemetry import Health, configure_telemetry, http_page, new_registry
from services.dossier.actions.advance import AdvanceDossier
from services.dossier.actions.find import FindDossier
from services.dossier.actions.follow import FollowNotice
from services.dossier.actions.forget import ForgetClaims
from services.dossier.actions.open import OpenDossier
from services.dossier.actions.sweep import ANNOUNCE_WITHIN, SweepOutbox
from services.dossier.inbound.asyncio_timer import SweepTimer, sweeping
from services.dossier.inbound.grpc_api import SERVICE_NAME, DossierApi
from services.dossier.inbound.kafka_inbox import GROUP, MAIL_DELIVERY, DeliveryInbox
from services.dossier.metrics import DossierMetrics
from services.dossier.outbound.kafka_events import KafkaEvents
from services.dossier.outbound.sql_archive import SqlArchive
from services.dossier.outbound.sql_database import Database, open_database
from services.dossier.outbound.sql_migrations import SchemaTooNewError, migrate
from services.dossier.outbound.sql_outbox import SqlOutbox
from services.dossier.outbound.yaml_catalogue import YamlCatalogue, read_catalogue
from services.dossier.ports import Archive, ArchiveUnavailable, Catalogue
from services.dossier.settings import DossierSettings


@dataclass(frozen=True, slots=True)
class Files:
    """What the process reads before it opens anything."""

    catalogue: YamlCatalogue
    keys: Keyring
    callers: CallersFile
    tls: TlsFiles | None
    database: Database


def read_files(settings: DossierSettings) -> Files:
    """Read and check everything that the settings name.

    Raises:
        ValueError: what is wrong with which file.
    """
    return Files(
        catalogue=read_catalogue(settings.procedures_dir),
        keys=read_keyring(settings.seal_notice_keys_file),
        callers=CallersFile(settings.callers_file),
        tls=tls_files(settings.grpc_certificate_file, settings.grpc_key_file, settings.grpc_client_ca_file),
        database=open_database(settings.database_url.get_secret_value()),
    )


async def serve(settings: DossierSettings, stopping: Stopping) -> None:
    """Serve until `stopping`, then let calls in hand finish and announce what they stored."""
    with reading_files():
        files = read_files(settings)
    health, bell = Health(), asyncio.Event()
    registry = new_registry("dossier", "0.1.0")
    metrics = DossierMetrics(registry)
    archive = SqlArchive(files.database)
    async with AsyncExitStack() as parts:
        await parts.enter_async_context(http_page(settings.http_address, registry, health))
        await parts.enter_async_context(probe_server(settings.probe_address, health))
        parts.push_async_callback(files.database.close)
        producer = await parts.enter_async_context(producing(settings, "dossier"))
        timer = _timer(files, archive, producer, bell, metrics=metrics, health=health)
        await _migrated(files.database)
        inbox = _inbox(settings, archive, producer, metrics, registry)
        following = await parts.enter_async_context(inbox_running(inbox))
        announcing = await parts.enter_async_context(sweeping(timer))
        api = _api(settings, files.catalogue, archive, bell, metrics)
        await parts.enter_async_context(
            grpc_server(
                settings.grpc_address,
                [lambda server: dossier_service_pb2_grpc.add_DossierServiceServicer_to_server(api, server)],
                names=[SERVICE_NAME],
                domain="dossier.kip",
                callers=files.callers,
                state=health,
                registry=registry,
                drain_grace=settings.drain_grace,
                tls=files.tls,
            )
        )
        parts.callback(health.stop)
        structlog.get_logger().info("serving", grpc=settings.grpc_address, http=settings.http_address)
        await until_stopped(stopping, following, announcing)


def _api(
    settings: DossierSettings, catalogue: Catalogue, archive: Archive, bell: asyncio.Event, metrics: DossierMetrics
) -> DossierApi:
    open_dossier = OpenDossier(
        archive, catalogue, system_clock, bell.set, agency=settings.agency, draw=secrets.randbelow
    )
    advance = AdvanceDossier(archive, catalogue, system_clock, bell.set)
    return DossierApi(open_dossier, advance, FindDossier(archive), metrics)


def _inbox(
    settings: DossierSettings,
    archive: Archive,
    producer: Producer,
    metrics: DossierMetrics,
    registry: CollectorRegistry,
) -> OrderedInbox:
    return OrderedInbox(
        settings,
        group=GROUP,
        topic=MAIL_DELIVERY,
        handle=DeliveryInbox(FollowNotice(archive), system_clock, metrics),
        producer=producer,
        metrics=InboxMetrics.on(registry),
        options=InboxOptions(drain_grace=settings.drain_grace),
    )


def _timer(
    files: Files, archive: Archive, producer: Producer, bell: asyncio.Event, *, metrics: DossierMetrics, health: Health
) -> SweepTimer:
    events = KafkaEvents(producer, files.keys, system_clock, within=ANNOUNCE_WITHIN)
    sweep = SweepOutbox(SqlOutbox(files.database), events, holder=str(uuid.uuid4()))
    return SweepTimer(sweep, ForgetClaims(archive, system_clock), bell, metrics=metrics, health=health)


async def _migrated(database: Database) -> None:
    try:
        await patiently(lambda: migrate(database), what="the archive (DOSSIER_DATABASE_URL)", on=(ArchiveUnavailable,))
    except SchemaTooNewError as error:
        sys.exit(f"Cannot start: {error}")


def main() -> None:
    """Read the settings, then live."""
    settings = read_settings(DossierSettings)
    configure_telemetry("dossier")
    run(lambda stopping: serve(settings, stopping))


if __name__ == "__main__":
    main()
