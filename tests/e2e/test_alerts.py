"""What goes wrong is told: on a real Kafka, Prometheus and Alertmanager, by the shipped rules in a hurry (`alarms`).

Each test looks that its alerts are silent before, makes the fault, and waits until Alertmanager has them. Citizens keep
coming meanwhile. `make alerts-live` runs longer overloads, and what is missing here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.conditions import wait_until
from tests.e2e.alarms import ALWAYS, DEADLINE_S, Alarmed, alarmed_stack
from tests.e2e.drip import Drip
from tests.e2e.overload import overload
from tests.e2e.rubbish import pause_partitions

CALM = 3.0
"""Citizens a second: enough for every alert that looks at a ratio."""
CALM_LETTERS = 24
OFF_S = 10
CODES, NEWS, CODE_PARTITION, NEWS_PARTITIONS = "otp.code-requested.v1", "mail.delivery.otp.v1", 0, 6
COMES_WITHIN_S = 60.0

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def alarmed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alarmed]:
    """A watched stack, for the faults of this module one after another."""
    with alarmed_stack(tmp_path_factory.mktemp("alarmed")) as alarmed:
        yield alarmed


@pytest.fixture(scope="module")
def drip(alarmed: Alarmed) -> Iterator[Drip]:
    """Citizens who come all the time."""
    with alarmed.running.portal() as portal, Drip(portal, CALM) as drip:
        yield drip


def nothing_waits(alarmed: Alarmed) -> None:
    """Wait until the lane is as in calm times."""
    wait_until(
        lambda: alarmed.value("lane:wait_predicted:seconds") == 0, within_s=COMES_WITHIN_S, what="that nobody waits"
    )


def paused(alarmed: Alarmed) -> tuple[float, float]:
    """Return how many partitions of codes, and of news, their readers leave alone."""
    return (
        alarmed.counted("mailer", "inbox_partitions_paused", topic=CODES),
        alarmed.counted("otp", "inbox_partitions_paused", topic=NEWS),
    )


@pytest.mark.usefixtures("drip")
def test_while_all_goes_well_nothing_is_told_but_that_alarms_work(alarmed: Alarmed) -> None:
    wait_until(lambda: alarmed.told() == ALWAYS, within_s=COMES_WITHIN_S, what="services that are no longer absent")
    since = time.time()

    wait_until(
        lambda: (alarmed.value('sum(mailer_emails_total{lane="otp",outcome="handed_over"})') or 0) >= CALM_LETTERS,
        within_s=COMES_WITHIN_S,
        what="letters that leave",
    )

    assert alarmed.told() == ALWAYS
    assert alarmed.fired(since) == ALWAYS


@pytest.mark.usefixtures("drip")
def test_a_mailer_that_is_stopped_is_told_and_the_worst_of_it_wakes_people(alarmed: Alarmed) -> None:
    expected = {"KipServiceAbsent", "OtpCodesSlow", "OtpCodesWillDie", "OtpEmailPartitionStalled"}
    assert not alarmed.told() & expected

    with alarmed.without("mailer"):
        alarmed.wait_until_told(*expected)
        wait_until(lambda: "OtpCodesSlow" not in alarmed.paged(), what="only the worst stage")
        assert expected - alarmed.paged() <= {"OtpCodesSlow", "OtpCodesWillDie"}  # a worse one may have come by now
        assert alarmed.told(service="mailer") == {"KipServiceAbsent"}

    alarmed.wait_until_over(*expected)


@pytest.mark.usefixtures("drip")
def test_a_relay_that_answers_451_to_everything_is_told_and_the_wait_grows_meanwhile(alarmed: Alarmed) -> None:
    expected = {"OtpCodesSlow", "OtpCodesWillDie", "OtpRelayDeferring"}
    nothing_waits(alarmed)
    assert not alarmed.told() & expected

    with alarmed.relay(action="reply", code=451):
        alarmed.wait_until_told("OtpCodesSlow")
        age, wait = alarmed.value("lane:queue_age:seconds") or 0, alarmed.value("lane:wait_predicted:seconds") or 0
        alarmed.wait_until_told(*expected)
        assert min(alarmed.running.inbox.times_used()) > 1
        assert (alarmed.value("lane:queue_age:seconds") or 0) > age > 0
        assert (alarmed.value("lane:wait_predicted:seconds") or 0) > wait > 0

    alarmed.wait_until_over("OtpCodesSlow", "OtpCodesWillDie")


@pytest.mark.usefixtures("drip")
def test_a_measurer_that_is_stopped_and_a_clock_that_is_ten_seconds_off_are_each_told(alarmed: Alarmed) -> None:
    nothing_waits(alarmed)
    assert not alarmed.told() & {"OtpLagwatchBlind", "KipClockSkew"}

    with alarmed.clock_off(OFF_S):
        with alarmed.without("lagwatch"):
            alarmed.wait_until_told("OtpLagwatchBlind")
            assert alarmed.value("lane:wait_predicted:seconds") != 0  # at most what is known of the outbox
        alarmed.wait_until_told("KipClockSkew", instance=alarmed.stack.address("dossier.http"))
        assert abs((alarmed.value('instance:clock_skew:seconds{job="dossier"}') or 0) - OFF_S) < 1

    alarmed.wait_until_over("OtpLagwatchBlind", "KipClockSkew")


@pytest.mark.usefixtures("drip")
def test_a_poison_partition_is_told_and_so_is_news_that_does_not_reach_otp(alarmed: Alarmed) -> None:
    expected = {"KipConsumerPaused", "MailerDeadLetters", "OtpDeliveryEventsMissing"}
    nothing_waits(alarmed)
    assert not alarmed.told() & expected

    pause_partitions(alarmed.stack.address("kafka"), {CODES: [CODE_PARTITION], NEWS: range(NEWS_PARTITIONS)})

    try:
        wait_until(lambda: paused(alarmed) == (1, NEWS_PARTITIONS), within_s=COMES_WITHIN_S, what="pauses")
        alarmed.wait_until_told("KipConsumerPaused", topic=CODES)
        alarmed.wait_until_told("KipConsumerPaused", topic=NEWS)
        alarmed.wait_until_told(*expected)
        alarmed.wait_until_told("OtpEmailPartitionStalled", topic=CODES, partition=str(CODE_PARTITION))
    finally:
        alarmed.restart("mailer", "otp")  # as a mended release does

    alarmed.wait_until_over("KipConsumerPaused", "OtpDeliveryEventsMissing")


def test_a_surge_of_twice_what_the_relay_takes_pages_long_before_a_code_dies(alarmed: Alarmed, drip: Drip) -> None:
    nothing_waits(alarmed)

    with overload(alarmed, drip, 2.0) as surge:
        surge.wait_for_the_page()
        paged_at = time.monotonic()
        surge.wait_for_the_first_death()
        assert time.monotonic() - paged_at > DEADLINE_S / 4
        assert 1.6 <= surge.measured() <= 2.6
        alarmed.wait_until_told("OtpCodesDoomed", "OtpCodesDying", "OtpRelaySlow", "OtpResendStorm")
        alarmed.wait_until_told("OtpEmailErrorBudgetBurn", "OtpEmailErrorBudgetLeak", "OtpPromptnessBurn")
        wait_until(lambda: "OtpCodesDying" in alarmed.paged(), what="the worst stage wakes somebody")
        assert not alarmed.paged() & {"OtpCodesSlow", "OtpCodesWillDie", "OtpCodesDoomed"}
