"""The six packages that were asked for do the work: which module imports each, and that a service runs that module."""

from __future__ import annotations

import pytest

from tests.quality.source_code import SERVICES, imported_names, service_modules

IMPORTED_BY = {
    "kafka": {  # kafka-python: every event is published by it; lagwatch measures with it
        "services.chassis.kafka_client",
        "services.chassis.kafka_producer",
        "services.chassis.kafka_rights",  # asks before a consumer starts whether it would be let in
        "services.lagwatch.outbound.kafka_failures",
        "services.lagwatch.outbound.kafka_heads",
        "services.lagwatch.outbound.kafka_letters",
        "services.lagwatch.outbound.kafka_offsets",
        "services.lagwatch.outbound.kafka_queue",
        "services.lagwatch.outbound.kafka_reader",
        "services.otp.outbound.kafka_queue",  # samples how far the mailer is
        "services.otp.outbound.redis_store",  # its murmur2 chooses the shard, as it chooses partitions
    },
    "faust": {  # faust-streaming: every event is consumed by it
        "services.chassis.faust_app",
        "services.chassis.ordered_inbox",
    },
    "aiosmtplib": {"services.mailer.outbound.smtp_connection", "services.mailer.outbound.smtp_gateway"},
    "redis": {
        "services.chassis.redis_commands",
        "services.chassis.redis_servers",
        "services.mailer.outbound.redis_ledger",
        "services.mailer.outbound.redis_receipts",
        "services.otp.outbound.redis_batches",
        "services.otp.outbound.redis_calls",
        "services.otp.outbound.redis_changes",
        "services.otp.outbound.redis_quotas",
        "services.otp.outbound.redis_store",
        "services.otp.outbound.redis_tally",
    },
    "prometheus_client": {
        "services.chassis.grpc_gate",
        "services.chassis.grpc_server",
        "services.chassis.inbox_metrics",
        "services.chassis.partition_pauses",
        "services.chassis.telemetry",
        "services.dossier.__main__",
        "services.dossier.inbound.grpc_api",
        "services.dossier.metrics",
        "services.lagwatch.metrics",
        "services.mailer.metrics",
        "services.mailer.receipts",
        "services.otp.metrics",
    },
    "grpc": {
        "services.chassis.grpc_credentials",
        "services.chassis.grpc_gate",
        "services.chassis.grpc_refusals",
        "services.chassis.grpc_server",
        "services.dossier.inbound.grpc_api",
        "services.otp.inbound.grpc_api",
    },
}


def importers_of(package: str) -> set[str]:
    return {
        module
        for module, file in service_modules().items()
        if any(name.partition(".")[0] == package for name in imported_names(file))
    }


def run_by(service: str) -> set[str]:
    """Return every module of ours that `python -m services.<service>`, or a second door of it, imports somehow."""
    waiting, seen = [f"services.{service}.__main__", f"services.{service}.receipts"], set[str]()
    while waiting:
        module = waiting.pop()
        if module in service_modules() and module not in seen:
            seen.add(module)
            waiting += imported_names(service_modules()[module])
    return seen


@pytest.mark.parametrize("package", IMPORTED_BY)
def test_a_package_is_used_by_exactly_these_modules(package: str) -> None:
    assert importers_of(package) == IMPORTED_BY[package]


@pytest.mark.parametrize("package", IMPORTED_BY)
def test_every_module_that_uses_a_package_is_run_by_a_service(package: str) -> None:
    running = {module for service in SERVICES for module in run_by(service)}

    assert importers_of(package) - running == set()


def test_a_module_that_nobody_runs_would_be_noticed() -> None:
    assert "services.mailer.outbound.smtp_gateway" not in run_by("otp")
