"""Every metric of otp. Labels are closed sets; never an address, an id or a text."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REQUEST_OUTCOMES = ("queued", "joined", "repeated", "too_soon", "limit_reached", "overloaded")
CAUSES = ("requested", "resent", "reissued")
RESEND_OUTCOMES = ("queued", "still_queued", "not_yet", "not_open")
VERDICTS = ("accepted", "wrong", "expired", "locked", "used", "unknown")
HELD_BACK_BY = ("domain", "system", "quota", "overload")
CODE_FATES = ("in_time", "late", "never", "unproved")
RINGS = ("code", "seal_code")
PROMPT = ("yes", "no")
LIMITS = ("subject", "address", "client", "domain", "system", "guesses_client", "guesses_caller")
FATES = ("handed_over", "deferred", "delivered", "bounced", "refused", "dropped")


class OtpMetrics:
    """The metrics of one process, on its own registry."""

    def __init__(self, registry: CollectorRegistry, purposes: Iterable[str]) -> None:
        """Register everything, every label set at 0."""
        self.requests = Counter(
            "otp_requests",
            "Requests for a code, by purpose and what became of them.",
            ["purpose", "outcome"],
            registry=registry,
        )
        self.limits_reached = _counter(
            registry,
            "otp_limits_reached",
            "Letters and guesses refused by a limit of the policy, by what it counts; by several: counted for each.",
            limit=LIMITS,
        )
        self.admission_refused = _of_policy(
            registry,
            "otp_admission_refused_ratio",
            "Share of those who ask that is refused now, because a letter would wait longer than people do; 0 to 1.",
        )
        self.letters = Counter("otp_letters", "Letters queued, by who wanted them.", ["cause"], registry=registry)
        self.reissues_held_back = _counter(
            registry,
            "otp_reissues_held_back",
            "Times the service was not let make a letter by itself, by what: the brake of the recipient's domain or of "
            "the system (too few codes come in time there), a limit on letters, the length of the queue.",
            by=HELD_BACK_BY,
        )
        self.resends = Counter("otp_resends", "Clicks for another letter, by outcome.", ["outcome"], registry=registry)
        self.cancels = Counter("otp_cancels", "Handles given back.", registry=registry)
        self.verdicts = Counter("otp_verifications", "Typed codes judged, by verdict.", ["result"], registry=registry)
        self.failed_ratio = Gauge(
            "otp_guess_failure_ratio",
            "Share of the entries of the last 5 to 10 minutes that were wrong, over all processes.",
            registry=registry,
        )
        self.attempts_halved = Gauge(
            "otp_attempts_halved", "1 while attempts are halved because of that share, else 0. Page.", registry=registry
        )
        self.deliveries = Counter(
            "otp_deliveries_followed",
            "Delivery events merged, by fate; `unknown` names no challenge of ours.",
            ["fate"],
            registry=registry,
        )
        self.code_fates = _counter(
            registry,
            "otp_code_fates",
            "Codes by what became of them, each once: in_time and late = it arrived, with enough of its life left or "
            "not; never = it failed, or nothing was known at its end; unproved = nothing ever told.",
            fate=CODE_FATES,
        )
        self.hand_overs = _counter(
            registry,
            "otp_hand_overs",
            "Letters that the relay took, each once, by whether that was within `prompt` of the policy.",
            prompt=PROMPT,
        )
        self.hand_over_wait = Histogram(
            "otp_hand_over_wait_seconds",
            "From request to the relay's 250. Buckets around the promptness objective (10 s) and the deadline (840 s).",
            buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 840, 1200),
            registry=registry,
        )
        self.outbox = Gauge(
            "otp_outbox_messages", "Events that wait to be published, as last swept.", registry=registry
        )
        self.outbox_oldest = Gauge(
            "otp_outbox_oldest_timestamp_seconds",
            "When the oldest event in the outbox was committed, as last swept (Unix time); 0: none waits.",
            registry=registry,
        )
        self.outbox_swept = Gauge(
            "otp_outbox_swept_timestamp_seconds",
            "When this process last swept the outbox (Unix time). Standing still: what it says of it is old.",
            registry=registry,
        )
        self.queue_deadline = _of_policy(
            registry, "otp_queue_deadline_seconds", "How long a letter may wait in our queue (patience - reserve)."
        )
        self.queue_prompt = _of_policy(
            registry, "otp_queue_prompt_seconds", "Within this people should have their letter handed over."
        )
        self.queue_slow = _of_policy(registry, "otp_queue_slow_seconds", "A predicted wait above this is paged.")
        self.lifetime = _of_policy(
            registry, "otp_code_lifetime_seconds", "How long a code is good after the relay took it."
        )
        self.reserve = _of_policy(
            registry, "otp_delivery_reserve_seconds", "Kept of the patience for relay, inbox and typing."
        )
        self.queue_sample_age = Gauge(
            "otp_queue_sample_age_seconds",
            "Age of the last sample of the mailer's queue, or of the process. Over 15: no place is known.",
            registry=registry,
        )
        self.queue_sample_failures = Counter(
            "otp_queue_sample_failures", "Samples of the mailer's queue that failed.", registry=registry
        )
        self.publish_seconds = Histogram(
            "otp_publish_duration_seconds",
            "From the hand to the producer to the broker's acknowledgement, or to giving up.",
            buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5, 15, 30),
            registry=registry,
        )
        self.publish_failures = Counter(
            "otp_publish_failures", "Events that the broker did not acknowledge in time; they stay.", registry=registry
        )
        self.keys_unknown = _counter(
            registry,
            "otp_keys_unknown",
            "Times a challenge named a key that this process does not have. Page on any increase.",
            ring=RINGS,
        )
        self.redis_seconds = Histogram(
            "redis_client_duration_seconds",
            "One script or command, seen from here. Buckets from a loopback round trip to the socket timeout.",
            ["command_class"],
            buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.5, 1),
            registry=registry,
        )
        self.store_clock_offset = Gauge(
            "otp_store_clock_offset_seconds",
            "How far Redis's clock, which codes live by, is ahead of this host's; to a round trip.",
            registry=registry,
        )
        self.redis_errors = Counter("redis_client_errors", "Redis calls that failed.", registry=registry)
        for purpose in purposes:
            for outcome in REQUEST_OUTCOMES:
                self.requests.labels(purpose, outcome)
        for cause in CAUSES:
            self.letters.labels(cause)
        for outcome in RESEND_OUTCOMES:
            self.resends.labels(outcome)
        for verdict in VERDICTS:
            self.verdicts.labels(verdict)
        for fate in (*FATES, "unknown"):
            self.deliveries.labels(fate)


def _of_policy(registry: CollectorRegistry, name: str, documentation: str) -> Gauge:
    return Gauge(name, documentation, ["purpose"], registry=registry)


def _counter(registry: CollectorRegistry, name: str, documentation: str, **labels: tuple[str, ...]) -> Counter:
    ((label, values),) = labels.items()
    counter = Counter(name, documentation, [label], registry=registry)
    for value in values:
        counter.labels(value)
    return counter
