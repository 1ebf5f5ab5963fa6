"""Rights follow from who writes and who reads a topic, and nothing wider than one name is ever given."""

from __future__ import annotations

import pytest

from deploy.create_topics import CONSUMED, TIERS, TOPICS, Topic
from deploy.kafka_acls import Right, main, rights

HOUR_MS = 3_600_000
RETRY = Topic("mail.retry.otp.10s.v1", 1, HOUR_MS, writer="mailer", reader="mailer", group="mailer-otp-retry")


def of(user: str, *topics: Topic) -> set[tuple[str, str, str]]:
    return {(right.kind, right.name, right.operation) for right in rights(topics) if right.user == user}


def test_a_topic_that_is_added_has_its_rights() -> None:
    assert of("mailer", RETRY) == {
        ("topic", RETRY.name, "WRITE"),
        ("topic", RETRY.name, "READ"),
        ("group", "mailer-otp-retry", "READ"),
    }
    assert of("lagwatch", RETRY) == {("topic", RETRY.name, "READ"), ("group", "mailer-otp-retry", "DESCRIBE")}
    assert of("topics", RETRY) == {("topic", RETRY.name, "CREATE"), ("topic", RETRY.name, "DESCRIBE")}
    assert of("operator", RETRY) == {("topic", RETRY.name, "WRITE")}
    assert of("otp", RETRY) == {("topic", RETRY.name, "DESCRIBE"), ("group", "mailer-otp-retry", "DESCRIBE")}
    assert {right.user for right in rights([RETRY])} == {"mailer", "lagwatch", "topics", "operator", "otp"}


def test_dead_letters_are_written_by_who_could_not_read_and_read_by_no_service() -> None:
    assert of("mailer", RETRY.dead) == {("topic", RETRY.dead.name, "WRITE")}
    assert of("operator", RETRY.dead) == {("topic", RETRY.dead.name, "READ"), ("topic", RETRY.dead.name, "WRITE")}
    assert {right.user for right in rights([RETRY.dead])} == {"mailer", "topics", "operator"}


def test_every_topic_of_ours_has_one_writer_and_a_consumed_one_a_reader_with_a_group() -> None:
    assert all(topic.writer for topic in TOPICS)
    assert all(topic.reader and topic.group for topic in (*CONSUMED, *TIERS))
    assert len({topic.group for topic in (*CONSUMED, *TIERS)}) == len(CONSUMED) + len(TIERS)


def test_only_lagwatch_and_otp_look_into_groups_of_others() -> None:
    groups = {topic.group: topic.reader for topic in (*CONSUMED, *TIERS)}

    strangers = {
        (right.user, right.name, right.operation)
        for right in rights()
        if right.kind == "group" and right.user != groups[right.name]
    }

    watched = {("lagwatch", name, "DESCRIBE") for name in groups}
    lane = {"mailer-otp"} | {f"mailer-retry-otp-{delay}" for delay in ("1s", "3s", "10s", "30s", "1m")}
    assert strangers == watched | {("otp", name, "DESCRIBE") for name in lane}


def test_nothing_is_given_on_the_cluster_or_to_more_than_one_name() -> None:
    assert {right.kind for right in rights()} == {"topic", "group"}
    assert {right.operation for right in rights()} == {"READ", "WRITE", "DESCRIBE", "CREATE"}
    assert not [right for right in rights() if "*" in right.name + right.user]


def test_the_rights_can_be_shown_without_a_broker(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["kafka_acls", "--show"])

    assert main() == 0

    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == len(rights())
    assert str(Right("otp", "group", "otp", "READ")) in shown
