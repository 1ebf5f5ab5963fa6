"""A real Kafka broker of one node (KRaft: it is its own controller), on loopback, on a directory of its own.

Settings beyond the ordinary, each measured on a machine of two cores: a broker that was killed is let in again after
its session ends, 3 s instead of 9 (`broker.session.timeout.ms`); internal topics have 2 partitions instead of 50,
which are files to open at each start; a group does not wait 3 s for more members; the cleaner's buffer is 8 MB instead
of 128. The voter is named statically, so the same directory may be started on other ports.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import time
from pathlib import Path

from deploy.dev.cache_folder import one_at_a_time
from deploy.dev.kafka_runtime import KafkaRuntime, kafka_runtime
from deploy.dev.server_process import ServerProcess
from deploy.dev.terminal import Terminal

PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{broker}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
log.dirs={logs}
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
num.network.threads=2
num.io.threads=4
log.cleaner.dedupe.buffer.size=8388608
# Topics with a retention of minutes keep it: look every half minute, not every five.
log.retention.check.interval.ms=30000
# What no topic setting bounds is bounded for a laptop's disk.
log.retention.hours=24
log.segment.bytes=67108864
offsets.topic.replication.factor=1
offsets.topic.num.partitions=2
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=2
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=2
"""

LOGGING = """\
status=warn
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d %p %m (%c)%n
rootLogger.level=warn
rootLogger.appenderRef.out.ref=out
"""

RECORD_WITHIN_S = 300  # writing the start-up cache takes 8 s of a free core


class KafkaBroker(ServerProcess):
    """The broker of one directory; `address` is what clients bootstrap from.

    Args:
        directory: data, configuration and log; kept at `stop` and `kill`.
        port: None for a free one. The same for `controller_port`.
        runtime: for the run that records the start-up cache; by default from the cache folder, made when not there.
        terminal: who hears of downloads.
    """

    def __init__(
        self,
        directory: Path,
        port: int | None = None,
        *,
        controller_port: int | None = None,
        log: Path | None = None,
        runtime: KafkaRuntime | None = None,
        terminal: Terminal | None = None,
    ) -> None:
        ports = {"kafka": port, "kafka.controller": controller_port}
        super().__init__("kafka", log or directory / "kafka.log", ports, start_within_s=90)
        self._directory = directory.absolute()
        self._terminal = terminal or Terminal(None)
        self._runtime = runtime

    @property
    def address(self) -> str:
        """Host and port of the broker."""
        return self.addresses()["kafka"]

    def prepare(self) -> None:
        """Make the runtime and write the configuration; a new directory gets a formatted log."""
        runtime = self._prepared_runtime()
        self._directory.mkdir(parents=True, exist_ok=True)
        logs = self._directory / "data"
        if not (logs / "meta.properties").exists():
            shutil.copytree(runtime.formatted, logs, dirs_exist_ok=True)
        ports = {"broker": self.port("kafka"), "controller": self.port("kafka.controller")}
        self._properties.write_text(PROPERTIES.format(logs=logs, **ports))
        self._logging.write_text(LOGGING)

    def command(self) -> list[str]:
        """Run the broker's main class."""
        log4j = f"-Dlog4j2.configurationFile={self._logging}"
        return self._prepared_runtime().command("kafka.Kafka", self._properties, flags=(log4j,))

    def environment(self) -> dict[str, str]:
        """Return the launcher's environment without what people set for other JVMs."""
        return {
            name: value for name, value in os.environ.items() if not name.startswith(("JAVA_", "JDK_JAVA_", "KAFKA_"))
        }

    def is_ready(self) -> bool:
        """Connect: a KRaft broker opens its port only when it was let into the cluster."""
        try:
            socket.create_connection(("127.0.0.1", self.port("kafka")), timeout=0.5).close()
        except OSError:
            return False
        return True

    @property
    def _properties(self) -> Path:
        return self._directory / "server.properties"

    @property
    def _logging(self) -> Path:
        return self._directory / "log4j2.properties"

    def _prepared_runtime(self) -> KafkaRuntime:
        if self._runtime is None:
            self._runtime = kafka_runtime(self._terminal)
            _record_startup_cache_once(self._runtime, self._terminal)
        return self._runtime


def _record_startup_cache_once(runtime: KafkaRuntime, terminal: Terminal) -> None:
    if runtime.startup_cache.exists():
        return
    with one_at_a_time(runtime.startup_cache.with_suffix(".lock"), terminal, "making Kafka's start-up cache"):
        if runtime.startup_cache.exists():
            return
        terminal.progress("kafka: making its start-up cache, once (about 15 s)")
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="startup-", dir=runtime.startup_cache.parent) as beside:
            fresh = Path(beside) / "startup.aot"
            broker = KafkaBroker(Path(beside) / "broker", runtime=runtime.recording_startup_cache(fresh))
            broker.start()
            broker.terminate(grace_s=RECORD_WITHIN_S)
            if not fresh.exists():
                terminal.line("kafka: its start-up cache could not be made; it runs without, and starts 2 s later")
                return
            fresh.replace(runtime.startup_cache)
        terminal.line(f"kafka: start-up cache made in {time.monotonic() - started:.1f} s")
