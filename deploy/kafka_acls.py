"""Who may do what on Kafka: `python -m deploy.kafka_acls`, as a user that may change rights (`ACLS_KAFKA_*`).

Rights follow from the table of topics (`create_topics`): whoever writes or reads a topic may do that and no more, so a
topic that is added there has its rights. Nothing here is a prefix or a wildcard, and no right is on the cluster: since
Kafka 3.0 the right to write a topic is enough for an idempotent producer, and nobody here uses transactions. To read
or to write a topic includes to look at it (DESCRIBE), and to read in a group includes to look at the group.

Safe to repeat: rights that are there are left. Rights of our users that the table does not give are named, and taken
away only when told so (`--prune`); those of anybody else are never touched. Passwords are made elsewhere.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta

from kafka.admin import (
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    KafkaAdminClient,
    ResourcePattern,
    ResourcePatternFilter,
    ResourceType,
)
from kafka.errors import KafkaError, NoError
from pydantic_settings import SettingsConfigDict

from deploy.create_topics import TOPICS, Topic
from services.chassis.kafka_client import client_config, open_client
from services.chassis.settings import KafkaSettings, read_settings

MAKER = "topics"  # the user of deploy/create_topics.py
WATCHER = "lagwatch"  # measures every group, and reads when the first waiting record was made
OPERATOR = "operator"  # the user of kip-dead: people who look at dead letters, mark them, and put them back
SAMPLER = "otp"  # tells people their place, and lets in as many as can be served: how far the lane of codes is
ANSWER_WITHIN = timedelta(seconds=30)


class AclsSettings(KafkaSettings):
    """`ACLS_*` in the environment."""

    model_config = SettingsConfigDict(env_prefix="ACLS_")


@dataclass(frozen=True, slots=True, order=True)
class Right:
    """One user may do one thing with one topic or group, from anywhere."""

    user: str
    kind: str
    """`topic` or `group`."""
    name: str
    operation: str
    """As Kafka names it: READ, WRITE, DESCRIBE, CREATE."""

    def __str__(self) -> str:
        return f"{self.user}: {self.operation} on {self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class Applied:
    """What was done."""

    new: list[Right]
    there: list[Right]
    """What the broker had already."""
    unknown: list[ACL]
    """Rights of our users that are not ours to give; gone when pruned."""


def rights(topics: Iterable[Topic] = TOPICS) -> frozenset[Right]:
    """Return every right that the topics ask for."""
    return frozenset(right for topic in topics for right in _rights_to(topic))


def is_sampled(topic: Topic) -> bool:
    """Return whether codes wait there for the mailer."""
    return topic.name == "otp.code-requested.v1" or topic.name.startswith("mail.retry.otp.")


def _rights_to(topic: Topic) -> Iterator[Right]:
    for operation in ("CREATE", "DESCRIBE"):
        yield Right(MAKER, "topic", topic.name, operation)
    if topic.writer is not None:
        yield Right(topic.writer, "topic", topic.name, "WRITE")
    yield Right(OPERATOR, "topic", topic.name, "WRITE")
    if topic.reader is None:
        yield Right(OPERATOR, "topic", topic.name, "READ")
    else:
        yield Right(topic.reader, "topic", topic.name, "READ")
    if topic.reader is not None and topic.group is not None:
        yield Right(topic.reader, "group", topic.group, "READ")
        yield Right(WATCHER, "topic", topic.name, "READ")
        yield Right(WATCHER, "group", topic.group, "DESCRIBE")
        if is_sampled(topic):
            yield Right(SAMPLER, "topic", topic.name, "DESCRIBE")
            yield Right(SAMPLER, "group", topic.group, "DESCRIBE")


def apply_rights(settings: KafkaSettings, wanted: frozenset[Right] | None = None, *, prune: bool = False) -> Applied:
    """Give the rights that are missing; take away what our users have beyond them if `prune`.

    Each right is given for itself: after a failure the command can be repeated.

    Raises:
        Refused: a wrong password, or an authority that we do not trust.
        KafkaError: the broker refused, has no authorizer, or is not there.
    """
    wanted = rights() if wanted is None else wanted
    users = {_principal(right.user) for right in wanted}
    admin = open_client(KafkaAdminClient, ANSWER_WITHIN, **client_config(settings), client_id="kafka-acls")
    try:
        ours = [acl for acl in admin.describe_acls(_EVERYTHING)[0] if acl.principal in users]
        asked = {_acl(right): right for right in wanted}
        new = sorted(right for acl, right in asked.items() if acl not in ours)
        _give(admin, [_acl(right) for right in new])
        unknown = [acl for acl in ours if acl not in asked]
        if prune and unknown:
            _take(admin, unknown)
        return Applied(new, sorted(wanted - set(new)), unknown)
    finally:
        admin.close()


_EVERYTHING = ACLFilter(
    None,
    None,
    ACLOperation.ANY,
    ACLPermissionType.ANY,
    ResourcePatternFilter(ResourceType.ANY, None, ACLResourcePatternType.ANY),
)


def _principal(user: str) -> str:
    return f"User:{user}"


def _acl(right: Right) -> ACL:
    resource = ResourcePattern(ResourceType[right.kind.upper()], right.name)
    return ACL(_principal(right.user), "*", ACLOperation[right.operation], ACLPermissionType.ALLOW, resource)


def _give(admin: KafkaAdminClient, acls: list[ACL]) -> None:
    failed = admin.create_acls(acls)["failed"] if acls else []
    if failed:
        raise failed[0](f"{len(failed)} of {len(acls)} rights were not given")


def _take(admin: KafkaAdminClient, acls: list[ACL]) -> None:
    exactly = [
        ACLFilter(
            acl.principal,
            acl.host,
            acl.operation,
            acl.permission_type,
            ResourcePatternFilter(
                acl.resource_pattern.resource_type,
                acl.resource_pattern.resource_name,
                acl.resource_pattern.pattern_type,
            ),
        )
        for acl in acls
    ]
    for _filter, _matching, error in admin.delete_acls(exactly):
        if error is not NoError:
            raise error("a right was not taken away")


def told(acl: ACL) -> str:
    """Return a right as the broker has it, for people."""
    resource = acl.resource_pattern
    kind, pattern = resource.resource_type.name.lower(), resource.pattern_type.name.lower()
    verb = f"{acl.permission_type.name.lower()}s {acl.operation.name}"
    return f"{acl.principal}: {verb} on {kind} {resource.resource_name} ({pattern}, from {acl.host})"


def main() -> int:
    """Give the rights and say what was done."""
    parser = argparse.ArgumentParser(description="Give Kịp's users their rights on Kafka; ACLS_KAFKA_* says where.")
    parser.add_argument("--prune", action="store_true", help="take away what our users have beyond the table")
    parser.add_argument("--show", action="store_true", help="print the rights and ask no broker")
    chosen = parser.parse_args()
    if chosen.show:
        print(*sorted(rights()), sep="\n")
        return 0
    try:
        done = apply_rights(read_settings(AclsSettings), prune=chosen.prune)
    except KafkaError as error:
        print(f"rights were not given: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    for right in done.new:
        print(f"given: {right}")
    for acl in done.unknown:
        print(f"{'taken away' if chosen.prune else 'unknown, left (--prune takes it away)'}: {told(acl)}")
    print(f"{len(done.new) + len(done.there)} rights are there, {len(done.new)} of them new")
    return 0


if __name__ == "__main__":
    sys.exit(main())
