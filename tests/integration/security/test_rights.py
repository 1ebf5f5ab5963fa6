"""The rights of `docs/events.md` on a real broker: what is stated may be done, and everything else is refused."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType
from kafka.errors import KafkaError

from deploy.create_topics import TOPICS
from deploy.kafka_acls import Right, apply_rights, rights, told
from services.chassis.kafka_client import client_config, open_client
from tests.integration.security.attempts import QUEUES, WITHIN, Attempts, opened, tried, wrote
from tests.integration.security.conftest import USERS
from tests.quality.rights_table import stated_rights
from tests.servers.secured_kafka import ADMIN, STRANGER, SecuredKafka, settings_of

EVERYBODY = (*USERS, STRANGER)
WRITERS = ("otp", "mailer", "dossier", "operator")
STATED = {(right.user, right.kind, right.name, right.operation) for right in stated_rights()}
REFUSAL = {"topic": "TopicAuthorizationFailedError", "group": "GroupAuthorizationFailedError"}

pytestmark = pytest.mark.timeout(180)
opens_clients = pytest.mark.usefixtures("rubbish_collected")


@pytest.fixture(scope="module")
def attempts(secured: SecuredKafka) -> Mapping[str, Attempts]:
    """Everything that everybody tried, at the same time; each topic holds a record that may be read."""
    with opened(KafkaProducer, settings_of(secured, ADMIN)) as producer:
        for topic in TOPICS:
            wrote(producer, topic.name)
    with ThreadPoolExecutor(len(EVERYBODY)) as together:
        found = together.map(lambda user: tried(settings_of(secured, user)), EVERYBODY)
        return dict(zip(EVERYBODY, found, strict=True))


def outcome(attempts: Mapping[str, Attempts], user: str, kind: str, name: str, operation: str) -> str:
    came_to = attempts[user].came_to[kind, name, operation]
    return "refused" if came_to in {REFUSAL[kind], "AuthorizationError"} else came_to


@pytest.mark.parametrize("operation", ["READ", "WRITE"])
@pytest.mark.parametrize("topic", [topic.name for topic in TOPICS])
@pytest.mark.parametrize("user", EVERYBODY)
def test_a_topic_is_read_and_written_by_whoever_the_page_says_and_by_nobody_else(
    attempts: Mapping[str, Attempts], user: str, topic: str, operation: str
) -> None:
    stated = (user, "topic", topic, operation) in STATED

    assert outcome(attempts, user, "topic", topic, operation) == ("done" if stated else "refused")


@pytest.mark.parametrize("group", [topic.group for topic in QUEUES])
@pytest.mark.parametrize("user", EVERYBODY)
def test_a_group_is_worked_in_by_whoever_the_page_says_and_by_nobody_else(
    attempts: Mapping[str, Attempts], user: str, group: str
) -> None:
    works = (user, "group", group, "READ") in STATED
    looks = works or (user, "group", group, "DESCRIBE") in STATED  # to work in a group includes to look at it

    assert outcome(attempts, user, "group", group, "READ") == ("done" if works else "refused")
    assert outcome(attempts, user, "group", group, "DESCRIBE") == ("done" if looks else "refused")


@pytest.mark.parametrize("user", EVERYBODY)
def test_nobody_looks_at_other_groups_makes_other_topics_deletes_topics_or_sees_rights(
    attempts: Mapping[str, Attempts], user: str
) -> None:
    came_to = attempts[user].came_to

    assert came_to["group", "of-nobody", "DESCRIBE"] == REFUSAL["group"]
    assert came_to["topic", "of-nobody", "CREATE"] == REFUSAL["topic"]
    assert came_to["topic", TOPICS[0].name, "DELETE"] == REFUSAL["topic"]
    assert came_to["cluster", "rights", "DESCRIBE"] == "ClusterAuthorizationFailedError"


@opens_clients
@pytest.mark.parametrize("user", EVERYBODY)
def test_an_idempotent_producer_needs_no_more_than_a_topic_to_write(secured: SecuredKafka, user: str) -> None:
    with opened(KafkaProducer, settings_of(secured, user), enable_idempotence=True) as producer:
        own = next((right.name for right in sorted(rights()) if (right.user, right.operation) == (user, "WRITE")), None)
        if user in WRITERS:
            assert wrote(producer, str(own)) > 0
        else:
            assert own is None
            with pytest.raises(KafkaError, match="AuthorizationFailed"):
                wrote(producer, TOPICS[0].name)


@opens_clients
@pytest.mark.parametrize(
    "different",
    [
        {"kafka_password": "another password"},
        {"kafka_user": "nobody-we-know"},
        {"profile": "laptop", "kafka_user": None, "kafka_password": None},
        {"profile": "laptop", "kafka_user": None, "kafka_password": None, "kafka_tls": False},
        {"profile": "laptop", "kafka_tls": False},
    ],
    ids=["wrong password", "unknown user", "anonymous", "anonymous without TLS", "without TLS"],
)
def test_who_does_not_prove_who_they_are_is_not_let_in(secured: SecuredKafka, different: Mapping[str, object]) -> None:
    config = client_config(settings_of(secured, "otp", **different))

    with pytest.raises(KafkaError):
        open_client(KafkaAdminClient, WITHIN / 20, **config)


@opens_clients
def test_rights_are_given_once_and_what_is_unknown_is_taken_away_only_when_told_so(secured: SecuredKafka) -> None:
    admin = settings_of(secured, ADMIN)
    foreign, forgotten = (
        ACL(
            f"User:{user}",
            "*",
            ACLOperation.READ,
            ACLPermissionType.ALLOW,
            ResourcePattern(ResourceType.TOPIC, "forgotten"),
        )
        for user in ("somebody-else", "lagwatch")
    )
    with opened(KafkaAdminClient, admin) as client:
        assert client.create_acls([foreign, forgotten])["failed"] == []

    again = apply_rights(admin)
    pruned = apply_rights(admin, prune=True)
    after = apply_rights(admin)

    assert (again.new, again.there, again.unknown) == ([], sorted(rights()), [forgotten])
    assert told(forgotten) == "User:lagwatch: allows READ on topic forgotten (literal, from *)"
    assert (pruned.new, pruned.unknown) == ([], [forgotten])
    assert (after.there, after.unknown) == (sorted(rights()), [])
    more = frozenset({*rights(), Right("somebody-else", "topic", "forgotten", "READ")})
    assert apply_rights(admin, more).new == [], "the right of a stranger was not touched"
