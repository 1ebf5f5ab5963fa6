"""Metrics: a README names exactly what `metrics.py` declares, and of the chassis only what it exports.

And what is exported is fit to be scraped: few series, each label set there from the start, no fault for promtool.
"""

from __future__ import annotations

import re
from datetime import timedelta
from functools import cache

import grpc
import pytest
from kip.dossier.v1 import dossier_service_pb2
from kip.otp.v1 import otp_service_pb2
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import CollectorRegistry, Histogram, disable_created_metrics, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition as openmetrics

from deploy.create_topics import TIERS, TOPICS
from services.chassis.clock import system_clock
from services.chassis.grpc_gate import CallMetrics
from services.chassis.inbox_metrics import InboxMetrics
from services.chassis.kafka_client import Trouble
from services.chassis.lag import PartitionReading, QueueLag, lag_of
from services.chassis.lane import Flow, LaneLag
from services.chassis.settings import Profile
from services.chassis.telemetry import exemplar, loop_lag, new_registry
from services.dossier.metrics import DossierMetrics
from services.lagwatch.metrics import LagwatchMetrics
from services.lagwatch.ports import Reason
from services.lagwatch.settings import LagwatchSettings
from services.mailer.metrics import LANES, MailerMetrics, ReceiptMetrics
from services.otp.__main__ import show_policy
from services.otp.metrics import OtpMetrics
from services.otp.outbound.yaml_policy import read_policy
from services.otp.rules.generation import CodeFate
from services.otp.settings import PACKAGED_POLICY
from tests.quality.source_code import ROOT, SERVICES, quoted, section
from tests.servers.prometheus_tools import checked

MOST_SERIES = 500
POLICY = read_policy(PACKAGED_POLICY)
INBOXES = {
    service: [topic.name for topic in TOPICS if topic.reader == service] for service in ("otp", "mailer", "dossier")
}
APIS = {
    "otp": otp_service_pb2.DESCRIPTOR.services_by_name["OtpService"],
    "dossier": dossier_service_pb2.DESCRIPTOR.services_by_name["DossierService"],
}
SUFFIXES = {"counter": "_total", "info": "_info"}
NAME = re.compile(r"[a-z]+(_[a-z]+)+")


def declare(service: str, registry: CollectorRegistry) -> None:
    """Register what a service declares, as its `__main__` does."""
    match service:
        case "otp":
            show_policy(POLICY, OtpMetrics(registry, POLICY.purposes))
        case "mailer":
            receipts = ReceiptMetrics(registry)  # of its second process
            for last in (receipts.log_read_at, receipts.log_line_at):
                last.labels("relay-1")
            metrics = MailerMetrics(registry)
            for lane in LANES:
                metrics.slots.labels(lane)
                metrics.slots_in_use.labels(lane)
                metrics.ledger_breaker_open.labels(lane)
            for tier in TIERS:
                _mail, _retry, lane, delay, _version = tier.name.split(".")
                metrics.retries.labels(lane, delay)
        case "dossier":
            DossierMetrics(registry)
        case "lagwatch":
            show_letters_everywhere(registry)


def show_letters_everywhere(registry: CollectorRegistry) -> None:
    """Register what lagwatch shows when it watches everything we have, and everywhere letters wait."""
    settings = LagwatchSettings(profile=Profile.LAPTOP, kafka_brokers="127.0.0.1:9092")
    board, now = LagwatchMetrics(registry, system_clock, Reason), system_clock()
    waiting = {
        topic.name: tuple(
            lag_of(PartitionReading(number, 1, 0, 5, head_at=now - timedelta(minutes=1)))
            for number in range(topic.partitions)
        )
        for topic in TOPICS
    }
    for queue in settings.queues:
        board.show(QueueLag(queue, waiting[queue.topic], frozenset(), members=2, measured_at=now))
    for lane in settings.lanes:
        learnt = Flow(busy=((timedelta(seconds=30), 60),), before=LaneLag(now, waiting[lane.main.topic]))
        board.show_lane(lane.name, lane.main, learnt)
    board.polled(now, timedelta(0), Reason, is_whole=True)


def declared_by(service: str) -> set[str]:
    registry = CollectorRegistry()
    declare(service, registry)
    return exported(registry)


