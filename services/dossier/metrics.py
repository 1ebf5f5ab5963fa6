"""Every metric of the service. All labels are closed sets, created with 0 at the start."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

OPENING_RESULTS = (
    "opened",
    "repeated",
    "invalid_field",
    "unknown_procedure",
    "idempotency_key_reused",
    "archive_unavailable",
)
MOVE_RESULTS = (
    "moved",
    "repeated",
    "invalid_field",
    "unknown_dossier",
    "unknown_procedure",
    "version_conflict",
    "move_not_allowed",
    "archive_unavailable",
)
FATES = ("deferred", "dropped", "dead_lettered", "refused", "handed_over", "delivered", "bounced")
IGNORED = ("nothing_new", "unknown_owner")
HALTS = ("kafka", "broker_untrusted", "denied", "keys")


class DossierMetrics:
    """The service's metrics, on one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.openings = _counter(
            registry,
            "dossier_openings",
            "OpenDossier calls: opened, repeated (same key and body), or why refused.",
            result=OPENING_RESULTS,
        )
        self.moves = _counter(
            registry,
            "dossier_moves",
            "AdvanceDossier calls: moved, repeated (the same move again), or why refused.",
            result=MOVE_RESULTS,
        )
        self.outbox_messages = Gauge(
            "dossier_outbox_messages", "Notices stored and not announced yet, of all processes.", registry=registry
        )
        self.outbox_oldest = Gauge(
            "dossier_outbox_oldest_timestamp_seconds",
            "When the oldest notice in the outbox was asked for; 0 when it is empty.",
            registry=registry,
        )
        self.announced = Counter(
            "dossier_notices_announced", "Notices acknowledged by Kafka; a repeat counts again.", registry=registry
        )
        self.announce_failures = _counter(
            registry,
            "dossier_announce_failures",
            "Passes over the outbox that ended early: kafka = not acknowledged, broker_untrusted and denied = Kafka "
            "answers and refuses, keys = no key may seal now.",
            reason=HALTS,
        )
        self.followed = _counter(
            registry, "dossier_notices_followed", "News about our letters that was taken in, by fate.", fate=FATES
        )
        self.ignored = _counter(
            registry,
            "dossier_deliveries_ignored",
            "News that changed nothing: a repeat or an older word, or about a letter that is not ours.",
            reason=IGNORED,
        )
        self.delivery_age = Histogram(
            "dossier_delivery_age_seconds",
            "Age of a delivery event when it was taken in. Buckets from one fetch to half an hour of outage.",
            buckets=(0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 1800),
            registry=registry,
        )
        self.archive_failures = Counter(
            "dossier_archive_failures", "Looks at the outbox that the archive did not answer.", registry=registry
        )


def _counter(registry: CollectorRegistry, name: str, documentation: str, **labels: tuple[str, ...]) -> Counter:
    ((label, values),) = labels.items()
    counter = Counter(name, documentation, [label], registry=registry)
    for value in values:
        counter.labels(value)
    return counter
