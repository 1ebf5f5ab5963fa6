from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import ModuleType

import pytest
from prometheus_client import CollectorRegistry

import services.chassis.grpc_fields
import services.dossier.actions.advance
import services.dossier.actions.open
import services.dossier.ports
from services.chassis.errors import ServiceError
from services.dossier.metrics import FATES, IGNORED, MOVE_RESULTS, OPENING_RESULTS, DossierMetrics
from services.dossier.rules.notice import Fate

MODULES = (
    services.dossier.actions.advance,
    services.dossier.actions.open,
    services.chassis.grpc_fields,
    services.dossier.ports,
)


def _refusals(module: ModuleType) -> Iterator[type[ServiceError]]:
    for _, found in inspect.getmembers(module, inspect.isclass):
        if issubclass(found, ServiceError) and found is not ServiceError:
            yield found


REASONS = {refusal.reason for module in MODULES for refusal in _refusals(module)}


@pytest.mark.parametrize("results", [OPENING_RESULTS, MOVE_RESULTS])
def test_every_refusal_that_is_counted_is_a_reason(results: tuple[str, ...]) -> None:
    done = {"opened", "moved", "repeated"}

    assert {result.upper() for result in results if result not in done} <= REASONS


def test_every_fate_that_can_be_heard_of_has_its_count() -> None:
    assert set(FATES) == {fate.value for fate in Fate} - {Fate.QUEUED.value}


def test_every_series_is_there_from_the_start_and_there_are_few() -> None:
    registry = CollectorRegistry()

    DossierMetrics(registry)

    for fate in FATES:
        assert registry.get_sample_value("dossier_notices_followed_total", {"fate": fate}) == 0
    for reason in IGNORED:
        assert registry.get_sample_value("dossier_deliveries_ignored_total", {"reason": reason}) == 0
    assert sum(len(metric.samples) for metric in registry.collect()) < 100