def on_the_page_of(service: str) -> CollectorRegistry:
    """Return a registry with all that a process could ever show: every method with every status, every inbox."""
    registry = new_registry(service, "0")
    loop_lag(registry)
    declare(service, registry)
    if service in INBOXES:
        inboxes = InboxMetrics.on(registry)
        for topic in INBOXES[service]:
            for outcome in ("handled", "dead_lettered", "given_up"):
                inboxes.records.labels(topic, outcome)
            inboxes.restarts.labels(topic)
            for trouble in (Trouble.DENIED, Trouble.BROKER_UNTRUSTED):
                inboxes.refusals.labels(topic, trouble)
            inboxes.in_hand.labels(topic)
            inboxes.paused.labels(topic)
    if service in APIS:
        calls = CallMetrics.on(registry)
        for method in APIS[service].methods:
            names = (APIS[service].full_name, method.name)
            calls.seconds.labels(*names)
            calls.streams.labels(*names)
            for code in grpc.StatusCode:
                calls.handled.labels(*names, code.name)
    return registry


def exported_by_the_chassis(service: str) -> set[str]:
    registry = new_registry(service, "0")
    loop_lag(registry)
    if service in INBOXES:
        InboxMetrics.on(registry)
    if service in APIS:
        CallMetrics.on(registry)
    return exported(registry)


@cache
def exported_by_everybody() -> frozenset[str]:
    """Return the names of all series of all services."""
    families = [family for service in SERVICES for family in on_the_page_of(service).collect()]
    return frozenset(sample.name for family in families for sample in family.samples)


def exported(registry: CollectorRegistry) -> set[str]:
    return {shown(family) for family in registry.collect()}


def shown(family: Metric) -> str:
    return family.name + SUFFIXES.get(family.type, "")


def named_in_the_readme_of(service: str) -> set[str]:
    text = section((ROOT / "services" / service / "README.md").read_text(), "Metrics")
    words = {word.partition("{")[0] for word in quoted(text)}
    return {word for word in words if NAME.fullmatch(word)}


@pytest.mark.parametrize("service", SERVICES)
def test_a_readme_names_no_metric_that_does_not_exist(service: str) -> None:
    known = declared_by(service) | exported_by_the_chassis(service)

    assert named_in_the_readme_of(service) - known == set()


@pytest.mark.parametrize("service", SERVICES)
def test_a_readme_names_every_metric_that_its_service_declares(service: str) -> None:
    assert declared_by(service) - named_in_the_readme_of(service) == set()


@pytest.mark.parametrize("service", SERVICES)
def test_the_metrics_of_a_service_begin_with_its_name(service: str) -> None:
    strangers = {name for name in declared_by(service) if not name.startswith((f"{service}_", "redis_client_"))}

    assert strangers == set()


@pytest.mark.parametrize("service", SERVICES)
def test_a_process_shows_fewer_series_than_the_scraper_takes(service: str) -> None:
    disable_created_metrics()  # type: ignore[no-untyped-call] # as `configure_telemetry` does

    samples = [sample for family in on_the_page_of(service).collect() for sample in family.samples]

    assert len(samples) < MOST_SERIES


@pytest.mark.parametrize("service", SERVICES)
def test_prometheus_finds_no_fault_with_the_page(service: str) -> None:
    page = generate_latest(on_the_page_of(service)).decode()

    assert checked("promtool", "check", "metrics", stdin=page) == ""


def test_every_fate_of_a_code_is_there_from_the_start() -> None:
    registry = CollectorRegistry()
    OtpMetrics(registry, [])

    assert [registry.get_sample_value("otp_code_fates_total", {"fate": fate.value}) for fate in CodeFate] == [0] * 4


def test_an_observation_leads_to_its_trace() -> None:
    registry = CollectorRegistry()
    seconds = Histogram("wait_seconds", "A wait.", registry=registry)

    with TracerProvider().get_tracer("test").start_as_current_span("a call"):
        seconds.observe(0.1, exemplar())
        trace_id = f"{trace.get_current_span().get_span_context().trace_id:032x}"

    assert f'# {{trace_id="{trace_id}"}} 0.1' in openmetrics.generate_latest(registry).decode()  # type: ignore[no-untyped-call]
    assert exemplar() is None
