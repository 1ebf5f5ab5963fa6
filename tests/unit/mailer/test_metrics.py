"""The counts of the mailer: every label from the start, so that a rate over a quiet hour is 0 and not missing."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from services.mailer.metrics import ATTEMPT_RESULTS, LANES, OUTCOMES, MailerMetrics
from services.mailer.rules.letter import Lane


def test_every_label_is_there_at_zero_from_the_start() -> None:
    registry = CollectorRegistry()

    MailerMetrics(registry)

    for lane in LANES:
        for outcome in OUTCOMES:
            assert registry.get_sample_value("mailer_emails_total", {"lane": lane, "outcome": outcome}) == 0
        for result in ATTEMPT_RESULTS:
            assert registry.get_sample_value("mailer_smtp_attempts_total", {"lane": lane, "result": result}) == 0
        assert registry.get_sample_value("mailer_ledger_errors_total", {"lane": lane}) == 0
        assert registry.get_sample_value("mailer_email_age_at_dispatch_seconds_count", {"lane": lane}) == 0


def test_the_lanes_that_are_counted_are_the_lanes_that_exist() -> None:
    assert set(LANES) == {lane.value for lane in Lane}


def test_two_processes_in_one_interpreter_do_not_share_their_counts() -> None:
    first, second = CollectorRegistry(), CollectorRegistry()
    counted, _ = MailerMetrics(first), MailerMetrics(second)

    counted.ledger_away.labels("otp").inc()

    assert first.get_sample_value("mailer_ledger_errors_total", {"lane": "otp"}) == 1
    assert second.get_sample_value("mailer_ledger_errors_total", {"lane": "otp"}) == 0
