"""lagwatch when a right is taken from it: what it may not look at grows old and says so, everything else goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kafka import TopicPartition
from kafka.admin import (
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    KafkaAdminClient,
    ResourcePatternFilter,
    ResourceType,
)
from kafka.admin import ACLResourcePatternType as Pattern
from kafka.errors import NoError
from kafka.structs import OffsetAndMetadata

from deploy.kafka_acls import apply_rights
from services.lagwatch.settings import LagwatchSettings
from tests.conditions import wait_until
from tests.integration.lagwatch.lagwatch_process import LagwatchProcess, lagwatch_running
from tests.integration.security.attempts import opened
from tests.integration.security.test_processes import environment
from tests.servers.secured_kafka import ADMIN, SecuredKafka, settings_of

WATCHED = LagwatchSettings.model_fields["queues"].default
GROUP, TOPIC, DELIVERIES = "mailer-otp", "otp.code-requested.v1", "mail.delivery.otp.v1"
WITHIN_S = 60

pytestmark = [pytest.mark.timeout(180), pytest.mark.usefixtures("rubbish_collected")]


@contextmanager
def taken_away(secured: SecuredKafka, *resources: tuple[ResourceType, str]) -> Iterator[None]:
    """Take every right to these from lagwatch, and give it back at the end."""
    with opened(KafkaAdminClient, settings_of(secured, ADMIN)) as admin:
        wanted = [
            ACLFilter(
                "User:lagwatch",
                None,
                ACLOperation.ANY,
                ACLPermissionType.ANY,
                ResourcePatternFilter(kind, name, Pattern.LITERAL),
            )
            for kind, name in resources
        ]
        for _filter, taken, error in admin.delete_acls(wanted):
            assert error is NoError
            assert taken, "a right that was there"
    try:
        yield
    finally:
        apply_rights(settings_of(secured, ADMIN))


def measured_at(lagwatch: LagwatchProcess, group: str, topic: str) -> float:
    labels = {"group": group, "topic": topic}
    page = lagwatch.shown()
    at = page.value("lagwatch_group_last_success_timestamp_seconds", **labels)
    return at or 0


@pytest.mark.parametrize(
    ("resource", "queue", "other"),
    [
        ((ResourceType.GROUP, GROUP), (GROUP, TOPIC), ("otp", DELIVERIES)),
        ((ResourceType.TOPIC, DELIVERIES), ("otp", DELIVERIES), ("mailer-wanted", "otp.code-wanted.v1")),
    ],
    ids=["a group", "a topic"],
)
def test_a_right_that_is_taken_away_makes_its_queue_old_and_no_other(
    secured: SecuredKafka,
    tmp_path: Path,
    resource: tuple[ResourceType, str],
    queue: tuple[str, str],
    other: tuple[str, str],
) -> None:
    keep_groups(secured)
    settings = environment(secured, "lagwatch")
    with lagwatch_running(secured.address, WATCHED, tmp_path / "log", lanes="otp", settings=settings) as lagwatch:
        wait_until(lagwatch.is_ready, within_s=WITHIN_S, what="everything was measured")
        wait_until(lambda: measured_at(lagwatch, *queue) and measured_at(lagwatch, *other), within_s=WITHIN_S)

        with taken_away(secured, resource):
            denied = lagwatch.failures("denied")
            wait_until(lambda: lagwatch.failures("denied") >= denied + 2, within_s=WITHIN_S)
            stood_still_at = measured_at(lagwatch, *queue)
            pulse = lagwatch.value("lagwatch_last_success_timestamp_seconds")
            lane = lagwatch.value("lagwatch_lane_last_success_timestamp_seconds", lane="otp")
            refused_at = time.time()
            wait_until(lambda: measured_at(lagwatch, *other) > refused_at, within_s=WITHIN_S, what="others go on")
            assert lagwatch.is_ready()
            assert measured_at(lagwatch, *queue) == stood_still_at
            assert lagwatch.value("lagwatch_last_success_timestamp_seconds") == pulse
            assert lagwatch.value("lagwatch_lane_last_success_timestamp_seconds", lane="otp") == lane

        given_back_at = time.time()
        wait_until(lambda: measured_at(lagwatch, *queue) > given_back_at, within_s=WITHIN_S, what="it recovers")
        wait_until(
            lambda: (lagwatch.value("lagwatch_lane_last_success_timestamp_seconds", lane="otp") or 0) > given_back_at,
            within_s=WITHIN_S,
            what="and so does the lane",
        )


def keep_groups(secured: SecuredKafka) -> None:
    """Let the groups of the test exist: one that never committed is in doubt."""
    with opened(KafkaAdminClient, settings_of(secured, ADMIN)) as admin:
        for group, topic in ((GROUP, TOPIC), ("otp", DELIVERIES), ("mailer-wanted", "otp.code-wanted.v1")):
            admin.alter_group_offsets(group, {TopicPartition(topic, 0): OffsetAndMetadata(0, "", leader_epoch=-1)})
