"""Metrics: the table of a README names exactly what `metrics.py` declares, and of the chassis only what it exports."""

from __future__ import annotations

import re

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from services.chassis.clock import system_clock
from services.chassis.grpc_gate import CallMetrics
from services.chassis.ordered_inbox import InboxMetrics
from services.chassis.telemetry import new_registry
from services.dossier.metrics import DossierMetrics
from services.lagwatch.metrics import LagwatchMetrics
from services.lagwatch.ports import Reason
from services.mailer.metrics import MailerMetrics
from services.otp.metrics import OtpMetrics
from tests.quality.source_code import ROOT, SERVICES, quoted, section

SUFFIXES = {"counter": "_total", "info": "_info"}
NAME = re.compile(r"[a-z]+(_[a-z]+)+")


def declared_by(service: str) -> set[str]:
    registry = CollectorRegistry()
    match service:
        case "otp":
            OtpMetrics(registry, purposes=["confirm-email"])
        case "mailer":
            MailerMetrics(registry)
        case "dossier":
            DossierMetrics(registry)
        case "lagwatch":
            LagwatchMetrics(registry, system_clock, Reason)
    return exported(registry)


def exported_by_the_chassis(service: str) -> set[str]:
    registry = new_registry(service, "0")
    if service != "lagwatch":
        InboxMetrics.on(registry)
    if service in {"otp", "dossier"}:
        CallMetrics.on(registry)
    return exported(registry)


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
