"""What our clients say when they are not let in, never that the broker is away, and their recovery."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from pathlib import Path

import pytest
from kafka import TopicPartition
from kafka.admin import KafkaAdminClient
from kafka.structs import OffsetAndMetadata
from prometheus_client import CollectorRegistry

from deploy.create_topics import Topic, create_topics
from deploy.kafka_acls import Right, apply_rights
from services.chassis.inbox_metrics import InboxMetrics
from services.chassis.kafka_client import Refused, Trouble, client_config, open_client, trouble_of
from services.chassis.kafka_producer import BrokerAway, Producer, producing
from services.chassis.kafka_rights import let_in
from services.chassis.ordered_inbox import OrderedInbox, inbox_running
from services.chassis.record_fate import Record
from services.chassis.telemetry import Health
from tests.conditions import eventually
from tests.integration.security.attempts import opened
from tests.servers.secured_kafka import ADMIN, STRANGER, SecuredKafka, settings_of

WITHIN = timedelta(seconds=2)  # of which an answer needs a part: a broker that refuses a password waits 0.1 s
PATIENCE_S = 60
WRONG = "the wrong password"

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.usefixtures("rubbish_collected"),
    # kafka-python leaves the sockets of attempts that failed to the garbage collector.
    pytest.mark.filterwarnings("ignore:.*socket:pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def _records_keep_no_sockets(caplog: pytest.LogCaptureFixture) -> None:
    """Let kafka-python log nothing: pytest keeps its records, they its errors, and those the sockets they came from."""
    caplog.set_level(logging.CRITICAL, logger="kafka")


def new_topic(secured: SecuredKafka) -> str:
    name = f"letters-{uuid.uuid4()}"
    create_topics(settings_of(secured, ADMIN), topics=(Topic(name, 1, 3_600_000),))
    return name


async def give(secured: SecuredKafka, *rights: tuple[str, str, str]) -> None:
    wanted = frozenset(Right(STRANGER, kind, name, operation) for kind, name, operation in rights)
    await asyncio.to_thread(apply_rights, settings_of(secured, ADMIN), wanted)


async def refusal_of(producer: Producer, topic: str, trouble: Trouble) -> BrokerAway:
    """Write until it is refused for this reason: the first tries may come before the client has looked."""
    refusals: list[BrokerAway] = []

    async def refused() -> bool:
        try:
            await producer.write(topic, b"key", b"value", [], within=timedelta(seconds=10))
        except BrokerAway as error:
            refusals.append(error)
            return error.trouble is trouble
        raise AssertionError("it was written")

    look: Callable[[], bool | Awaitable[bool]] = refused
    await eventually(look, within_s=PATIENCE_S, what=f"refused: {trouble}")
    return refusals[-1]


@pytest.mark.parametrize(
    ("different", "trouble", "look_at"),
    [
        ({"kafka_password": WRONG}, Trouble.DENIED, "_KAFKA_PASSWORD"),
        ({"kafka_user": "nobody-we-know"}, Trouble.DENIED, "_KAFKA_USER"),
        ({"kafka_ca_file": "other"}, Trouble.BROKER_UNTRUSTED, "_KAFKA_CA_FILE"),
        ({"kafka_ca_file": Path("nowhere.pem")}, Trouble.BROKER_UNTRUSTED, "_KAFKA_CA_FILE"),
        ({"kafka_ca_file": None}, Trouble.BROKER_UNTRUSTED, "_KAFKA_CA_FILE"),  # the system's know nothing of ours
    ],
    ids=["password", "user", "authority", "no file", "authorities of the system"],
)
def test_whoever_opens_a_client_is_told_which_setting_to_look_at(
    secured: SecuredKafka, different: dict[str, object], trouble: Trouble, look_at: str
) -> None:
    if different.get("kafka_ca_file") == "other":
        different = {"kafka_ca_file": secured.other_ca_file}

    with pytest.raises(Refused, match=look_at) as error:
        open_client(KafkaAdminClient, WITHIN, **client_config(settings_of(secured, "otp", **different)))

    assert error.value.trouble is trouble
    assert WRONG not in str(error.value)


def test_a_broker_that_is_not_there_is_away_and_nothing_else(secured: SecuredKafka) -> None:
    with pytest.raises(Exception, match="Unable to bootstrap") as error:
        open_client(KafkaAdminClient, WITHIN, **client_config(settings_of(secured, "otp", kafka_brokers="127.0.0.1:1")))

    assert trouble_of(error.value) is Trouble.BROKER_AWAY


@pytest.mark.parametrize(
    ("lacking", "told"),
    [
        ((), r"stranger needs READ on topic letters-\S+ and READ on group"),
        ((("topic", "READ"),), r"stranger needs READ on group"),
        ((("group", "READ"),), r"stranger needs READ on topic letters-\S+\)"),
        ((("topic", "DESCRIBE"), ("group", "DESCRIBE")), r"READ on topic letters-\S+ and READ on group"),
    ],
    ids=["nothing", "no group", "no topic", "may only look"],
)
def test_the_right_that_a_consumer_lacks_is_named(
    secured: SecuredKafka, lacking: tuple[tuple[str, str], ...], told: str
) -> None:
    topic, group = new_topic(secured), f"group-{uuid.uuid4()}"
    names: Mapping[str, str] = {"topic": topic, "group": group}
    with opened(KafkaAdminClient, settings_of(secured, ADMIN)) as admin:
        admin.alter_group_offsets(group, {TopicPartition(topic, 0): OffsetAndMetadata(0, "", leader_epoch=-1)})
    asyncio.run(give(secured, *((kind, names[kind], operation) for kind, operation in lacking)))

    with pytest.raises(Refused, match=told) as error:
        let_in(settings_of(secured, STRANGER), topic=topic, group=group)

    assert error.value.trouble is Trouble.DENIED


async def test_a_producer_that_may_not_write_says_so_and_writes_once_it_may(
    secured: SecuredKafka, capfd: pytest.CaptureFixture[str]
) -> None:
    topic = await asyncio.to_thread(new_topic, secured)
    async with producing(settings_of(secured, STRANGER), "test") as producer:
        unseen = await refusal_of(producer, topic, Trouble.DENIED)
        assert "deploy/kafka_acls.py" in str(unseen)
        assert "record_refused" in capfd.readouterr().out

        await give(secured, ("topic", topic, "DESCRIBE"))  # then the broker refuses an id, which spoils the client
        await refusal_of(producer, topic, Trouble.DENIED)
        await refusal_of(producer, topic, Trouble.DENIED)

        await give(secured, ("topic", topic, "WRITE"))

        async def written() -> bool:
            with contextlib.suppress(BrokerAway):
                await producer.write(topic, b"key", b"value", [], within=timedelta(seconds=10))
                return True
            return False

        look: Callable[[], bool | Awaitable[bool]] = written
        await eventually(look, within_s=PATIENCE_S, what="written with the new right")


@pytest.mark.parametrize(
    ("different", "trouble"),
    [({"kafka_password": WRONG}, Trouble.DENIED), ({"kafka_ca_file": "other"}, Trouble.BROKER_UNTRUSTED)],
    ids=["password", "authority"],
)
async def test_a_producer_that_is_not_let_in_says_why_and_not_the_password(
    secured: SecuredKafka, different: dict[str, object], trouble: Trouble, capfd: pytest.CaptureFixture[str]
) -> None:
    if "kafka_ca_file" in different:
        different = {"kafka_ca_file": secured.other_ca_file}
    async with producing(settings_of(secured, "otp", **different), "test") as producer:
        error = await refusal_of(producer, "otp.code-requested.v1", trouble)
        heard = [str(error)]

        def told() -> bool:
            heard.append(capfd.readouterr().out)
            return "dependency_not_there" in "".join(heard)

        await eventually(told, within_s=PATIENCE_S, what="a word about it")

    assert f"reason={trouble}" in "".join(heard)
    assert WRONG not in "".join(heard)


class Shelf:
    """Keeps what it is handed."""

    def __init__(self) -> None:
        self.values: list[bytes] = []

    async def __call__(self, record: Record) -> None:
        self.values.append(record.value)


@pytest.mark.parametrize("lacking", ["topic", "group"])
async def test_a_consumer_that_may_not_read_says_so_and_reads_once_it_may(secured: SecuredKafka, lacking: str) -> None:
    topic, group = await asyncio.to_thread(new_topic, secured), f"group-{uuid.uuid4()}"
    names = {"topic": topic, "group": group}
    rights = {kind: (kind, name, "READ") for kind, name in names.items()}
    await give(secured, *(right for kind, right in rights.items() if kind != lacking))
    health, registry, shelf = Health(), CollectorRegistry(), Shelf()
    async with producing(settings_of(secured, ADMIN), "test") as producer:
        await eventually(lambda: producer.connected, within_s=PATIENCE_S)
        await producer.write(topic, b"key", b"waits", [], within=timedelta(seconds=20))
        inbox = OrderedInbox(
            settings_of(secured, STRANGER),
            group=group,
            topic=topic,
            handle=shelf,
            producer=producer,
            metrics=InboxMetrics.on(registry),
            health=health,
        )
        async with inbox_running(inbox):
            await eventually(lambda: refusals(registry, topic, Trouble.DENIED) >= 2, within_s=PATIENCE_S)
            assert health.missing == [f"inbox {topic} (denied)"]

            await give(secured, rights[lacking])

            await eventually(lambda: shelf.values == [b"waits"], within_s=PATIENCE_S)
            assert health.ready
            assert refusals(registry, topic, Trouble.BROKER_UNTRUSTED) == 0


@pytest.mark.parametrize(
    ("different", "trouble"),
    [({"kafka_password": WRONG}, Trouble.DENIED), ({"kafka_ca_file": "other"}, Trouble.BROKER_UNTRUSTED)],
    ids=["password", "authority"],
)
async def test_a_consumer_that_is_not_let_in_says_why_and_not_the_password(
    secured: SecuredKafka, different: dict[str, object], trouble: Trouble, capfd: pytest.CaptureFixture[str]
) -> None:
    if "kafka_ca_file" in different:
        different = {"kafka_ca_file": secured.other_ca_file}
    health, registry = Health(), CollectorRegistry()
    inbox = OrderedInbox(
        settings_of(secured, "otp", **different),
        group="otp",
        topic="mail.delivery.otp.v1",
        handle=Shelf(),
        producer=Producer(settings_of(secured, ADMIN), "never opened"),
        metrics=InboxMetrics.on(registry),
        health=health,
    )
    async with inbox_running(inbox):
        await eventually(lambda: refusals(registry, "mail.delivery.otp.v1", trouble) >= 1, within_s=PATIENCE_S)
        assert health.missing == [f"inbox mail.delivery.otp.v1 ({trouble})"]
    said = capfd.readouterr().out

    assert trouble.value in said
    assert WRONG not in said


def refusals(registry: CollectorRegistry, topic: str, trouble: Trouble) -> float:
    count = registry.get_sample_value("inbox_refusals_total", {"topic": topic, "reason": trouble.value})
    assert count is not None
    return count
