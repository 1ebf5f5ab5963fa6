"""Every metric of the mailer. Labels are closed sets; never an address, an id or a reply text."""

from __future__ import annotations

from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

LANES = ("otp", "notice")
OUTCOMES = ("handed_over", "refused", "dropped", "dead_lettered")
RINGS = ("code", "seal_code", "seal_notice")
WISHES = ("extended", "withdrawn", "stale")
TOLD = ("delivered", "deferred", "bounced")
SETTLED = ("repeated", "outranked", "too_many")
IGNORED = {
    "relay_log": (*SETTLED, "unknown_letter", "garbage"),
    "dsn": (
        *SETTLED,
        *("no_report", "malformed", "loop", "no_envelope_id", "forged"),
        *("too_large", "too_fast", "too_many_connections", "put_off"),
    ),
}
LOG_TURNS = ("rotated", "truncated", "lost", "too_long")
ATTEMPT_RESULTS = ("accepted", "deferred", "refused", "connect_error", "cut", "no_reply", "not_wanted")


class MailerMetrics:
    """The metrics of one process, on its own registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register everything, every label set at 0."""
        self.letters = Counter("mailer_emails", "Letters by lane and fate.", ["lane", "outcome"], registry=registry)
        self.age = Histogram(
            "mailer_email_age_at_dispatch_seconds",
            "From the wish to the relay's 250. Buckets hold the promptness objective (10 s) and D of a code (840 s).",
            ["lane"],
            buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 840, 1200, 3600),
            registry=registry,
        )
        self.attempts = Counter(
            "mailer_smtp_attempts",
            "SMTP transactions by lane and how they ended.",
            ["lane", "result"],
            registry=registry,
        )
        self.transaction = Histogram(
            "mailer_smtp_transaction_duration_seconds",
            "From MAIL to the reply after the body.",
            ["lane"],
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=registry,
        )
        self.slots = Gauge("mailer_send_slots", "SMTP transactions that may run at once.", ["lane"], registry=registry)
        self.slots_in_use = Gauge(
            "mailer_send_slots_in_use", "SMTP transactions that run.", ["lane"], registry=registry
        )
        self.ledger_away = Counter(
            "mailer_ledger_errors", "Ledger calls that failed or exceeded their budget.", ["lane"], registry=registry
        )
        self.ledger_breaker_open = Gauge(
            "mailer_ledger_breaker_open",
            "1 while calls to the ledger fail at once, because it failed again and again; else 0.",
            ["lane"],
            registry=registry,
        )
        self.retries = Counter(
            "mailer_retries",
            "Letters that could not leave, by the tier (its delay) where they wait for the next try.",
            ["lane", "tier"],
            registry=registry,
        )
        self.wishes = Counter(
            "mailer_wishes",
            "Wishes about codes that were ordered, by what they changed: extended, withdrawn; stale = nothing.",
            ["kind"],
            registry=registry,
        )
        self.keys_unknown = Counter(
            "mailer_keys_unknown",
            "Times a letter named a key that this process does not have; the letter waits. Page on any increase.",
            ["ring"],
            registry=registry,
        )
        for ring in RINGS:
            self.keys_unknown.labels(ring)
        for kind in WISHES:
            self.wishes.labels(kind)
        for lane in LANES:
            self.age.labels(lane)
            self.transaction.labels(lane)
            self.ledger_away.labels(lane)
            self.ledger_breaker_open.labels(lane)
            for outcome in OUTCOMES:
                self.letters.labels(lane, outcome)
            for result in ATTEMPT_RESULTS:
                self.attempts.labels(lane, result)


class ReceiptMetrics:
    """The metrics of the receipts, which are taken in by a process of their own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register everything, every label set at 0."""
        self.receipts = Counter(
            "mailer_receipts",
            "Receipts that were news, by source and what they tell.",
            ["source", "told"],
            registry=registry,
        )
        self.ignored = Counter(
            "mailer_receipts_ignored",
            "Receipts and mails to the return path without effect, by source and reason.",
            ["source", "reason"],
            registry=registry,
        )
        self.log_behind = Gauge(
            "mailer_receipts_log_behind_bytes", "Octets of the relay's log that were not read yet.", registry=registry
        )
        self.log_read_at = Gauge(
            "mailer_receipts_log_read_timestamp_seconds",
            "When the relay's log was last read and what it says settled (Unix time), by whose log it is.",
            ["route"],
            registry=registry,
        )
        self.log_line_at = Gauge(
            "mailer_receipts_log_line_timestamp_seconds",
            "When the last line of the relay's log was read, or following it began (Unix time), by whose log it is.",
            ["route"],
            registry=registry,
        )
        self.log_turns = Counter(
            "mailer_receipts_log_turns",
            "What happened to the relay's log: rotated; truncated; lost = lines were missed; too_long = a line was.",
            ["what"],
            registry=registry,
        )
        for source, reasons in IGNORED.items():
            for told in TOLD:
                self.receipts.labels(source, told)
            for reason in reasons:
                self.ignored.labels(source, reason)
        for what in LOG_TURNS:
            self.log_turns.labels(what)

    def was_read(self, route: str, at: datetime) -> None:
        """Note that a relay's log was read to where it ends, or as far as one read goes, and settled."""
        self.log_read_at.labels(route).set(at.timestamp())

    def has_a_line(self, route: str, at: datetime) -> None:
        """Note that a line of a relay's log came, or that following it began."""
        self.log_line_at.labels(route).set(at.timestamp())

    def ignore(self, source: str, reason: str) -> None:
        """Count something without effect."""
        self.ignored.labels(source, reason).inc()
