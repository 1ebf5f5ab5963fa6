"""otp and the mailer on a Redis Cluster that loses a primary: what was promised is kept, and codes go on."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from tests.conditions import wait_until
from tests.e2e.mailbox import code_in, mail_to
from tests.e2e.portal import Citizen, Portal, refused
from tests.e2e.stacks import Running, create_topics, new_stack
from tests.servers.valkey_cluster import ValkeyCluster

TAKEN_OVER_WITHIN_S = 60.0
CITIZENS = 12  # their shards are on every primary, but for one in a hundred runs

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def clustered(tmp_path_factory: pytest.TempPathFactory, redis_cluster: ValkeyCluster) -> Iterator[Running]:
    """What a code needs, with an otp and a mailer that remember in the cluster, and an otp that waits for a replica."""
    url = redis_cluster.url
    settings = {
        "otp": {"OTP_REDIS_URL": url, "OTP_REDIS_CLUSTER": "true", "OTP_REDIS_REPLICAS": "1"},
        "mailer": {"MAILER_REDIS_URL": url, "MAILER_REDIS_CLUSTER": "true"},
    }
    running = new_stack(tmp_path_factory.mktemp("clustered"), settings)
    stack = running.stack
    try:
        for names in (("kafka", "inbox"), ("otp", "mailer")):
            with ThreadPoolExecutor(len(names)) as apart:
                list(apart.map(lambda name: stack[name].start(), names))
            if "kafka" in names:
                create_topics(stack)
        yield running
    finally:
        stack.stop()


def asked(portal: Portal, citizen: Citizen) -> str:
    """Return a handle, asking again under the same key while the store is away."""
    key = citizen.subject

    def answered() -> str:
        try:
            return portal.request(citizen, key=key).handle
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return ""

    return wait_until(answered, within_s=TAKEN_OVER_WITHIN_S, what="a handle")


def test_without_a_replica_nothing_is_promised_and_the_same_request_is_kept_for_it(
    clustered: Running, redis_cluster: ValkeyCluster
) -> None:
    citizen = Citizen("alone")
    with clustered.portal() as portal, redis_cluster.hasty():
        for primary in redis_cluster.primaries():
            redis_cluster.cut_off(primary)
        refusal = refused(lambda: portal.request(citizen, key=citizen.subject))
        again = refused(lambda: portal.request(citizen, key=citizen.subject))
        for primary in redis_cluster.primaries():
            redis_cluster.let_follow(primary)

        handle = asked(portal, citizen)

        assert portal.outcome(handle, code_in(mail_to(clustered.inbox, citizen.email))) == "accepted"
    assert (refusal.reason, again.reason) == ("STORE_UNAVAILABLE", "STORE_UNAVAILABLE")
    assert refusal.status is grpc.StatusCode.UNAVAILABLE


def test_codes_outlive_the_primary_that_had_them(clustered: Running, redis_cluster: ValkeyCluster) -> None:
    before, after = ([Citizen(f"{when}-{number}") for number in range(CITIZENS)] for when in ("before", "after"))
    with clustered.portal() as portal, redis_cluster.hasty():
        handles = [asked(portal, citizen) for citizen in before]
        codes = [code_in(mail_to(clustered.inbox, citizen.email)) for citizen in before]
        primary = redis_cluster.primary_of("{s00}")
        replica, epoch = redis_cluster.replica_of(primary), redis_cluster.epoch()

        primary.kill()

        wait_until(
            lambda: replica.told("replication")["role"] == "master", within_s=TAKEN_OVER_WITHIN_S, what="a failover"
        )
        primary.start()  # or there is no replica to wait for
        handles += [asked(portal, citizen) for citizen in after]
        codes += [code_in(mail_to(clustered.inbox, citizen.email)) for citizen in after]
        outcomes = [portal.outcome(handle, code) for handle, code in zip(handles, codes, strict=True)]

    assert redis_cluster.epoch() > epoch
    assert outcomes == ["accepted"] * len(handles)
    assert sum(int(node.ask("DBSIZE")) > 0 for node in redis_cluster.primaries()) == len(redis_cluster.primaries())
