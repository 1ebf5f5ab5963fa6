"""What an ordered inbox tells of itself on `/metrics`."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge


@dataclass(frozen=True, slots=True)
class InboxMetrics:
    """What an inbox tells; labels are the topics of one process."""

    records: Counter
    restarts: Counter
    refusals: Counter
    in_hand: Gauge
    paused: Gauge

    @classmethod
    def on(cls, registry: CollectorRegistry) -> InboxMetrics:
        """Register the metrics; one per process."""
        return cls(
            records=Counter(
                "inbox_records",
                "Records settled, by outcome: handled, dead_lettered; and given_up, to come again.",
                ["topic", "outcome"],
                registry=registry,
            ),
            restarts=Counter(
                "inbox_restarts", "Times a consumer was built anew after it failed.", ["topic"], registry=registry
            ),
            refusals=Counter(
                "inbox_refusals",
                "Times a consumer was not let in: denied (password, rights), broker_untrusted (certificate).",
                ["topic", "reason"],
                registry=registry,
            ),
            in_hand=Gauge(
                "inbox_records_in_hand", "Records taken and not yet acknowledged.", ["topic"], registry=registry
            ),
            paused=Gauge(
                "inbox_partitions_paused",
                "Partitions of this process that wait for a mended release. Page on anything but 0.",
                ["topic"],
                registry=registry,
            ),
        )
