"""Every topic with its partitions and retention: `python -m deploy.create_topics`.

On a laptop `--brokers HOST:PORT` says where; without it `TOPICS_KAFKA_*` does, with TLS and SCRAM as for any service.

The one place where topics are made, on a laptop, in CI and in a cluster's job; `docs/events.md` is its twin for people,
and a test compares the two with the code. Safe to repeat: what exists is left as it is.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from datetime import timedelta

from kafka.admin import KafkaAdminClient, NewTopic
from kafka.errors import KafkaError, TopicAlreadyExistsError
from pydantic_settings import SettingsConfigDict

from services.chassis.kafka_client import client_config, open_client
from services.chassis.settings import KafkaSettings, Profile, read_settings

HOUR_MS = 3_600_000
WAIT_S = 30
OPEN_WITHIN = timedelta(seconds=WAIT_S)
CODE_PARTITIONS = 12  # the most mailers that can share the lane; more would only cost file handles
PARTITIONS = 6
# Of a tier: the most mailers that can share it. The letters of a lane are spread over all its tiers.
TIER_PARTITIONS = {"otp": 6, "notice": 3}


class TopicsSettings(KafkaSettings):
    """`TOPICS_*` in the environment."""

    model_config = SettingsConfigDict(env_prefix="TOPICS_")


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic. Who writes and who reads it is the ground of all rights: see `kafka_acls`."""

    name: str
    partitions: int
    retention_ms: int
    segment_ms: int = 6 * HOUR_MS
    writer: str | None = None
    """The service that writes it."""
    reader: str | None = None
    """The service that consumes it; none: people."""
    group: str | None = None
    """The consumer group that the reader joins."""

    @property
    def dead(self) -> Topic:
        """Where its reader puts what it cannot read, for people: one partition, two weeks."""
        return Topic(f"{self.name}.dead", 1, 14 * 24 * HOUR_MS, writer=self.reader)


def tier(lane: str, delay: str) -> Topic:
    """Return the topic of a tier: kept as long as the orders of its lane."""
    retention_ms, segment_ms = (HOUR_MS, HOUR_MS // 6) if lane == "otp" else (7 * 24 * HOUR_MS, 6 * HOUR_MS)
    return Topic(
        f"mail.retry.{lane}.{delay}.v1",
        TIER_PARTITIONS[lane],
        retention_ms,
        segment_ms,
        writer="mailer",
        reader="mailer",
        group=f"mailer-retry-{lane}-{delay}",
    )


CONSUMED = (
    Topic(
        "otp.code-requested.v1",
        CODE_PARTITIONS,
        HOUR_MS,
        segment_ms=HOUR_MS // 6,
        writer="otp",
        reader="mailer",
        group="mailer-otp",
    ),
    Topic(
        "otp.code-wanted.v1",
        CODE_PARTITIONS,
        HOUR_MS,
        segment_ms=HOUR_MS // 6,
        writer="otp",
        reader="mailer",
        group="mailer-wanted",
    ),
    Topic("mail.delivery.otp.v1", PARTITIONS, 24 * HOUR_MS, writer="mailer", reader="otp", group="otp"),
    Topic(
        "notice.requested.v1", PARTITIONS, 7 * 24 * HOUR_MS, writer="dossier", reader="mailer", group="mailer-notice"
    ),
    Topic("mail.delivery.notice.v1", PARTITIONS, 7 * 24 * HOUR_MS, writer="mailer", reader="dossier", group="dossier"),
)
TIERS = (
    *(tier("otp", delay) for delay in ("1s", "3s", "10s", "30s", "1m")),
    *(tier("notice", delay) for delay in ("1m", "10m", "1h", "6h")),
)
"""Where letters wait that could not leave; their unreadable records go where those of the lane do."""
TOPICS = (*CONSUMED, *TIERS, *(topic.dead for topic in CONSUMED))


def laptop(brokers: str) -> TopicsSettings:
    """Return settings for brokers without TLS."""
    return TopicsSettings(profile=Profile.LAPTOP, kafka_brokers=brokers)


def create_topics(settings: KafkaSettings, *, replication: int = 1, topics: tuple[Topic, ...] = TOPICS) -> list[str]:
    """Create what does not exist, and wait until every topic has a leader; return the names that were new.

    Raises:
        Refused: a wrong password, or an authority that we do not trust.
        KafkaError: the broker refused, or is not there.
        TimeoutError: a topic had no leader in time.
    """
    admin = open_client(KafkaAdminClient, OPEN_WITHIN, **client_config(settings), client_id="create-topics")
    try:
        existing = set(admin.list_topics())
        new = [topic for topic in topics if topic.name not in existing]
        for topic in new:
            try:
                admin.create_topics([_new_topic(topic, replication)])
            except TopicAlreadyExistsError:
                continue  # somebody else was faster
        _wait_for_leaders(admin, [topic.name for topic in topics])
        return [topic.name for topic in new]
    finally:
        admin.close()


def _new_topic(topic: Topic, replication: int) -> NewTopic:
    configs = {"retention.ms": str(topic.retention_ms), "segment.ms": str(topic.segment_ms)}
    if replication > 2:
        configs["min.insync.replicas"] = "2"
    return NewTopic(topic.name, topic.partitions, replication, topic_configs=configs)


def _wait_for_leaders(admin: KafkaAdminClient, names: list[str]) -> None:
    deadline = time.monotonic() + WAIT_S
    while True:
        described = admin.describe_topics(names)
        ready = {
            topic["name"]
            for topic in described
            if topic["partitions"] and all(part["leader_id"] >= 0 for part in topic["partitions"])
        }
        if ready >= set(names):
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"no leader after {WAIT_S} s: {', '.join(sorted(set(names) - ready))}")
        time.sleep(0.1)


def main() -> int:
    """Create the topics and say so."""
    parser = argparse.ArgumentParser(description="Create Kịp's topics; what exists is left as it is.")
    parser.add_argument("--brokers", help="bootstrap servers without TLS, HOST:PORT[,HOST:PORT]; else TOPICS_KAFKA_*")
    parser.add_argument("--replication", type=int, default=1, help="copies of each partition (3 in production)")
    chosen = parser.parse_args()
    settings = laptop(chosen.brokers) if chosen.brokers else read_settings(TopicsSettings)
    try:
        new = create_topics(settings, replication=chosen.replication)
    except (KafkaError, TimeoutError) as error:
        print(f"topics were not created: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(f"{len(TOPICS)} topics are there, {len(new)} of them new")
    return 0


if __name__ == "__main__":
    sys.exit(main())
